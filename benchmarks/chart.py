"""How long does a chart take to draw, by the number of points?

    python benchmarks/chart.py

Milliseconds of one drawing at 100×20 cells, once it is full and once with a band, of one more point, and of reading all
points in; the best of several, without Textual's own work around it.
"""

from __future__ import annotations

import math
import random
import timeit
from collections.abc import Callable

from rlhf_lite.tui.widgets.plot import Plot, Series, draw

WIDTH, HEIGHT = 100, 20
POINTS = (200, 2_000, 20_000, 200_000)


def series_of(values: list[float]) -> Series:
    series = Series()
    for step, value in enumerate(values):
        series.append(step, value)
    return series


def best_ms(call: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1000


def row(points: int) -> str:
    values = [math.tanh(3 * i / points) + random.gauss(0, 0.1) for i in range(points)]
    series, nothing = series_of(values), (Series(), Series())
    band = (series_of([v - 0.2 for v in values]), series_of([v + 0.2 for v in values]))
    plain = Plot("Reward", {"mean": series}, nothing, target=1.5)
    shaded = Plot("Reward", {"mean": series}, band, target=1.5)
    drawn = best_ms(lambda: draw(plain, WIDTH, HEIGHT), 5)
    with_band = best_ms(lambda: draw(shaded, WIDTH, HEIGHT), 5)
    append = best_ms(lambda: series.append(series.last + 1, 0.5), 100)
    read = best_ms(lambda: series_of(values), 1)
    return f"| {points:7} | {drawn:5.2f} | {with_band:9.2f} | {append:6.4f} | {read:8.2f} |"


def main() -> None:
    random.seed(0)
    print("|  points |  draw | with band | append | read all |")
    print("|--------:|------:|----------:|-------:|---------:|")
    for points in POINTS:
        print(row(points), flush=True)


if __name__ == "__main__":
    main()
