"""What jobs write beside their events, and what went wrong in the app; a bug report of both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite import bugreport
from rlhf_lite.project import Run
from rlhf_lite.report import printable
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Change
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.behind import behind

LINES = 500


class LogPage(Page):
    PAGE = "log"
    PAGE_NAME = "log"
    TITLE = "Log"
    AUTO_FOCUS = ""
    BINDINGS = keys.bindings("log")
    HELP_TEXT = (
        "What a run's process wrote, its last 500 lines. c makes a bug report: versions, settings, the run and its "
        "log, without tokens, passwords and your name. Read it over before you send it."
    )
    DEFAULT_CSS = """
    LogPage #which { height: auto; max-height: 2; text-style: bold; }
    LogPage #written { height: auto; max-height: 3; color: $text-success; display: none; }
    LogPage #scroll { height: 1fr; border-top: solid $panel; }
    LogPage.-ascii #scroll { border-top: ascii $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._picked: str | None = (
            None  # the run whose log is shown; "" for the app's own, None for the newest
        )
        self._drawn: tuple[Path, int] | None = None

    def body(self) -> Iterable[Widget]:
        yield Static(id="which", markup=False)
        yield Static(id="written", markup=False)
        yield VerticalScroll(Static(id="lines", markup=False), id="scroll", can_focus=False)

    def select(self, name: str | None) -> None:
        """Show this run's log from now on, None for the newest's."""
        self._picked = name
        if self.is_mounted:
            self.redraw()

    def shows(self, change: Change) -> bool:
        return change.watched.run == self._run

    @property
    def _runs(self) -> list[Run]:
        return [w.run for w in self.feed.runs] if self.desk.feed else []

    @property
    def _run(self) -> Run | None:
        """The run that was picked, else the newest; None for the app's own log."""
        runs = self._runs
        if self._picked == "" or not runs:
            return None
        return next((run for run in runs if run.name == self._picked), runs[-1])

    def redraw(self) -> None:
        run = self._run
        path = run.log_path if run else bugreport.app_log()
        try:
            size = path.stat().st_size
        except OSError:
            size = -1
        if self._drawn == (path, size):
            return
        fresh = self._drawn is None or self._drawn[0] != path
        self._drawn = path, size
        lines, box = bugreport.tail(path, LINES), self.query_one("#scroll", VerticalScroll)
        at_end = fresh or box.scroll_y >= box.max_scroll_y - 1
        cut = f"its last {LINES} lines, " if len(lines) == LINES else ""
        name = run.name if run else "The app itself"
        self.query_one("#which", Static).update(f"{name}: {cut}{path}")
        nothing = "It has written nothing." if run else "Nothing went wrong in the app so far."
        self.query_one("#lines", Static).update(printable("\n".join(lines)) or nothing)
        if at_end:
            self.call_after_refresh(box.scroll_end, animate=False)

    def action_look(self, by: int) -> None:
        """The log of the run before, or after."""
        names = [run.name for run in self._runs]
        if not names:
            return
        run = self._run
        at = names.index(run.name) + by if run else len(names) - 1
        self.select(names[max(0, min(at, len(names) - 1))])

    def action_app_log(self) -> None:
        self.select("")

    def action_report(self) -> None:
        """To the clipboard, which not every terminal lets us have, and to a file as well."""
        project, run = self.desk.project, self._run
        terminal = f"{self.app.size.width}x{self.app.size.height}, theme {self.app.theme}"

        def made() -> tuple[str, Path]:
            text = bugreport.text(project, run, terminal=terminal)
            return text, bugreport.write(text)

        behind(self, made, lambda found: self._tell(*found))

    def _tell(self, text: str, path: Path) -> None:
        self.app.copy_to_clipboard(text)
        told = self.query_one("#written", Static)
        told.display = True
        told.update(f"Bug report copied, and written to {path}\nRead it over before you send it.")

    def action_end(self) -> None:
        self.query_one("#scroll", VerticalScroll).scroll_end(animate=False)

    def action_scroll(self, rows: int) -> None:
        self.query_one("#scroll", VerticalScroll).scroll_relative(y=rows, animate=False)

    def action_scroll_pages(self, pages: int) -> None:
        box = self.query_one("#scroll", VerticalScroll)
        box.scroll_relative(y=pages * box.size.height, animate=False)
