"""Numbers over steps as lines of braille dots, or of ASCII: numbers in, text out. :mod:`chart` puts it on a screen."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size

Line = list[
    tuple[str, str]
]  # texts, each with its kind: it is styled as chart--KIND, or as the widget where ""
Dots = list[int]  # for each column of dots the rows that have one: bit 0 is the top row
BLOCK, LARGEST = 64, 1e300  # beyond LARGEST differences overflow
MARKS = "●○▲", "*o^"  # with braille, in ASCII
KINDS = ("title", "axis", "series-1", "series-2", "series-3", "target", "band", "alert")
LEFT = [sum(dot for i, dot in enumerate((1, 2, 4, 64)) if bits >> i & 1) for bits in range(16)]
RIGHT = [sum(dot for i, dot in enumerate((8, 16, 32, 128)) if bits >> i & 1) for bits in range(16)]


class Series:
    """Numbers by rising step, 16 bytes each. A step that is not new takes back all from there on, like a rollback.

    None leaves a gap. NaN and infinities leave one too, and ``bad`` keeps their steps.
    """

    def __init__(self) -> None:
        self.first = self.last = -1  # steps, those without a number included
        self.steps, self.values, self.bad = array("q"), array("d"), array("q")
        self._breaks = array("q")  # places of numbers that have a gap before them
        self._lows, self._highs = array("d"), array("d")  # of each whole block

    def append(self, step: int, value: float | None) -> None:
        if step <= self.last:
            kept = bisect_left(self.steps, step)
            del self.steps[kept:], self.values[kept:]
            del self._lows[kept // BLOCK :], self._highs[kept // BLOCK :]
            del self._breaks[bisect_left(self._breaks, kept) :], self.bad[bisect_left(self.bad, step) :]
        self.first, self.last = step if self.last < 0 else min(step, self.first), step
        if value is not None and abs(value) <= LARGEST:
            self.steps.append(step)
            self.values.append(value)
            if len(self.values) % BLOCK == 0:
                self._lows.append(min(self.values[-BLOCK:]))
                self._highs.append(max(self.values[-BLOCK:]))
            return
        if value is not None:
            self.bad.append(step)
        if not self.gap_before(len(self.values)):
            self._breaks.append(len(self.values))

    def gap_before(self, place: int) -> bool:
        found = bisect_left(self._breaks, place)
        return self._breaks[found : found + 1] == array("q", [place])

    def extremes(self, start: int, end: int) -> tuple[float, float]:
        """The least and the greatest of ``values[start:end]``, which must not be empty."""
        first, last = -(-start // BLOCK), end // BLOCK
        if first >= last:
            return min(self.values[start:end]), max(self.values[start:end])
        edges = self.values[start : first * BLOCK] + self.values[last * BLOCK : end]
        return min(self._lows[first:last] + edges), max(self._highs[first:last] + edges)


@dataclass(frozen=True)
class Frame:
    """Steps ``first`` to ``last`` and numbers ``low`` to ``high`` on a raster of dots."""

    first: int
    last: int
    low: float
    high: float
    columns: int = 1
    rows: int = 1

    def row(self, value: float) -> float:
        return (self.high - value) / (self.high - self.low) * (self.rows - 1)


@dataclass(frozen=True)
class Plot:
    """Everything that a chart says. ``window`` shows the last so many steps, None or 0 all of them."""

    title: str
    series: dict[str, Series]
    band: tuple[Series, Series]
    unit: str = ""
    target: float | None = None
    target_label: str = ""
    window: int | None = None
    ascii: bool = False

    def frame(self) -> Frame | None:
        """What there is to show; None before there is a number. The target widens it unless it is far away."""
        every = [s for s in (*self.series.values(), *self.band) if s.last >= 0]
        first, last = min((s.first for s in every), default=0), max((s.last for s in every), default=0)
        first = max(first, last - self.window + 1) if self.window else first
        starts = [(s, bisect_left(s.steps, first)) for s in every]
        ends = [s.extremes(start, len(s.values)) for s, start in starts if start < len(s.values)]
        if not ends:
            return None
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        near = 2 * ((high - low) or abs(high) or 1.0)
        if self.target is not None and low - near <= self.target <= high + near:
            low, high = min(low, self.target), max(high, self.target)
        size = max(abs(low), abs(high))
        if high - low <= max(1e-9 * size, 1 / LARGEST):  # constant: in the middle
            room = 0.1 * size if size > 10 / LARGEST else 1.0
            low, high = low - room, high + room
        return Frame(first, last, low, high)

    def hint(self, frame: Frame | None) -> str:
        """The target in words, with an arrow where it lies outside of what is drawn."""
        if self.target is None or not math.isfinite(self.target):
            return ""
        where = (self.target > frame.high) - (self.target < frame.low) if frame else 0
        arrow = ("", "^ ", "v ")[where] if self.ascii else ("", "↑ ", "↓ ")[where]
        return f"{arrow}{self.target_label or 'target'} {number(self.target)}"


def trace(series: Series, frame: Frame) -> Dots:
    """A column of dots spans the least and the greatest number that falls into it, and neighbours are joined."""
    dots = [0] * frame.columns
    per_column = (frame.last - frame.first) / max(1, frame.columns - 1)
    start, previous = bisect_left(series.steps, frame.first), -1
    for column in range(frame.columns):
        edge = frame.first + (column + 0.5) * per_column if column + 1 < frame.columns else frame.last
        end = bisect_right(series.steps, edge, start)
        if start == end:
            continue
        low, high = series.extremes(start, end)
        dots[column] |= run(frame.row(high) + 0.5, frame.row(low) + 0.5)
        if previous >= 0 and not series.gap_before(start):
            join(dots, previous, frame.row(series.values[start - 1]), column, frame.row(series.values[start]))
        start, previous = end, column
    return dots


def run(top: float, bottom: float) -> int:
    """The dots of a column from row to row, both rounded down."""
    return (1 << math.floor(bottom) + 1) - (1 << math.floor(top))


def join(dots: Dots, left: int, start: float, right: int, end: float) -> None:
    """A straight line, one dot wide, from row ``start`` in column ``left`` to row ``end`` in column ``right``."""
    slope = (end - start) / (right - left)
    for column in range(left, right + 1):
        a, b = (start + slope * (min(max(x, left), right) - left) for x in (column - 0.5, column + 0.5))
        if math.ceil(min(a, b)) <= max(a, b):
            dots[column] |= run(math.ceil(min(a, b)), max(a, b))
        elif left < column < right:
            dots[column] |= run((a + b) / 2 + 0.5, (a + b) / 2 + 0.5)


def ticks(low: float, high: float, rows: int) -> list[tuple[float, str]]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, as many as ``rows`` hold, and how they are written."""
    step, places = 1.0, range(0)
    for apart in (3 if rows >= 9 else 2, 1):
        least = (high - low) * apart / rows
        power = 10.0 ** math.floor(math.log10(least))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9))
        places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(places) >= 2:
            break
    size = max(abs(low), abs(high))
    exponent = 0 if 1e-3 <= size < 1e5 else math.floor(math.log10(size))
    scaled = step / 10.0**exponent
    decimals = next((d for d in range(12) if abs(round(scaled, d) - scaled) < 1e-6 * scaled), 12)
    tail = f"e{exponent}" if exponent else ""
    return [(p * step, f"{p * scaled:.{decimals}f}{tail}" if p or not tail else "0") for p in places]


