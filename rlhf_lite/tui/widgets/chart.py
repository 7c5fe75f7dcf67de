"""A live line chart: a widget around :mod:`plot`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from time import monotonic
from typing import Any, ClassVar

from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from rlhf_lite.tui.widgets.plot import KINDS, Line, Plot, Series, draw

REDRAW_S = 0.25


class BrailleChart(Widget):
    """Lines over steps, redrawn at most four times a second; see ``Plot`` for ``target`` and ``window``."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"chart--{kind}" for kind in KINDS}
    DEFAULT_CSS = """
    BrailleChart { height: 1fr; }
    BrailleChart > .chart--title { text-style: bold; }
    BrailleChart > .chart--axis, BrailleChart > .chart--band { color: $text-muted; }
    BrailleChart > .chart--series-1 { color: $text-primary; }
    BrailleChart > .chart--series-2 { color: $text-success; }
    BrailleChart > .chart--series-3 { color: $text-secondary; }
    BrailleChart > .chart--target { color: $text-warning; }
    BrailleChart > .chart--alert { color: $text-error; text-style: bold; }
    """
    ALLOW_SELECT = False
    target: reactive[float | None] = reactive(None)
    window: reactive[int | None] = reactive(None)
    ascii: reactive[bool] = reactive(False)

    def __init__(
        self,
        title: str,
        *,
        unit: str = "",
        series: Sequence[str] = ("mean",),
        target_label: str = "",
        **widget: Any,
    ) -> None:
        super().__init__(**widget)
        lines, band = {name: Series() for name in series}, (Series(), Series())
        self._plot = Plot(title, lines, band, unit, target_label=target_label)
        self._drawn: tuple[object, list[Line]] | None = None
        self._drawn_at, self._waits = -math.inf, False

    @property
    def title(self) -> str:
        return self._plot.title

    @title.setter
    def title(self, title: str) -> None:
        self._plot = replace(self._plot, title=title)
        self._changed()

    def set_data(self, name: str, steps: Sequence[int], values: Sequence[float | None]) -> None:
        """Replace a series by numbers in any order; of two for one step the later counts."""
        fresh = Series()
        for step, value in sorted(zip(steps, values, strict=True), key=itemgetter(0)):
            fresh.append(step, value)
        self._plot.series[name] = fresh
        self._changed()

    def append(self, name: str, step: int, value: float | None) -> None:
        """Add to the right; a step that is not new takes back what came from it on."""
        self._plot.series[name].append(step, value)
        self._changed()

    @property
    def band(self) -> Iterable[tuple[int, float | None, float | None]]:
        """Step, low and high of the shaded band. Assign all of it, or use ``append_band``."""
        return list(zip(self._plot.band[0].steps, *(s.values for s in self._plot.band), strict=True))

    @band.setter
    def band(self, rows: Iterable[tuple[int, float | None, float | None]]) -> None:
        self._plot = replace(self._plot, band=(Series(), Series()))
        for row in rows:
            self.append_band(*row)
        self._changed()

    def append_band(self, step: int, low: float | None, high: float | None) -> None:
        whole = low is not None and high is not None and math.isfinite(high - low)
        for series, value in zip(self._plot.band, (low, high), strict=True):
            series.append(step, value if whole else None)
        self._changed()

    def clear(self) -> None:
        """Forget all numbers, the band's too; target and window stay."""
        self._plot = replace(self._plot, series={name: Series() for name in self._plot.series})
        self.band = ()

    def _changed(self) -> None:
        wait = self._drawn_at + REDRAW_S - monotonic()
        if self.is_running and not self._waits:
            self._waits = True
            self.set_timer(max(wait, 0.001), self._redraw)

    def _redraw(self) -> None:
        self._waits, self._drawn = False, None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        state = (self.size, self.target, self.window, self.ascii)
        if self._drawn is None or self._drawn[0] != state:
            plot = replace(self._plot, target=self.target, window=self.window, ascii=self.ascii)
            self._drawn, self._drawn_at = (state, draw(plot, *self.size)), monotonic()
        line = self._drawn[1][y] if y < len(self._drawn[1]) else []
        styles = {
            kind: self.get_component_rich_style(f"chart--{kind}") if kind else self.rich_style
            for _, kind in line
        }
        runs = groupby(line, key=itemgetter(1))
        segments = [Segment("".join(text for text, _ in run), styles[kind]) for kind, run in runs]
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)
