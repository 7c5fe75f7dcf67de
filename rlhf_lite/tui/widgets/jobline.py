"""How far long work is: a bar, the pace, the time left, and what was saved."""

from __future__ import annotations

import itertools
import statistics
import time

from rich.text import Text
from textual.widgets import Static

from rlhf_lite.project import RunStatus
from rlhf_lite.tui.feed import Watched

STARTING = "starting: a process of its own loads torch and the model"
PACE_OF = 20  # the last so many steps say how long the rest takes


def clock(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min, 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def kl_coef(status: RunStatus) -> float | None:
    """The KL coefficient now: of the last step, or what it was set to since; None where there is none."""
    told = [(m.step, v) for m in status.metrics if (v := m.values.get("objective/kl_coef")) is not None]
    changed = [(c.step, c.value) for c in status.changes if c.name == "kl_coef"]
    newest = max(changed[-1:] + told[-1:], key=lambda found: found[0], default=None)
    return newest[1] if newest else None


class JobLine(Static):
    """Two rows. Before three units are done it says that it is measuring."""

    DEFAULT_CSS = "JobLine { text-wrap: nowrap; text-overflow: ellipsis; }"

    def __init__(self, *, ascii: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._ascii = ascii
        self._times: dict[str, list[tuple[float, int]]] = {}
        self._share: float | None = None
        self._told = ""

    def note(self, watched: Watched, now: float | None = None) -> None:
        """Take in what the run says now."""
        now = time.time() if now is None else now
        progress = watched.status.progress
        self.refresh()
        if watched.state == "starting" or not progress:
            self._share, self._told = None, STARTING if watched.busy else ""
            return
        what, (done, total) = next(
            ((k, v) for k, v in reversed(progress.items()) if v[0] < v[1]), list(progress.items())[-1]
        )
        times = self._times.setdefault(what, [])
        if not times or times[-1][1] != done:
            times.append((now, done))
            del times[:-PACE_OF]
        self._share = done / total if total else 0.0
        self._told = self._words(what, done, total, times, watched)

    def render(self) -> Text:
        if self._share is None:
            return Text(self._told)
        width = max(4, self.size.width - 5)
        full, empty = ("#", ".") if self._ascii else ("━", "─")
        filled = round(self._share * width)
        bar = Text().append(full * filled, "green").append(empty * (width - filled), "dim")
        return bar.append(f" {self._share:4.0%}").append(f"\n{self._told}")

    def _words(
        self, what: str, done: int, total: int, times: list[tuple[float, int]], watched: Watched
    ) -> str:
        parts = [f"{what} {done}/{total}"] if total > 1 else [what]
        paces = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(times) if b[1] > a[1]]
        if watched.paused:
            parts.append("paused after its step; space goes on")
        elif watched.busy and total > 1 and done < total:
            if len(paces) >= 2:
                pace = statistics.median(paces)
                seconds = f"{pace:.1f}" if pace < 10 else f"{pace:.0f}"
                unit = f"{seconds} s each" if pace >= 1 else f"{1 / pace:.0f}/s"
                parts += [unit, f"{clock(pace * (total - done))} left"]
            else:
                parts.append("measuring")
        if (coefficient := kl_coef(watched.status)) is not None:
            parts.append(f"KL coef {coefficient:.2g}")
        if watched.status.saved_step >= 0:
            parts.append(f"saved at {watched.status.saved_step}")
        return " · ".join(parts)
