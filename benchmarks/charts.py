"""Charts of results as SVG: rows as :mod:`record` keeps them → the text of a file, the same for the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from curves import SPAN, distance, least_kl, smoothed

from rlhf_lite.settings import Ppo

Row = dict[str, Any]
Point = tuple[float, float]

INK, PALE, PAPER = "#222222", "#dddddd", "#ffffff"
PPO, DPO, BEST, BASE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#666666",
)  # told apart by the colour-blind, and by shape
PPO_PALE = "#8fc1e3"  # of many points, behind their line
PANEL_WIDTH, PANEL_HEIGHT = 260, 190
LEFT, TOP, RIGHT, BOTTOM = 56, 34, 14, 46  # of a panel, for its labels
LEGEND, LEGEND_WIDTH = 30, 540
BUDGET = Ppo().kl_budget


@dataclass(frozen=True)
class Mark:
    """How one kind of point looks."""

    color: str
    shape: str  # circle, square, triangle or cross


@dataclass(frozen=True)
class Panel:
    """One pair of axes at a place in the picture, ``x`` and ``y`` from least to most."""

    left: float
    top: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> Point:
        """Where a value lies in the picture."""
        return (
            self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * PANEL_WIDTH,
            self.top + (self.y[1] - y) / (self.y[1] - self.y[0]) * PANEL_HEIGHT,
        )

    def axes(self, title: str, x_label: str, y_label: str) -> Iterator[str]:
        """Grid, numbers, labels."""
        right, bottom = self.left + PANEL_WIDTH, self.top + PANEL_HEIGHT
        for value in ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            yield line([(x, self.top), (x, bottom)], PALE, 1)
            yield words(x, bottom + 15, number(value), "middle")
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            yield line([(self.left, y), (right, y)], PALE, 1)
            yield words(self.left - 6, y + 4, number(value), "end")
        yield line([(self.left, self.top), (self.left, bottom), (right, bottom)], INK, 1)
        middle = self.top + PANEL_HEIGHT / 2
        yield words(self.left, self.top - 10, title, "start", 'font-weight="bold"')
        yield words(self.left + PANEL_WIDTH / 2, bottom + 33, x_label, "middle")
        turned = f'transform="rotate(-90 {at(self.left - 40)} {at(middle)})"'
        yield words(self.left - 40, middle, y_label, "middle", turned)

    def curve(self, points: Iterable[Point], color: str, width: float, dash: str = "") -> str:
        return line([self.at(*p) for p in points], color, width, dash)

    def points(self, points: Iterable[Point], mark: Mark) -> Iterator[str]:
        return (drawn(*self.at(*p), mark) for p in points)


MARKS = {"base": Mark(BASE, "cross"), "ppo": Mark(PPO, "circle"), "dpo": Mark(DPO, "square"),
         "best of n": Mark(BEST, "triangle")}  # fmt: skip
STEP = Mark(PPO_PALE, "circle")
RATES = (0.0, 1.04)  # so that a point at 1 is whole
NAMES = {"base": "base", "ppo": "PPO", "dpo": "DPO", "best of n": "best of n"}


def frontier(rows: Sequence[Row]) -> str:
    """Rate against KL, a panel a wish, with the least KL for each rate; a point for each row."""
    wishes = names(rows, "wish")
    parts: list[str] = []
    for i, wish in enumerate(wishes):
        own = [r for r in rows if r["key"]["wish"] == wish]
        most = 1.08 * max([r["kl"] for r in own] + [0.1])
        panel = panel_at(i % 3, i // 3, (0, most), RATES)
        parts += panel.axes(wish.replace("_", " "), "KL in nats", "rate")
        parts.append(panel.curve(bound(base_rate(own), most), INK, 1.5, "5 4"))
        for by, mark in MARKS.items():
            parts += panel.points([(r["kl"], r["rate"]) for r in own if way(r) == by], mark)
    kinds = {way(r) for r in rows}
    legend = [(NAMES[by], mark) for by, mark in MARKS.items() if by in kinds]
    return picture(
        parts, min(3, len(wishes)), -(-len(wishes) // 3), legend, [("the least KL for a rate", INK)]
    )


def overoptimisation(rows: Sequence[Row]) -> str:
    """Score and true rate against √KL, a column a wish; a point for each row that was sampled."""
    rows = [r for r in rows if "by" in r["key"]]
    wishes = names(rows, "wish")
    parts: list[str] = []
    for column, wish in enumerate(wishes):
        own = [r for r in rows if r["key"]["wish"] == wish]
        far = 1.05 * max(distance(r["kl"]) for r in own)
        scores = [r["score"] for r in own]
        space = 0.08 * (max(scores) - min(scores))
        panel = panel_at(column, 0, (0, far), (min(scores) - space, max(scores) + space))
        parts += panel.axes(wish.replace("_", " "), "√KL, KL in nats", "score of the reward model, in SD")
        parts += beside_the_budget(panel, own, "score")
        panel = panel_at(column, 1, (0, far), RATES)
        parts += panel.axes("", "√KL, KL in nats", "true rate")
        parts += beside_the_budget(panel, own, "rate")
    legend = [("a step of PPO", STEP), ("best of n", MARKS["best of n"])]
    lines = [(f"mean of {SPAN} steps", PPO), (f"budget, KL {BUDGET:g}", INK)]
    return picture(parts, len(wishes), 2, legend, lines)


def beside_the_budget(panel: Panel, rows: Sequence[Row], what: str) -> Iterator[str]:
    """One wish's points, each seed's smoothed curve, and the budget where they come so far."""
    if (limit := math.sqrt(BUDGET)) < panel.x[1]:
        yield panel.curve([(limit, panel.y[0]), (limit, panel.y[1])], INK, 1.5, "5 4")
    yield from panel.points([(distance(r["kl"]), r[what]) for r in rows if way(r) == "ppo"], STEP)
    for seed in names(rows, "seed"):
        own = [r for r in rows if r["key"]["seed"] == seed and way(r) == "ppo"]
        kls, values = (smoothed([r[name] for r in own]) for name in ("kl", what))
        yield panel.curve(zip(map(distance, kls), values, strict=True), PPO, 2)
    best = [(distance(r["kl"]), r[what]) for r in rows if way(r) == "best of n"]
    yield from panel.points(best, MARKS["best of n"])


DRAWN: dict[str, Callable[[Sequence[Row]], str]] = {
    "frontier": frontier,
    "overoptimisation": overoptimisation,
}
"""By the name of the file of results."""


def way(row: Row) -> str:
    """``by`` of a row's key, whatever n."""
    return "best of n" if row["key"]["by"].startswith("best of") else row["key"]["by"]


