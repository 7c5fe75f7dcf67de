"""What a command answers: one JSON object, or a few readable lines or a table, on stdout; errors on stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec
import tomli_w

from rlhf_lite import exports
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.figures import interval, kept, number, size
from rlhf_lite.project import unscored

VERDICTS = {"a": "for A", "b": "for B", "tie": "ties", "both_bad": "both bad", "skipped": "skipped"}
HEADLINES = ("pairs", "labelled", "accuracy", "score_last", "kl_last", "win_rate", "bytes")
REFUSED_SHOWN = 10
UNSCORED = "no reward model or judge scored these answers"
# A model's output is a stranger's text: it could else clear the screen, set the title or hide what it says.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text without terminal control sequences, other control characters and writing-direction overrides."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


class StoppedByUser(RlhfLiteError):
    """Ctrl-C, and everything worth keeping is saved. ``result`` is what the job reported before it stopped."""

    exit_code = 130

    def __init__(
        self, message: str, *, why: str = "", hint: str = "", result: dict[str, object] | None = None
    ) -> None:
        super().__init__(message, why=why, hint=hint)
        self.result = result or {}


class Output(Enum):
    """What stdout carries: the answer for people, one JSON object, or the run's events."""

    TEXT = "text"
    JSON = "json"
    EVENTS = "events"


def emit_json(values: object) -> None:
    """One JSON object and a newline."""
    sys.stdout.write(msgspec.json.encode(values).decode() + "\n")
    sys.stdout.flush()


def fail(error: RlhfLiteError, output: Output, found: Mapping[str, object] | None = None) -> None:
    """What happened, why, what to do next: on stderr, and with ``--json`` as one object on stdout too, beside what was
    ``found`` all the same."""
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    sys.stderr.write(f"{bold}{printable(error.message)}{plain}\n")
    sys.stderr.writelines(f"  {printable(part)}\n" for part in (error.why, error.hint) if part)
    if output is Output.JSON:
        parts = {"kind": type(error).__name__, "message": error.message, "why": error.why, "hint": error.hint}
        found = error.result if isinstance(error, StoppedByUser) else found
        emit_json({**(found or {}), "error": {**parts, "exit_code": error.exit_code}})


def aside(text: str) -> None:
    """One line to the person, on stderr."""
    sys.stderr.write(printable(text) + "\n")


def line(text: str) -> None:
    """One line of the answer, as it is."""
    sys.stdout.write(printable(text) + "\n")


