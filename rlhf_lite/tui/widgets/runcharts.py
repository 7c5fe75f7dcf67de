"""The charts of one run: two always, four where there is room; live and in replay alike."""

from __future__ import annotations

from dataclasses import dataclass

from textual.containers import Container

from rlhf_lite.events import METRIC_LABELS
from rlhf_lite.project import RunStatus
from rlhf_lite.settings import Preset
from rlhf_lite.tui.widgets.chart import BrailleChart


@dataclass(frozen=True)
class Chart:
    """A metric and its title; ``extra`` ones appear where there is room, ``spread`` is the metric of its band,
    ``limit`` the setting of PPO that is drawn as a line."""

    metric: str
    title: str
    extra: bool = False
    spread: str = ""
    limit: str = ""


CHARTS: dict[str, tuple[Chart, ...]] = {
    "ppo": (
        Chart("objective/scores", "Reward", spread="objective/scores_std"),
        Chart("objective/kl", "KL to the reference", limit="kl_budget"),
        Chart("objective/entropy", "Entropy", extra=True),
        Chart("completion_length", "Answer length", extra=True),
    ),
    "reward": (Chart("loss", "Loss"), Chart("margin", "Margin")),
    "dpo": (
        Chart("loss", "Loss"),
        Chart("eval/kl", "KL to the reference", limit="kl_target"),
        Chart("rewards/margins", "Margin", extra=True),
        Chart("eval/ended", "Answers that end", extra=True),
    ),
    "sft": (Chart("loss", "Loss"), Chart("mean_token_accuracy", "Token accuracy")),
}
LAST_STEPS = 50


class RunCharts(Container):
    """Feed it the run's status as often as you like: it takes what is new."""

    DEFAULT_CSS = """
    RunCharts { layout: grid; grid-size: 2 1; grid-gutter: 0 1; height: 1fr; min-height: 5; }
    RunCharts .extra { display: none; }
    """

    def __init__(self, stage: str, preset: Preset, *, ascii: bool = False, id: str | None = None) -> None:
        self.charts = list(CHARTS[stage])
        self._limits = {c.metric: c.limit for c in self.charts if c.limit}
        label = next(iter(self._limits.values()), "").removeprefix("kl_")
        self._drawn = [
            BrailleChart("", target_label=label, classes="extra" if c.extra else "") for c in self.charts
        ]
        super().__init__(*self._drawn, id=id, classes="four" if len(self.charts) == 4 else "")
        self._preset = preset
        self._taken = 0  # metrics of the status that the charts hold
        for chart, drawn in zip(self.charts, self._drawn, strict=True):
            drawn.ascii = ascii
            self._title(chart, drawn)

    def _title(self, chart: Chart, drawn: BrailleChart) -> None:
        drawn.title = chart.title
        limit = self._limits.get(chart.metric)
        drawn.target = getattr(self._preset.ppo, limit) if limit else None

    def feed(self, status: RunStatus) -> None:
        """Draw what the run has measured since the last call; steps that were taken back go."""
        if len(status.metrics) < self._taken:
            self.begin_anew()
        for event in status.metrics[self._taken :]:
            for chart, drawn in zip(self.charts, self._drawn, strict=True):
                value = event.values.get(chart.metric)
                if value is None:
                    continue
                drawn.append("mean", event.step, value)
                spread = event.values.get(chart.spread)
                if spread is not None:
                    drawn.append_band(event.step, value - spread, value + spread)
        self._taken = len(status.metrics)

    def begin_anew(self) -> None:
        """Empty charts, for another run or steps that were taken back."""
        self._taken = 0
        for drawn in self._drawn:
            drawn.clear()

    def window(self) -> None:
        """The last steps, or the whole run."""
        for drawn in self._drawn:
            drawn.window = None if drawn.window else LAST_STEPS

    def cycle(self, status: RunStatus) -> None:
        """The last chart that is shown takes the next metric that the run reports."""
        names = sorted({name for event in status.metrics for name in event.values})
        at = max(i for i, drawn in enumerate(self._drawn) if drawn.display)
        others = [n for n in names if n not in {c.metric for i, c in enumerate(self.charts) if i != at}]
        if not others:
            return
        now = self.charts[at].metric
        name = others[(others.index(now) + 1) % len(others)] if now in others else others[0]
        self.charts[at] = Chart(name, METRIC_LABELS.get(name, name), self.charts[at].extra)
        self._title(self.charts[at], self._drawn[at])
        self.begin_anew()
        self.feed(status)
