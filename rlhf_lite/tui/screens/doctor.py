"""What this machine has: the first page of the first start, and later one key from home."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.containers import VerticalScroll
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite import doctor, memory, paths
from rlhf_lite.tui import keys
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.behind import behind

NO_GPU = "There is no NVIDIA GPU: everything works here on the built-in demo model, in minutes and with no download."
FONT_TEST = "⡀⡄⡆⡇⣇⣧⣷⣿  ╭─┬─╮ ━ ▸ ● ✔ ≈ ✘"
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
DEEP = "Trying torch, 4-bit weights and llama.cpp on something small, in a process of their own"


class DoctorPage(Page):
    PAGE = "doctor"
    PAGE_NAME = "doctor"
    TITLE = "Doctor"
    BINDINGS = keys.bindings("doctor")
    HELP_TEXT = (
        "What this machine has, and what to do about what is missing. Without a GPU everything still works on the "
        "built-in model. d tries torch, 4-bit weights and llama.cpp on something small, and finds what versions alone "
        "do not tell. The last rows show which letters and colours your terminal draws."
    )
    DEFAULT_CSS = """
    DoctorPage #found { height: 1fr; }
    DoctorPage #state { height: auto; max-height: 3; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._checks: list[doctor.Check] = []
        self._deep: list[doctor.Check] = []
        self._memory: memory.Memory | None = None
        self._began = 0.0
        self._ticking: Timer | None = None

    def body(self) -> Iterable[Widget]:
        yield VerticalScroll(Static(id="rows", markup=False), id="found")
        yield Static("Looking at this machine…", id="state", markup=False)

    def on_screen_resume(self) -> None:
        self.query_one("#found").focus()
        self._draw()
        behind(self, lambda: (doctor.check(), memory.read()), self._looked)

    def _looked(self, found: tuple[list[doctor.Check], memory.Memory]) -> None:
        self._checks, self._memory = found
        self._draw()
        if not self._ticking:
            self._say(self._verdict())

    def _verdict(self) -> str:
        missing = [c.name for c in (*self._checks, *self._deep) if not c.ok]
        if missing:
            return f"To do: {', '.join(missing)}. Enter goes on all the same."
        gpu = self._memory is not None and self._memory.kind == "gpu"
        return "Everything needed is here. Enter goes on." if gpu else f"{NO_GPU} Enter goes on."

    def _say(self, text: str) -> None:
        self.query_one("#state", Static).update(Text(text, "bold"))

    def _draw(self) -> None:
        tests = _grid([*self._font_rows(), ("", "Colours", _colours(), "")])
        rows = [_row(c, self.desk.ascii) for c in (*self._checks, *self._deep)]
        self.query_one("#rows", Static).update(Group(_grid([*rows, *self._holder_rows()]), Text(""), tests))

    def _holder_rows(self) -> list[Row]:
        if not self._memory or self._memory.kind != "gpu":
            return []
        sizes = [
            f"{h.name} {h.bytes / memory.GIB:.1f} GiB" if h.bytes else h.name for h in self._memory.holders
        ]
        held = ", ".join(sizes) or "nobody that the driver tells of"
        return [("", "GPU memory", f"{self._memory.free / memory.GIB:.1f} GiB free; held by {held}", "")]

    def _font_rows(self) -> list[Row]:
        if self.desk.ascii:
            return [("", "Font", "plain letters only (ascii is on)", "")]
        hint = "rising dots, lines and marks; if you see boxes instead: ascii = true in the settings"
        return [("", "Font", FONT_TEST, hint)]

    def action_go_on(self) -> None:
        with self.told():
            paths.state().mkdir(parents=True, exist_ok=True)
            (paths.state() / "welcomed").touch()
        self.rlhf.back()

    def action_back(self) -> None:
        self.action_go_on()

    def action_deep(self) -> None:
        if self._ticking:
            return
        self._began = time.monotonic()
        self._ticking = self.set_interval(0.5, self._tick)
        self._tick()
        behind(self, doctor.deep_check, self._deep_done, self._deep_failed)

    def _tick(self) -> None:
        self._say(f"{DEEP}: {time.monotonic() - self._began:.0f} s")

    def _deep_done(self, found: Sequence[doctor.Check]) -> None:
        self._stop_ticking()
        self._deep = list(found)
        self._draw()
        self._say(self._verdict())
        self.query_one("#found", VerticalScroll).scroll_end(animate=False)

    def _deep_failed(self, error: Exception) -> None:
        self._stop_ticking()
        self._say(self._verdict())
        with self.told():
            raise error

    def _stop_ticking(self) -> None:
        if self._ticking:
            self._ticking.stop()
            self._ticking = None


Row = tuple[str | Text, str, str | Text, str]
"""Mark with a word, name, what was found, and what to do about it."""


def _row(check: doctor.Check, ascii: bool) -> Row:
    mark, word, style = ("✔", "ok", "green") if check.ok else ("✘", "to do", "bold red")
    style = "" if "NO_COLOR" in os.environ else style  # red would be a dark grey
    detail: str | Text = check.detail
    if check.ok and check.name == "packages":  # a page full of versions, of interest where one is missing
        detail = Text(detail, no_wrap=True, overflow="ellipsis")
    return Text(word if ascii else f"{mark} {word}", style), check.name, detail, check.hint


def _grid(rows: Sequence[Row]) -> Table:
    """Columns that wrap in themselves, so that nothing is cut off at 60 columns."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(width=7)
    grid.add_column(width=15)
    grid.add_column(ratio=1)
    for mark, name, detail, hint in rows:
        told = detail.copy() if isinstance(detail, Text) else Text(detail)
        if hint:
            told.append(f"\n{hint}", "dim")
        grid.add_row(mark, Text(name, "bold"), told)
    return grid


def _colours() -> Text:
    if "NO_COLOR" in os.environ:
        return Text("off (NO_COLOR is set); every mark has its word beside it")
    return Text(" ").join(Text(name, name) for name in COLOURS)
