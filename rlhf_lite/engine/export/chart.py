"""The run's curves as one SVG picture for the model card: the same bytes for the same run, no library.

Light ground of its own, so that it can be read on a dark page too; colours that the colour-blind tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

_INK, _GRID, _PAPER = "#222222", "#dddddd", "#ffffff"
_LINES = ("#0072b2", "#d55e00")
_WIDTH, _HEIGHT = 300, 180  # of a panel
_LEFT, _TOP, _RIGHT, _BOTTOM = 58, 52, 18, 44  # around it, for its words


@dataclass(frozen=True)
class Panel:
    """One pair of axes: lines over the steps, by name. The second line has few points, which are marked."""

    title: str
    lines: Mapping[str, Points]


def draw(panels: Sequence[Panel]) -> str:
    """The text of an SVG file, its panels side by side."""
    width, height = len(panels) * (_LEFT + _WIDTH + _RIGHT), _TOP + _HEIGHT + _BOTTOM
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">'
    )
    body = [
        part
        for i, panel in enumerate(panels)
        for part in _panel(panel, _LEFT + i * (_LEFT + _WIDTH + _RIGHT))
    ]
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>', *body, "</svg>\n"])


def _panel(panel: Panel, left: float) -> Iterator[str]:
    points = [point for line in panel.lines.values() for point in line]
    x, y = (_range([p[axis] for p in points]) for axis in (0, 1))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across, up = ((v - low) / (high - low) for v, (low, high) in zip(point, (x, y), strict=True))
        return left + across * _WIDTH, _TOP + (1 - up) * _HEIGHT

    yield _words(left, 16, panel.title, "start", 'font-weight="bold"')
    for value in _ticks(*x):
        yield _words(at((value, 0))[0], _TOP + _HEIGHT + 16, f"{value:g}", "middle")
    for value in _ticks(*y):
        height = at((0, value))[1]
        yield _line([(left, height), (left + _WIDTH, height)], _GRID, 1)
        yield _words(left - 6, height + 4, f"{value:g}", "end")
    yield _line([(left, _TOP), (left, _TOP + _HEIGHT), (left + _WIDTH, _TOP + _HEIGHT)], _INK, 1)
    yield _words(left + _WIDTH / 2, _TOP + _HEIGHT + 34, "step", "middle")
    beside = left
    for i, (name, line) in enumerate(panel.lines.items()):
        yield _line([at(point) for point in line], _LINES[i], 2)
        for across, down in (at(point) for point in line if i):
            yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{_LINES[i]}"/>'
        yield _line([(beside, 34), (beside + 18, 34)], _LINES[i], 2)
        yield _words(beside + 24, 38, name, "start")
        beside += 24 + 7 * len(name) + 16


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From least to most with a little air; of values that are all the same, one to both sides."""
    low, high = min(values), max(values)
    air = 0.04 * (high - low) or 1.0
    return low - air, high + air


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, two to seven of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 9) + 0.0 for i in range(first, last + 1)]


def _line(points: Points, color: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def _words(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(text)}</text>'