def number(value: float) -> str:
    """Three digits, and no zeros around an exponent."""
    text = f"{value:.0f}" if 999.5 <= abs(value) < 99999.5 else f"{value:.3g}"
    mantissa, _, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if power else text


def heading(plot: Plot, frame: Frame | None, hint: str, width: int) -> Line:
    """The title and the latest numbers; where room is short, less and less around them, at last nothing."""
    drawn = [(i % 3, name, s.values[-1]) for i, (name, s) in enumerate(plot.series.items()) if s.values]
    marks, unit = MARKS[plot.ascii], plot.unit and f" {plot.unit}"
    full = [(f"  {marks[i]} {name} {number(v)}{unit}", f"series-{i + 1}") for i, name, v in drawn]
    short = [(f" {marks[i]} {number(v)}", f"series-{i + 1}") for i, _, v in drawn]
    bad = any(s.bad and (not frame or s.bad[-1] >= frame.first) for s in plot.series.values())
    broken: Line = [(" NaN!", "alert")] * bad
    title: Line = [(plot.title, "title")]
    target: Line = [(f"  {hint}", "target")] * bool(hint)
    room = width - sum(cell_len(text) for text, _ in short + broken)
    cut: Line = (
        [(set_cell_size(plot.title, room - 1) + ("." if plot.ascii else "…"), "title")] if room > 4 else []
    )
    tries = (title + full + broken + target, title + short + broken + target, title + short + broken)
    for line in (*tries, cut + short + broken, short[:1], broken):
        if sum(cell_len(text) for text, _ in line) <= width:
            return line
    return []