def table(*columns: str, rows: list[list[str]], title: str = "") -> None:
    """A table on stdout; the first column left, the others as they come."""
    from rich.console import Console  # 50 ms that --help need not pay
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    grid = Table(
        *columns,
        title=printable(title) or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    if not console.is_terminal:
        console.width = max(120, console.width)  # a pipe has no width to fit
    console.print(grid)


def evaluation(values: Mapping[str, Any]) -> None:
    """Base against tuned, a column for each policy that was compared."""
    runs: dict[str, Any] = dict(values.get("runs") or {"tuned": values})
    sides: list[dict[str, Any]] = [
        values.get("base") or {},
        *(found.get("tuned") or {} for found in runs.values()),
    ]
    compared: list[dict[str, Any]] = [{}, *runs.values()]
    names = {"score": ("reward", ".2f"), "tokens": ("tokens an answer", ".1f"), "eos_rate": ("ends by itself", ".0%"),
             "distinct_2": ("distinct bigrams", ".2f")}  # fmt: skip
    rows = [[label, *(number(side.get(key), form) for side in sides)] for key, (label, form) in names.items()]
    rows.append(["KL to the base", *(number(one.get("kl")) for one in compared)])
    rows.append(["wins/losses/ties", *(_score_line(one) for one in compared)])
    rows.append(
        ["win rate", *(interval(one.get("win_rate"), one.get("win_rate_interval")) for one in compared)]
    )
    rows.append(["... of the decided", *(interval(one.get("decided_win_rate"), None) for one in compared)])
    rows.append(["greedy", *(_score_line(one.get("greedy") or {}) for one in compared)])
    measured = [row for row in rows if any(cell != "-" for cell in row[1:])]
    title = f"on {values.get('prompts', '?')} held-out prompts"
    table("", "base", *runs, rows=measured, title=title)
    if unscored(values):
        line(f"{UNSCORED}, so there is no win rate.".capitalize())
        line(
            "Your blind votes give one, on the app's Compare page; --judge FILE.py:FUNC lets a function decide."
        )


def _score_line(found: Mapping[str, Any]) -> str:
    counts = [found.get(key) for key in ("wins", "losses", "ties")]
    return "-" if None in counts else "/".join(map(str, counts))


def trained(values: Mapping[str, Any]) -> None:
    """What a training stage found, in a line or two."""
    first, *rest = trained_words(values)
    line(f"{values.get('run')}: {first}")
    for words in rest:
        line(f"  {words}")


def trained_words(values: Mapping[str, Any]) -> list[str]:
    """The same as sentences, for the screens too."""
    if "accuracy" in values:
        accuracy = interval(values["accuracy"], values.get("accuracy_interval"))
        base = values.get("length_baseline")
        beside = "" if base is None else f"; a rule that looks at length only: {interval(base, None)}"
        found = [
            f"right on {accuracy} of {values.get('pairs_heldout')} held-out pairs",
            f"trained on {values.get('pairs_train')}{beside}",
        ]
        if "kl_best" in values:  # of DPO
            steps = f"step {values.get('best_step')} of {values.get('steps')}"
            found.append(f"kept {steps}, KL {number(values['kl_best'])}; stopped: {values.get('stopped')}")
        return found
    if "score_last" in values:
        first, last = number(values.get("score_first")), number(values["score_last"])
        return [
            f"reward {first} -> {last} at KL {number(values.get('kl_last'))}",
            f"{values.get('steps')} steps, {values.get('episodes')} episodes, stopped: {values.get('stopped')}",
        ]
    return [
        ", ".join(f"{key} {value:.3g}" for key, value in values.items() if isinstance(value, int | float))
    ]


def exported(values: Mapping[str, Any]) -> None:
    """Where the files are, how near each is to the tuned model, and what reads them."""
    for made in values.get("files") or [values]:
        line(f"{made.get('path')}  ({made.get('quant')}, {size(made.get('bytes') or 0)})")
        line(f"  {proven(made)}")
    for command in exports.commands(values):
        line(f"  {command}")


def proven(made: Mapping[str, Any]) -> str:
    """How near an exported file is to the tuned model, in words for the screens too."""
    parity: Mapping[str, Any] = made.get("parity") or {}
    if not parity:
        return "the adapter as it was trained; nothing is merged"
    agreement, kl = interval(parity.get("top1_agreement"), None), number(parity.get("mean_kl"), ".2g")
    word = "equal to the tuned model" if parity.get("passed") else "NOT equal to the tuned model"
    near = f"same next token in {agreement}, mean KL {kl}, over {parity.get('prompts')} prompts"
    return "; ".join(part for part in (f"{word}: {near}", kept(parity)) if part)


def downloaded(values: Mapping[str, Any]) -> None:
    """Where the model lies."""
    line(f"{values['model']} ({size(values['bytes'])}): {values['folder']}")


def generated(values: Mapping[str, Any]) -> None:
    """How many pairs came out."""
    line(f"{values['pairs']} pairs on {values['prompts']} prompts in {values['seconds']} s")


def labelled(values: Mapping[str, Any]) -> None:
    """What a sitting of labelling, or a judge, said."""
    said = ", ".join(f"{values.get(key, 0)} {word}" for key, word in VERDICTS.items())
    line(f"{values['labelled']} labelled: {said}")


def taken_in(values: Mapping[str, Any], key: str, what: str) -> None:
    """What came in from files, and what was refused and why."""
    refused = values["refused"]
    line(f"{values[key]} {what} {key}, {values['duplicates']} known already, {len(refused)} refused")
    for row in refused[:REFUSED_SHOWN]:
        line(f"  {row.file}:{row.line}: {row.why}")
    if len(refused) > REFUSED_SHOWN:
        line(f"  ... and {len(refused) - REFUSED_SHOWN} more; --json has them all")


def project(values: Mapping[str, Any]) -> None:
    """Where a project stands."""
    labels = values["labels"]
    decided = labels["a"] + labels["b"]
    basis = f"{values['model']}, {values['quantization']}, preset {values['preset']}, seed {values['seed']}"
    line(f"{values['name']}: {basis}")
    line(
        f"  {labels['prompts']} prompts, {labels['pairs']} pairs, {labels['labelled']} labelled ({decided} decided)"
    )
    line(f"  reward model: {values['reward'] or 'none yet'}; policy: {values['policy'] or 'none yet'}")
    for name in values["running"]:
        line(f"  running now: {name}")
    line(f"  next, {values['next']['why']}: {values['next']['command']}")


def runs(found: list[dict[str, Any]]) -> None:
    """Runs, one a row, oldest first."""
    rows: list[list[str]] = []
    for run in found:
        done, total = next(reversed(run["progress"].values()), (0, 0))
        result = "; ".join(
            f"{k} {v:.3g}" for k, v in run["result"].items() if k in HEADLINES and isinstance(v, int | float)
        )
        words = run["failure"] or result or (UNSCORED if unscored(run["result"]) else "")
        rows.append([run["run"], run["state"], f"{done}/{total}" if total else "", words])
    table("run", "state", "done", "found", rows=rows)


def plan(values: Mapping[str, Any], room: str) -> None:
    """The memory each stage needs, and whether ``room``, in words, does."""
    rows = [
        [
            stage,
            size(need["bytes"]),
            {True: "on", False: "off", None: "-"}[need["checkpointing"]],
            ", ".join(f"{name.replace('_', ' ')} {size(n)}" for name, n in need["items"].items()),
        ]
        for stage, need in values["stages"].items()
    ]
    table(
        "stage",
        "needs",
        "checkpointing",
        "of which",
        rows=rows,
        title=f"{values['model']}, {values['quantization']}",
    )
    if values["fits"] is not None:
        line(f"fits: {room}" if values["fits"] else f"does not fit: {room}; {values['hint']}")


def toml(values: dict[str, Any]) -> None:
    """Settings as a preset file spells them."""
    line(tomli_w.dumps(values).rstrip())


def checks(found: list[Any]) -> None:
    """What was looked at on this machine."""
    table("", "part", "found", rows=[["ok" if c.ok else "missing", c.name, c.detail] for c in found])
    for check in found:
        if not check.ok and check.hint:
            line(f"{check.name}: {check.hint}")
