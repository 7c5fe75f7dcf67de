"""What somebody who is to mend a fault wants to know, as text that may be shown to strangers.

Left out by design: prompts, answers and labels, which are the user's own; the log's lines are in it, though, and a log
may quote anything, so that the report asks its owner to read it over before it is sent.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

from rlhf_lite import __version__, config, doctor, jobs, paths, settings
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.project import Project, Run

LINES = 100  # of each log
HIDDEN = "<hidden>"
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "llama-cpp-python", "textual")
_SECRETS = (
    re.compile(r"\b(?:hf|ghp|gho|ghs|github_pat|glpat|sk|pk|xox[bp]|AIza|AKIA)[_-]?[A-Za-z0-9_-]{12,}"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),  # a web token
    re.compile(r"(?i)(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),  # name and password in an address
)
_NAMED = re.compile(
    r"""(?i)\b([\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|credential)s?["']?\s*[=:]\s*["']?)([^\s"',;&]{6,})"""
)
_VARIABLE = re.compile(r"(?i)token|secret|passw|api_?key|credential")


def redacted(text: str) -> str:
    """Without tokens, passwords, the values of variables that hold such, the home folder and the login name."""
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value) >= 8:
            text = text.replace(value, HIDDEN)
    for secret in _SECRETS:
        text = secret.sub(HIDDEN, text)
    text = _NAMED.sub(rf"\g<1>{HIDDEN}", text)
    for home in sorted({str(Path.home()), os.path.realpath(Path.home())}, key=len, reverse=True):
        if len(home) > 1:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    name = _login()
    return re.sub(rf"(?<=/){re.escape(name)}(?![\w.-])", "<me>", text) if len(name) > 1 else text


def text(project: Project | None, run: Run | None, *, terminal: str = "") -> str:
    """The whole report, redacted."""
    parts = [
        f"rlhf-lite {__version__} on Python {platform.python_version()}, {platform.platform()}\n{_libraries()}",
        f"terminal: {terminal}\n" + "".join(
            f"{name}={os.environ[name]}\n"
            for name in ("TERM", "TERM_PROGRAM", "COLORTERM", "NO_COLOR", "LANG") if os.environ.get(name)
        ),
        "Settings\n" + _settings(),
        *([_project(project)] if project else []),
        *([_run(run)] if run else []),
        f"The app's own log, its last {LINES} lines\n" + "\n".join(tail(app_log(), LINES)),
    ]  # fmt: skip
    return redacted("\n\n".join(part.strip() for part in parts) + "\n")


def write(report: str) -> Path:
    """Put a report into a file of its own beside the app's log, and say where.

    Raises:
        OSError: it cannot be written.
    """
    path = paths.state() / f"bug-report-{datetime.now():%Y-%m-%d-%H%M%S}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings.write_whole(path, report.encode())
    return path


def app_log() -> Path:
    """Where the app writes what went wrong in itself; need not exist."""
    return paths.state() / "app.log"


def tail(path: Path, lines: int, most: int = 256 * 1024) -> list[str]:
    """The last lines of a file, of at most ``most`` bytes; of a progress bar only its last state. None: no file."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - most)
            file.seek(start)
            found = file.read().decode(errors="replace").split("\n")
    except OSError:
        return []
    whole = found[1:] if start else found
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in whole]
    return (shown[:-1] if shown and not shown[-1] else shown)[-lines:]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def _libraries() -> str:
    found: list[str] = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found) + f"\n{sys.executable}"


def _settings() -> str:
    try:
        found = config.described()
    except RlhfLiteError as error:
        return f"{error.message}: {error.why}"
    rows = (f"{name} = {entry['value']}" for name, entry in found.items() if name != "name")
    checks = (f"{check.name}: {'ok' if check.ok else 'NOT ok'}, {check.detail}" for check in doctor.check())
    return "\n".join((*rows, *checks))


def _project(project: Project) -> str:
    file = project.file
    rows = [
        f"{run.name}: {'running' if jobs.alive(run) else run.status().ended or 'died'}"
        for run in project.runs()
    ]
    head = f"Project on {file.model}, {file.quantization}, preset {file.preset}, seed {file.seed}"
    return "\n".join((head, *rows[-20:]))


def _run(run: Run) -> str:
    status = run.status()
    said = [f"warning: {warning.text}" for warning in status.warnings[-5:]]
    if status.failure:
        failure = status.failure
        said.append(f"failed: {failure.kind}: {failure.message}. {failure.why} {failure.hint}")
    try:
        frozen = (run.folder / "settings.toml").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        frozen = str(error)
    log = "\n".join(tail(run.log_path, LINES))
    return f"Run {run.name}\n" + "\n".join((*said, frozen, f"its log, the last {LINES} lines", log))