def names(rows: Sequence[Row], of: str) -> list[Any]:
    """What this part of the keys is, in the order of the rows."""
    return list(dict.fromkeys(r["key"][of] for r in rows))


def base_rate(rows: Sequence[Row]) -> float:
    rates = [r["rate"] for r in rows if way(r) == "base"]
    return sum(rates) / len(rates) if rates else 0.0


def bound(p: float, most: float) -> list[Point]:
    """(least KL, rate) from the base's rate to 1 or to ``most`` nats; nothing of a base at 0 or 1."""
    if not 0 < p < 1:
        return []
    curve = [(least_kl(p, q), q) for q in (p + (1 - p) * i / 200 for i in range(201))]
    return [point for point in curve if point[0] <= most]


def panel_at(column: int, row: int, x: tuple[float, float], y: tuple[float, float]) -> Panel:
    return Panel(
        column * (LEFT + PANEL_WIDTH + RIGHT) + LEFT, LEGEND + row * (TOP + PANEL_HEIGHT + BOTTOM) + TOP, x, y
    )


def picture(
    parts: Iterable[str], columns: int, rows: int, marks: Sequence[tuple[str, Mark]], lines: Sequence[tuple[str, str]]
) -> str:  # fmt: skip
    """The whole file: a light ground, a legend on top, the panels."""
    width = max(LEGEND_WIDTH, columns * (LEFT + PANEL_WIDTH + RIGHT))
    height = LEGEND + rows * (TOP + PANEL_HEIGHT + BOTTOM)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="{PAPER}"/>'
    return "\n".join([head, ground, *legend(marks, lines), *filter(None, parts), "</svg>\n"])


def legend(marks: Sequence[tuple[str, Mark]], lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    x = float(LEFT)
    for name, mark in marks:
        yield drawn(x, 16, mark, "key")
        yield words(x + 9, 20, name, "start")
        x += 9 + 7 * len(name) + 20
    for name, color in lines:
        yield line([(x - 4, 16), (x + 20, 16)], color, 2, "5 4" if color == INK else "")
        yield words(x + 26, 20, name, "start")
        x += 26 + 7 * len(name) + 20


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, two to seven of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.8)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def drawn(x: float, y: float, mark: Mark, kind: str = "point") -> str:
    """One point; a thin light rim keeps those that overlap apart."""
    shape = {
        "circle": f"M{at(x - 4)} {at(y)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "square": f"M{at(x - 3.6)} {at(y - 3.6)}h7.2v7.2h-7.2z",
        "triangle": f"M{at(x)} {at(y - 4.8)}l4.6 8.2h-9.2z",
        "cross": f"M{at(x - 4)} {at(y - 4)}l8 8m0 -8l-8 8",
    }[mark.shape]
    if mark.shape == "cross":
        return f'<path class="{kind}" d="{shape}" fill="none" stroke="{mark.color}" stroke-width="2"/>'
    return f'<path class="{kind}" d="{shape}" fill="{mark.color}" stroke="{PAPER}" stroke-width="0.8"/>'


def line(points: Iterable[Point], color: str, width: float, dash: str = "") -> str:
    path = " ".join(f"{at(x)},{at(y)}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dashed}/>'
        if path
        else ""
    )


def words(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    return f'<text x="{at(x)}" y="{at(y)}" text-anchor="{anchor}"{" " + extra if extra else ""}>{escape(text)}</text>'


def at(value: float) -> str:
    """A place in the picture, to a tenth of a pixel; never "-0.0"."""
    return f"{round(value, 1) + 0.0:.1f}"


def number(value: float) -> str:
    return f"{round(value, 6) + 0.0:g}"