def paint(cells: list[Line], dots: Dots, kind: str, mark: str) -> None:
    """A cell holds one dot, drawn as ``mark``, or 2×4 braille dots where that is empty; lines share those."""
    wide, tall = (1, 1) if mark else (2, 4)
    for x in range(len(dots) // wide):
        left, right = dots[x * wide], 0 if mark else dots[x * wide + 1]
        while both := left | right:
            y = ((both & -both).bit_length() - 1) // tall
            text, under = cells[y][x]
            shared = ord(text) if under.startswith("series") and text >= "\u2800" else 0
            braille = 0x2800 | LEFT[left >> 4 * y & 15] | RIGHT[right >> 4 * y & 15] | shared
            cells[y][x] = (mark or chr(braille), kind)
            left, right = left & -1 << (y + 1) * tall, right & -1 << (y + 1) * tall


def fill(plot: Plot, frame: Frame, cells: list[Line], hint: str) -> str:
    """Paint the band, over it the target, over that the lines, the first on top.

    Marks tell several lines apart without colour. The target's words come back if the lines leave no room for them.
    """
    dot, apart, tall = (".", 2, 1) if plot.ascii else ("", 4, 4)
    edges = zip(*(trace(s, frame) for s in plot.band), strict=True)
    inner = [run((h & -h).bit_length() - 1, low.bit_length() - 1) if low and h else 0 for low, h in edges]
    grids = [sum(1 << row for row in range(s, frame.rows, apart)) for s in (0, apart // 2)]
    paint(cells, [dots & grids[x % 2] for x, dots in enumerate(inner)], "band", dot)
    row = -1
    if plot.target is not None and frame.low <= plot.target <= frame.high:
        row = math.floor(frame.row(plot.target) + 0.5)
        paint(cells, [0 if x % apart else 1 << row for x in range(frame.columns)], "target", dot)
    for i, series in reversed(list(enumerate(plot.series.values()))):
        dots, kind, mark = trace(series, frame), f"series-{i % 3 + 1}", MARKS[plot.ascii][i % 3]
        paint(cells, dots, kind, mark if plot.ascii else "")
        wide = frame.columns // len(cells[0])
        tops = [(x // wide, (d & -d).bit_length() - 1) for x, d in enumerate(dots) if d]
        for x, top in tops[-1:] + [t for t in tops if t[0] % 16 == 5 * i] if len(plot.series) > 1 else []:
            cells[top // tall][x] = (mark, kind)
    words = f" {hint}"
    for x in (len(cells[0]) - len(words), 0) if row >= 0 else ():
        place = slice(x, x + len(words))
        if x >= 0 and not any(kind.startswith("series") for _, kind in cells[row // tall][place]):
            cells[row // tall][place] = [(letter, "target") for letter in words]
            return ""
    return hint


def draw(plot: Plot, width: int, height: int) -> list[Line]:
    """At most ``height`` lines of at most ``width`` cells: the title, and the plot where there is room for one."""
    frame, rows = plot.frame(), height - (2 if height >= 5 else 1)
    hint = plot.hint(frame)
    named = ticks(frame.low, frame.high, rows) if frame and rows >= 2 else []
    left = max((len(label) for _, label in named), default=0) + 1
    left = left if width >= left + 8 else 0
    if not frame or rows < 2 or width - left < 4:
        seen = any(s.last >= 0 for s in plot.series.values())
        words = "no number yet" if seen else "waiting for the first step"
        below = [[]] * ((rows - 1) // 2) + [[(words.center(width), "axis")]]
        lines = [heading(plot, frame, hint, width), *(below if not frame and len(words) <= width else [])]
        return lines[:height]
    wide, tall = (1, 1) if plot.ascii else (2, 4)
    frame = replace(frame, columns=(width - left) * wide, rows=rows * tall)
    cells: list[Line] = [[(" ", "")] * (width - left) for _ in range(rows)]
    hint = fill(plot, frame, cells, hint)
    at = {math.floor(frame.row(value) + 0.5) // tall: label for value, label in named}
    for y, line in enumerate(cells if left else []):
        line.insert(0, (f"{at.get(y, ''):>{left - 1}}{('│┤', '|+')[plot.ascii][y in at]}", "axis"))
    if height >= 5:
        first, last = f"{'':{left}}{frame.first} ", f"step {frame.last}" if width >= 12 else str(frame.last)
        first = first if frame.first < frame.last and len(first) + len(last) <= width else ""
        cells.append([(f"{first}{last[-width:]:>{width - len(first)}}", "axis")])
    return [heading(plot, frame, hint, width), *cells]
