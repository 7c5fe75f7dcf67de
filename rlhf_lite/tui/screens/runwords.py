"""How a run is told in one row, and in a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from statistics import median

from rich.text import Text

from rlhf_lite import health, history, report, signs
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.tui.feed import Watched

MARKS: dict[signs.Level, str] = {"ok": "", "watch": "≈ ", "bad": "✘ "}
LAST = 10  # steps whose median is what a run ends with
COLUMNS = (("run", 13), ("when", 12), ("steps", 7), ("reward", 6), ("KL", 5), ("size", 9))
LEFT_OUT = ((90, "size"), (74, "when"), (64, "steps"))
"""Below so many columns, which of them goes: what is left tells more."""


@dataclass(frozen=True)
class Verdict:
    """What was found by looking at the run's files: ``words`` of what came of it, and its bytes."""

    words: str
    bytes: int
    level: signs.Level = "ok"
    action: str = ""


def size(count: int) -> str:
    return report.size(count)


def verdict(watched: Watched) -> Verdict:
    """Reads the run's settings and folder: for a thread."""
    status, bytes = watched.status, history.size(watched.run)
    failure = status.failure
    if watched.state == "failed" and failure:
        return Verdict(f"failed: {failure.message}", bytes, "bad", failure.hint)
    if watched.state in ("died", "new"):
        words = "ended without a word" if watched.state == "died" else "was never started"
        return Verdict(words, bytes, "bad", "l shows its log")
    stopped = "stopped early; " if watched.state == "stopped" else ""
    found = _healthy(watched)
    if found:
        return Verdict(stopped + found.words, bytes, found.level, found.action)
    told = report.trained_words(status.result) if status.result and status.metrics else []
    return Verdict(stopped + (told[0] if told else watched.state if not stopped else "saved"), bytes)


def _healthy(watched: Watched) -> health.Health | None:
    if watched.run.stage == "reward" and watched.status.result:
        return health.of_reward(watched.status)
    if watched.run.stage == "ppo" and watched.status.metrics:
        try:
            return health.of_ppo(watched.status, watched.run.settings().preset.ppo)
        except RlhfLiteError:  # settings of another version
            return None
    return None


def _columns(width: int) -> list[tuple[str, int]]:
    gone = {name for below, name in LEFT_OUT if width < below}
    return [(name, wide) for name, wide in COLUMNS if name not in gone]


def heading(width: int) -> Text:
    text = Text("  ", no_wrap=True, overflow="ellipsis")
    for name, wide in _columns(width):
        text.append(f"{name:<{wide}} " if name in ("run", "when") else f"{name:>{wide}} ")
    return text.append(" verdict")


def row(watched: Watched, found: Verdict | None, mark: str, width: int) -> Text:
    """One line of the table; of a run whose log nobody has read yet, what can be told without it."""
    known = not watched.untouched
    cells = {
        "run": f"{watched.run.number:04d} {watched.run.stage}",
        "when": when(watched),
        "steps": _steps(watched) if known else "",
        "reward": _last(watched, "objective/scores", "+.2f") if known else "",
        "KL": _kl(watched) if known else "",
        "size": size(found.bytes) if found else "",
    }
    text = Text(f"{mark} ", no_wrap=True, overflow="ellipsis")
    for name, wide in _columns(width):
        text.append(f"{cells[name]:<{wide}} " if name in ("run", "when") else f"{cells[name]:>{wide}} ")
    if watched.busy:
        return text.append(" running", "bold")
    mark = MARKS[found.level] if found else ""  # no colour: it would be lost on the highlighted row
    return text.append(f" {mark}{found.words if found else ''}", "bold" if mark else "")


def detail(watched: Watched, found: Verdict | None) -> Text:
    """What there is no room for in the row."""
    if watched.untouched:
        return Text(watched.run.name, "bold")
    status, text = watched.status, Text(watched.run.name, "bold")
    words = "is running" if watched.busy else found.words if found else watched.state
    there = f" · {size(found.bytes)}" if found else ""
    text.append(f" {when(watched)}{there} · {words}", "not bold")
    if found and found.action:
        text.append(f" Next: {found.action}.", "not bold")
    for warning in status.warnings[-2:]:
        text.append(f"\n{warning.text}", "not bold yellow")
    for change in status.changes[-1:]:
        why = f" ({change.why})" if change.why else ""
        text.append(f"\nstep {change.step}: {change.name} became {change.value:g}{why}", "not bold")
    return text


def when(watched: Watched) -> str:
    """When it was made; its frozen settings never change."""
    try:
        made = datetime.fromtimestamp((watched.run.folder / "settings.toml").stat().st_mtime)
    except OSError:
        return "?"
    today = datetime.now().date()
    if made.date() == today:
        return f"today {made:%H:%M}"
    return f"{made:%d %b %H:%M}" if made.year == today.year else f"{made:%d %b %Y}"


def _steps(watched: Watched) -> str:
    if watched.status.metrics:
        done = watched.status.metrics[-1].step
        totals = [total for _, (at, total) in watched.status.progress.items() if at == done]
        return f"{done}/{totals[-1]}" if totals and totals[-1] != done else str(done)
    return ""


def _kl(watched: Watched) -> str:
    """Of the checkpoint that was kept; until there is one, of the last steps."""
    kept = watched.status.result.get("kl_best")
    return f"{kept:z.1f}" if isinstance(kept, float) else _last(watched, "objective/kl", ".1f")


def _last(watched: Watched, metric: str, form: str) -> str:
    values = [m.values[metric] for m in watched.status.metrics[-LAST:] if metric in m.values]
    return format(median(values), form) if values else "-"
