"""What a chart draws, read back dot by dot and cell by cell."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from time import monotonic

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from rlhf_lite.tui.widgets import chart
from rlhf_lite.tui.widgets.chart import BrailleChart
from rlhf_lite.tui.widgets.plot import Line, Plot, Series, draw

# The order of the dots in a code point, from the Unicode standard: column, row.
DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))


def series_of(values: Sequence[float | None], start: int = 0) -> Series:
    series = Series()
    for step, value in enumerate(values, start):
        series.append(step, value)
    return series


def plot_of(*values: Sequence[float | None], band=None, **settings) -> Plot:
    lines = {name: series_of(v) for name, v in zip(("mean", "other", "third"), values, strict=False)}
    return Plot(settings.pop("title", "Reward"), lines, band or (Series(), Series()), **settings)


def cells(lines: list[Line]) -> list[list[tuple[str, str]]]:
    """One (character, kind) for each cell."""
    return [[(letter, kind) for text, kind in line for letter in text] for line in lines]


def text(plot: Plot, width: int, height: int) -> list[str]:
    return ["".join(part for part, _ in line) for line in draw(plot, width, height)]


def body(plot: Plot, width: int, height: int) -> list[list[tuple[str, str]]]:
    """The cells right of the axis, without the title and the steps below."""
    drawn = cells(draw(plot, width, height))[1:-1]
    return [line[[letter in "│┤|+" for letter, _ in line].index(True) + 1 :] for line in drawn]


def dots(plot: Plot, width: int, height: int, kind: str = "series-1") -> set[tuple[int, int]]:
    """Column and row of every dot of a kind."""
    return {
        (2 * x + dx, 4 * y + dy)
        for y, line in enumerate(body(plot, width, height))
        for x, (letter, its_kind) in enumerate(line)
        if its_kind == kind and 0x2800 <= ord(letter) < 0x2900
        for bit, (dx, dy) in enumerate(DOTS)
        if ord(letter) - 0x2800 >> bit & 1
    }


def labels(plot: Plot, width: int = 60, height: int = 14) -> list[str]:
    return [line.split("┤")[0].strip() for line in text(plot, width, height) if "┤" in line]


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right() -> None:
    plot = plot_of(range(100))
    found = dots(plot, 60, 12)
    columns, rows = 2 * len(body(plot, 60, 12)[0]), 40
    by_column = [sorted(y for x, y in found if x == column) for column in range(columns)]
    assert by_column[0][-1] == rows - 1
    assert by_column[-1][0] == 0
    assert all(len(ys) <= 2 for ys in by_column), "one dot wide"
    for x, ys in enumerate(by_column):
        assert abs(sum(ys) / len(ys) - (rows - 1) * (1 - x / (columns - 1))) <= 1


def test_a_steep_line_has_no_holes() -> None:
    found = dots(plot_of([0, 0, 1, 1]), 30, 20)
    assert {y for _, y in found} == set(range(72))
    assert len(found) < 2 * 72 + 30, "one dot wide"


@pytest.mark.parametrize("points", [50, 2_000, 20_000])
def test_a_sine_has_its_extremes_where_they_belong(points: int) -> None:
    plot = plot_of([math.sin(2 * math.pi * i / (points - 1)) for i in range(points)])
    found, last = dots(plot, 70, 18), 2 * len(body(plot, 70, 18)[0]) - 1
    top, bottom = ([x for x, y in found if y == row] for row in (0, 63))
    assert sum(top) / len(top) == pytest.approx(last / 4, abs=2)
    assert sum(bottom) / len(bottom) == pytest.approx(last * 3 / 4, abs=2)
    assert {y for x, y in found if x == 0} <= {31, 32}


@pytest.mark.parametrize("at", [1, 7_777, 12_345, 19_999])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_spike_among_20000_points_is_drawn(at: int, sign: int) -> None:
    values = [0.0] * 20_000
    values[at] = sign * 5.0
    plot = plot_of(values)
    columns = 2 * len(body(plot, 80, 15)[0])
    spike = {x for x, y in dots(plot, 80, 15) if y == (0 if sign > 0 else 51)}
    assert spike
    assert all(abs(x - at / 19_999 * (columns - 1)) <= 1 for x in spike)


def test_extremes_of_any_stretch_are_those_of_its_numbers() -> None:
    values = [math.sin(i * i) for i in range(400)]
    series = series_of(values)
    for start in range(0, 400, 7):
        for end in range(start + 1, 401, 11):
            assert series.extremes(start, end) == (min(values[start:end]), max(values[start:end]))


def test_a_step_that_comes_again_takes_back_what_followed() -> None:
    once, again = (
        series_of([float(i % 90) for i in range(100)]),
        series_of([float(i) if i < 60 else 500.0 - 9 * i for i in range(200)]),
    )
    again.append(300, math.inf)
    again.append(301, 1.0)
    for step in range(60, 100):
        again.append(step, float(step % 90))
    assert again.bad.tolist() == []
    assert (again.first, again.last) == (0, 99)
    assert draw(Plot("a", {"x": again}, (Series(), Series())), 50, 12) == draw(
        Plot("a", {"x": once}, (Series(), Series())), 50, 12
    )


def test_the_target_is_a_dotted_line_at_its_height_with_its_name() -> None:
    plot = plot_of([i / 100 for i in range(300)], target=6.0, target_label="budget")
    drawn = body(plot, 60, 14)
    assert "".join(c for c, kind in drawn[0] if kind == "target").endswith("budget 6")
    found = dots(plot, 60, 14, "target")
    assert {y for _, y in found} == {0}
    assert all(x % 4 == 0 for x, _ in found)
    assert len(found) > 15
    middle = dots(plot_of(range(101), target=50.0), 60, 14, "target")
    assert {y for _, y in middle} == {24}


def test_a_target_far_away_leaves_the_range_alone_and_is_told_in_the_title() -> None:
    values = [i / 100 for i in range(101)]
    assert text(plot_of(values, target=3.0), 60, 12)[0].endswith("mean 1"), (
        "twice the range of the data: drawn"
    )
    for target, words in ((3.1, "↑ target 3.1"), (10.0, "↑ target 10"), (-2.1, "↓ target -2.1")):
        far = plot_of(values, target=target)
        assert text(far, 60, 12)[0].endswith(f"mean 1  {words}")
        assert dots(far, 60, 12) == dots(plot_of(values), 60, 12)
        assert not dots(far, 60, 12, "target")
    assert "^ target 10" in text(plot_of(values, target=10.0, ascii=True), 60, 12)[0]


def test_the_name_of_the_target_never_covers_the_line() -> None:
    plot = plot_of([1.0, 1.2, 0.8] * 30, target=1.0)
    assert dots(plot, 40, 12) == dots(plot_of([1.0, 1.2, 0.8] * 30), 40, 12)
    assert text(plot, 40, 12)[0].endswith("target 1"), "then the title has it"


def test_the_band_lies_between_low_and_high_and_is_thinner_than_a_line() -> None:
    steps = 80
    band = (series_of([1.0] * steps), series_of([3.0] * steps))
    plot = plot_of([0.0, *[2.0] * (steps - 2), 4.0], band=band)
    found, columns = dots(plot, 60, 22, "band"), 2 * len(body(plot, 60, 22)[0])
    rows = {y for _, y in found}
    assert min(rows) in range(19, 24)
    assert max(rows) in range(56, 61), "80 rows of dots for 0 to 4"
    assert {x * 4 // columns for x, _ in found} == {0, 1, 2, 3}
    assert 0.1 < len(found) / (columns * (max(rows) - min(rows))) < 0.4
    assert dots(plot, 60, 22) == dots(plot_of([0.0, *[2.0] * (steps - 2), 4.0]), 60, 22)


def test_the_band_counts_for_the_range_of_the_axis() -> None:
    band = (series_of([-3.0] * 5), series_of([5.0] * 5))
    assert {labels(plot_of([1.0] * 5, band=band))[i] for i in (0, -1)} == {"4", "-2"}


@pytest.mark.parametrize("hole", [None, math.nan, math.inf, -math.inf])
def test_a_step_without_a_number_is_a_gap(hole: float | None) -> None:
    plot = plot_of([1.0, 2.0, 3.0, hole, 3.0, 2.0, 1.0])
    columns = {x for x, _ in dots(plot, 60, 12)}
    last = 2 * len(body(plot, 60, 12)[0]) - 1
    empty = set(range(last + 1)) - columns
    assert empty == set(range(min(empty), max(empty) + 1))
    assert min(empty) == pytest.approx(last * 2 / 6, abs=2)
    assert max(empty) == pytest.approx(last * 4 / 6, abs=2)
    assert labels(plot) == labels(plot_of([1.0, 2.0, 3.0])), "it does not count for the axis"
    assert ("NaN!" in text(plot, 60, 12)[0]) is (hole is not None)


def test_nan_is_told_as_long_as_it_is_in_view() -> None:
    values = [1.0, math.inf, *map(float, range(50))]
    assert "NaN!" in text(plot_of(values, window=51), 60, 12)[0]
    assert "NaN!" not in text(plot_of(values, window=50), 60, 12)[0]
    assert "NaN!" in text(plot_of([math.nan]), 60, 12)[0]


def test_the_window_shows_the_last_steps_only() -> None:
    plot = plot_of([100.0] * 50 + [float(i) for i in range(50)], window=50)
    assert text(plot, 60, 12)[-1].split() == ["50", "step", "99"]
    assert max(map(float, labels(plot))) <= 49
    assert (0, 39) in dots(plot, 60, 12)


def test_before_the_first_step() -> None:
    drawn = text(plot_of([]), 60, 12)
    assert drawn[0].strip() == "Reward"
    assert any("waiting for the first step" in line for line in drawn)
    assert not any("waiting" in line for line in text(plot_of([1.0]), 60, 12))
    assert any("no number yet" in line for line in text(plot_of([None]), 60, 12))


@pytest.mark.parametrize("value", [0.0, 0.37, -5.0, 1e-5, 1e6, 1e-310, 1e299])
def test_one_point_is_one_dot_and_a_constant_a_line_in_the_middle(value: float) -> None:
    assert dots(plot_of([value]), 60, 13) == {(0, 22)}
    line = dots(plot_of([value] * 30), 60, 13)
    assert {y for _, y in line} == {22}
    assert {x for x, _ in line} == set(range(2 * len(body(plot_of([value] * 30), 60, 13)[0])))


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 1.0, ["1.00", "0.75", "0.50", "0.25", "0.00"]),
        (-3.0, 2.0, ["2", "0", "-2"]),
        (0.0, 1e6, ["1.00e6", "0.75e6", "0.50e6", "0.25e6", "0"]),
        (0.0, 5e-5, ["4e-5", "2e-5", "0"]),
        (90.0, 140.0, ["140", "120", "100"]),
        (1000.0, 1004.0, ["1004", "1003", "1002", "1001", "1000"]),
    ],
)
def test_the_axis_has_round_numbers(low: float, high: float, wanted: list[str]) -> None:
    assert labels(plot_of([low, high])) == wanted


@pytest.mark.parametrize("low", [-1234.0, -3.3, 0.0, 0.017, 12.0])
@pytest.mark.parametrize("span", [1e-3, 0.4, 7.0, 1e5])
def test_a_label_stands_in_the_row_of_its_number(low: float, span: float) -> None:
    drawn = text(plot_of([low, low + span]), 70, 18)[1:-1]
    found = {y: float(line.split("┤")[0]) for y, line in enumerate(drawn) if "┤" in line}
    assert 3 <= len(found) <= 7
    for y, value in found.items():
        dot = (low + span - value) / span * 63
        assert 4 * y - 0.6 - span / 1e3 <= dot <= 4 * y + 3.6 + span / 1e3
    assert len({line.index("┤") if "┤" in line else line.index("│") for line in drawn}) == 1, "aligned"


def test_title_row_names_every_line_by_shape_and_latest_number() -> None:
    title = text(plot_of([1.0, 1.35], [3.0, None], [2e-5], unit="nats"), 80, 12)[0]
    assert re.split(r"\s{2,}", title.strip()) == [
        "Reward",
        "● mean 1.35 nats",
        "○ other 3 nats",
        "▲ third 2e-5 nats",
    ]


def test_lines_carry_their_mark_where_there_are_several() -> None:
    plot = plot_of([float(i) for i in range(60)], [float(60 - i) for i in range(60)])
    drawn = [(letter, kind) for line in body(plot, 60, 16) for letter, kind in line]
    assert drawn.count(("●", "series-1")) >= 3
    assert drawn.count(("○", "series-2")) >= 3
    assert body(plot, 60, 16)[0][-1] == ("●", "series-1"), "the newest point of the rising line"
    assert not any(letter == "●" for line in body(plot_of([1.0, 2.0]), 60, 16) for letter, _ in line)


def test_lines_that_meet_share_a_cell() -> None:
    straight, bent = [0.0, 1.0], [0.0, 0.5, 0.5, 1.0]
    same = plot_of([float(i) for i in range(40)], [float(i) for i in range(40)])
    plot = plot_of(straight, bent)
    for plotted in (same, plot):
        for line in body(plotted, 40, 12):
            assert all(0x2800 <= ord(letter) < 0x2900 or letter in " ●○" for letter, _ in line)


def test_ascii_draws_the_same_shape_in_plain_characters() -> None:
    rising, falling = [float(i) for i in range(50)], [50.0 - i for i in range(50)]
    band = (series_of([v - 9 for v in rising]), series_of([v + 9 for v in rising]))
    plot = plot_of(rising, falling, [25.0] * 50, band=band, target=40.0, ascii=True)
    lines = text(plot, 60, 16)
    assert all(line.isascii() for line in lines)
    drawn = body(plot, 60, 16)
    assert {letter for line in drawn for letter, kind in line if kind != "target"} <= set("*o^. ")
    first = [min(x for x, c in enumerate(line) if c[0] == "*") for line in drawn if ("*", "series-1") in line]
    assert first == sorted(first, reverse=True)
    assert len(first) > 8
    assert {kind for line in drawn for letter, kind in line if letter == "."} == {"band", "target"}
    assert text(plot_of([], title="é" * 3, ascii=True), 60, 9)[4].strip().isascii()


def test_no_size_is_too_small() -> None:
    noisy = [math.sin(i) * i for i in range(150)]
    plots = [
        plot_of([], title="A long title that is cut"),
        plot_of([None, math.inf], unit="nats"),
        plot_of([0.4]),
        plot_of(noisy, [-v for v in noisy], band=(series_of([-9.0]), series_of([9.0])), target=100.0),
        plot_of(noisy, target=1e9, ascii=True, window=20),
        plot_of([1e308, -1e308, 1e299, -1e299]),
        Plot("late", {"mean": series_of(noisy, start=10_000_000)}, (Series(), Series())),
    ]
    for width in (*range(26), 40, 79, 120, 250):
        for height in (*range(9), 24, 80):
            for plot in plots:
                lines = draw(plot, width, height)
                assert len(lines) <= height
                assert all(len("".join(t for t, _ in line)) <= width for line in lines), (width, height)


def test_what_a_small_chart_keeps() -> None:
    plot = plot_of([1.0, 1.35], title="Margin of the reward")
    assert text(plot, 60, 1) == ["Margin of the reward  ● mean 1.35"]
    assert text(plot, 30, 1) == ["Margin of the reward ● 1.35"]
    assert text(plot, 20, 1) == ["Margin of th… ● 1.35"]
    assert text(plot, 7, 1) == [" ● 1.35"]
    assert text(plot, 4, 1) == [""]


class ChartApp(App[None]):
    CSS = "BrailleChart { height: 12; }"

    def __init__(self, theme: str = "textual-dark") -> None:
        super().__init__()
        self.theme = theme

    def compose(self) -> ComposeResult:
        drawn = BrailleChart("KL", unit="nats", series=("kl", "other"), target_label="budget", id="chart")
        drawn.target = 6.0
        yield drawn


async def shows(pilot: Pilot[None], words: str) -> str:
    """The chart, as soon as it shows what matches ``words``."""
    for _ in range(100):
        if re.search(words, screen(pilot.app)):
            return screen(pilot.app)
        await pilot.pause(0.05)
    raise AssertionError(screen(pilot.app))


def screen(app: App[None]) -> str:
    widget = app.query_one(BrailleChart)
    return "\n".join(widget.render_line(y).text for y in range(widget.size.height))


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "ansi-dark", "ansi-light"])
@pytest.mark.parametrize("no_color", [False, True])
def test_it_runs_with_and_without_colour(monkeypatch: pytest.MonkeyPatch, theme: str, no_color: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")

    async def go() -> str:
        app = ChartApp(theme)
        async with app.run_test(size=(70, 16)) as pilot:
            assert app.no_color is no_color
            drawn = app.query_one(BrailleChart)
            assert "waiting for the first step" in screen(app)
            drawn.set_data("kl", range(50), [i / 20 for i in range(50)])
            drawn.band = [(i, i / 20 - 0.2, i / 20 + 0.2) for i in range(50)]
            drawn.append("other", 3, math.nan)
            await shows(pilot, "NaN!")
            for y in range(drawn.size.height):
                assert all(segment.style is not None for segment in drawn.render_line(y))
            app.export_screenshot()
            await pilot.resize_terminal(9, 3)
            await pilot.resize_terminal(70, 16)
            return screen(app)

    shown = asyncio.run(go())
    assert "● kl 2.45 nats" in shown
    assert "NaN!" in shown
    assert "budget 6" in shown


def test_a_burst_of_points_is_drawn_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    original = chart.draw
    monkeypatch.setattr(chart, "draw", lambda *given: times.append(1) or original(*given))

    timers: list[int] = []
    set_timer = BrailleChart.set_timer
    monkeypatch.setattr(BrailleChart, "set_timer", lambda *given: timers.append(1) or set_timer(*given))

    async def go() -> float:
        app = ChartApp()
        async with app.run_test(size=(70, 16)) as pilot:
            await pilot.pause(0.3)
            times.clear()
            began = monotonic()
            for step in range(80):
                app.query_one(BrailleChart).append("kl", step, float(step))
                await pilot.pause(0.01)
            await shows(pilot, "● kl 79 nats")  # the last point, without another one after it
            return monotonic() - began

    seconds = asyncio.run(go())
    assert 1 < len(times) <= 4 * seconds + 2
    assert len(timers) <= len(times) + 1


def test_settings_are_seen_at_once_and_clear_keeps_them() -> None:
    async def go() -> None:
        app = ChartApp()
        async with app.run_test(size=(70, 16)) as pilot:
            drawn = app.query_one(BrailleChart)
            drawn.set_data("kl", [3, 1, 2, 2], [4.0, 1.0, 9.0, 2.0])
            assert list(drawn.band) == []
            drawn.append_band(1, 0.0, 5.0)
            await shows(pilot, "kl 4 nats")
            assert re.search(r"1 +step 3", screen(app))
            drawn.title = "Drift"
            await shows(pilot, "Drift  ●")
            drawn.ascii = True
            assert screen(app).isascii()
            drawn.window = 2
            assert re.search(r"2 +step 3", screen(app))
            drawn.clear()
            await shows(pilot, "waiting for the first step")
            assert list(drawn.band) == []
            assert (drawn.target, drawn.window, drawn.ascii) == (6.0, 2, True)

    asyncio.run(go())
