"""Open a project: one that was opened before, or any folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.text import Text
from textual import on
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import config
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.project import Project
from rlhf_lite.tui import keys
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.new import home_short
from rlhf_lite.tui.widgets.ask import AskLine, PathSuggester
from rlhf_lite.tui.widgets.rows import PickList

NONE = "No project was opened here yet. Press p to type a folder's path, or n to make a new project."
SOME = "Opened last, the newest first. Enter opens one; p types the path of another folder."


class OpenPage(Page):
    PAGE = "open"
    PAGE_NAME = "open"
    TITLE = "Open"
    BINDINGS = keys.bindings("open")
    HELP_TEXT = (
        "The projects that were opened here, the newest first. p opens any other by the path of its folder, n makes a "
        "new one. Jobs of the project that you leave go on by themselves, and it shows them again when you come back."
    )
    AUTO_FOCUS = "#recent"
    DEFAULT_CSS = """
    OpenPage #about { padding: 0 0 1 0; }
    OpenPage #recent { height: auto; max-height: 1fr; }
    """

    def body(self) -> Iterable[Widget]:
        yield Static(id="about", markup=False)
        yield AskLine()
        yield PickList(id="recent", compact=True)

    def on_screen_resume(self) -> None:
        rows = self.query_one(PickList)
        with self.told():
            found = config.recent()
            rows.clear_options()
            rows.add_options([Option(_row(path), id=str(path)) for path in found])
            rows.highlighted = 0 if found else None
            self.query_one("#about", Static).update(SOME if found else NONE)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self._open(Path(event.option.id or ""))

    def action_do(self) -> None:
        self.query_one(PickList).action_select()

    def action_path(self) -> None:
        self.query_one(AskLine).ask(
            "Folder", self._typed, value=f"{home_short(Path.cwd())}/", suggester=PathSuggester()
        )

    def _typed(self, text: str) -> None:
        if text:
            with self.told():
                self._open(Path(text).expanduser())

    def _open(self, path: Path) -> None:
        with self.told():
            self.rlhf.open_project(Project.open(path))
            self.rlhf.back()

    def action_new(self) -> None:
        self.rlhf.back()
        self.rlhf.show("new")

    def action_back(self) -> None:
        if not self.query_one(AskLine).close():
            super().action_back()


def _row(path: Path) -> Text:
    """Name, model and place of a project; one that cannot be read says so."""
    text = Text(no_wrap=True, overflow="ellipsis")
    try:
        file = Project.open(path).file
    except RlhfLiteError as error:
        return text.append(f" {path.name:<20} ").append(f"cannot be read: {error.message}", "bold red")
    text.append(f" {file.name:<20} ", "bold").append(f"{file.model.rsplit('/', 1)[-1]:<22} ")
    return text.append(home_short(path.parent), "dim")
