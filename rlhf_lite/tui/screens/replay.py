"""The charts of a run again, step by step; and one metric of two runs in one chart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rich.text import Text
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite import health
from rlhf_lite.events import METRIC_LABELS
from rlhf_lite.project import RunStatus
from rlhf_lite.report import printable
from rlhf_lite.settings import Preset
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.widgets.chart import BrailleChart
from rlhf_lite.tui.widgets.runcharts import CHARTS, LAST_STEPS, RunCharts

STRIDES = 40  # presses from one end to the other
FRAMES = 100  # of the whole run when it plays
FRAME_SECONDS = 0.1


class ReplayPage(Page):
    """A run as it stood at any of its steps: what the charts, the health line and the sample said then."""

    PAGE = "replay"
    PAGE_NAME = "replay"
    TITLE = "Replay"
    AUTO_FOCUS = ""
    BINDINGS = keys.bindings("replay")
    HELP_TEXT = (
        "The charts of this run as they stood at any step. The arrows walk through it, space plays it."
    )
    DEFAULT_CSS = """
    ReplayPage #head { height: 1; }
    ReplayPage #health { height: auto; max-height: 2; text-style: bold; }
    ReplayPage #sample { height: 3; border-top: solid $panel; text-wrap: nowrap; text-overflow: ellipsis; }
    ReplayPage.-ascii #sample { border-top: ascii $panel; }
    """

    def __init__(self, watched: Watched, preset: Preset) -> None:
        super().__init__()
        self.title = f"Replay {watched.run.name}"
        self._watched, self._preset = watched, preset
        self._at = self._total
        self._player: Timer | None = None

    @property
    def _total(self) -> int:
        return len(self._watched.status.metrics)

    def body(self) -> Iterable[Widget]:
        yield Static(id="head", markup=False)
        yield RunCharts(self._watched.run.stage, self._preset, ascii=self.desk.ascii, id="charts")
        yield Static(id="health", markup=False)
        yield Static(id="sample", markup=False)

    def on_mount(self) -> None:
        self._draw()

    @property
    def _then(self) -> RunStatus:
        """What was known after so many steps."""
        whole = self._watched.status
        if self._at >= self._total:
            return whole
        step = whole.metrics[self._at - 1].step
        return replace(
            whole, metrics=whole.metrics[: self._at], samples=[s for s in whole.samples if s.step <= step],
            changes=[c for c in whole.changes if c.step <= step], ended="", failure=None, result={}, warnings=[],
        )  # fmt: skip

    def _draw(self) -> None:
        with self.told():
            then = self._then
            self.query_one(RunCharts).feed(then)
            step, last = then.metrics[-1].step, self._watched.status.metrics[-1].step
            playing = " · playing, space stops it" if self._player else ""
            self.query_one("#head", Static).update(
                f"{self._watched.run.name} at step {step} of {last}{playing}"
            )
            self._draw_health(then)
            sample = self.query_one("#sample", Static)
            sample.display = bool(self._watched.status.samples)
            sample.update(_sample(then))

    def _draw_health(self, then: RunStatus) -> None:
        line = self.query_one("#health", Static)
        line.display = self._watched.run.stage == "ppo"
        if line.display:
            found = health.of_ppo(then, self._preset.ppo)
            style = {"ok": "green", "watch": "yellow", "bad": "bold red"}[found.level]
            mark = "" if self.desk.ascii else {"ok": "✔ ", "watch": "≈ ", "bad": "✘ "}[found.level]
            line.update(Text(mark + found.words, style))

    def _go(self, at: int) -> None:
        self._at = max(1, min(at, self._total))
        self._draw()

    def action_move(self, by: int) -> None:
        self._stop()
        self._go(self._at + by * max(1, self._total // STRIDES))

    def action_jump(self, share: float) -> None:
        self._stop()
        self._go(round(share * self._total))

    def action_play(self) -> None:
        """From here on, from the start where it stands at the end; once more to stop."""
        if self._player:
            self._stop()
        else:
            self._player = self.set_interval(FRAME_SECONDS, self._next)
            self._at = 0 if self._at >= self._total else self._at
        self._go(self._at)

    def _next(self) -> None:
        if self._at >= self._total:
            self._stop()
        self._go(self._at + max(1, self._total // FRAMES))

    def _stop(self) -> None:
        if self._player:
            self._player.stop()
            self._player = None

    def action_metric(self) -> None:
        self.query_one(RunCharts).cycle(self._then)

    def action_window(self) -> None:
        self.query_one(RunCharts).window()


def _sample(then: RunStatus) -> Text:
    if not then.samples:
        return Text("No sample yet at this step.")
    last = then.samples[-1]
    score = "" if last.score is None else f" ({last.score:+.2f})"
    text = Text(
        f"Sample at step {last.step}{score}  {_flat(last.prompt)}\n",
        "bold",
        no_wrap=True,
        overflow="ellipsis",
    )
    return text.append(_flat(last.completion), "not bold")


def _flat(text: str) -> str:
    return " ".join(printable(text).split())


class OverlayPage(Page):
    """Two runs, one metric; m goes through what both have measured."""

    PAGE = "overlay"
    PAGE_NAME = "overlay"
    TITLE = "Two runs"
    AUTO_FOCUS = ""
    BINDINGS = keys.bindings("overlay")
    DEFAULT_CSS = """
    OverlayPage #words { height: auto; max-height: 2; }
    OverlayPage BrailleChart { height: 1fr; }
    """

    def __init__(self, first: Watched, second: Watched) -> None:
        super().__init__()
        self._runs = (first, second)
        self._metrics = _shared(first, second)
        self._at = 0

    def body(self) -> Iterable[Widget]:
        yield Static(id="words", markup=False)
        yield BrailleChart("", series=[w.run.name for w in self._runs], id="chart")

    def on_mount(self) -> None:
        self.query_one(BrailleChart).ascii = self.desk.ascii
        self._draw()

    def _draw(self) -> None:
        words, chart = self.query_one("#words", Static), self.query_one(BrailleChart)
        names = " and ".join(w.run.name for w in self._runs)
        chart.display = bool(self._metrics)
        if not self._metrics:
            words.update(f"{names} measured nothing that is the same.")
            return
        metric = self._metrics[self._at]
        words.update(f"{names} · metric {self._at + 1} of {len(self._metrics)}, m shows the next")
        chart.title = METRIC_LABELS.get(metric, metric)
        for watched in self._runs:
            found = [(m.step, m.values[metric]) for m in watched.status.metrics if metric in m.values]
            chart.set_data(watched.run.name, [s for s, _ in found], [v for _, v in found])

    def action_metric(self, by: int) -> None:
        if self._metrics:
            self._at = (self._at + by) % len(self._metrics)
            self._draw()

    def action_window(self) -> None:
        chart = self.query_one(BrailleChart)
        chart.window = None if chart.window else LAST_STEPS


def _shared(first: Watched, second: Watched) -> list[str]:
    """What both have measured, what their pages draw first."""
    measured = [{name for m in w.status.metrics for name in m.values} for w in (first, second)]
    both = measured[0] & measured[1]
    drawn = [chart.metric for chart in CHARTS.get(first.run.stage, ()) if chart.metric in both]
    return [*drawn, *sorted(both.difference(drawn))]
