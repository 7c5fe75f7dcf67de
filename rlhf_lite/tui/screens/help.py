"""Every key of the page beneath, and what the page is for; the ids are what ``[keys]`` in the settings moves."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Static

from rlhf_lite.tui import keys, words
from rlhf_lite.tui.keys import Key

WITH_IDS = 70  # columns
MOVE = (
    "A key moves by its name on the right: open the settings (comma at home), Keys, and write label.left = 1,h\n"
    "There is a set of keys for vim users, and one for the left hand alone."
)


class HelpPage(ModalScreen[None]):
    """``beneath`` is the page that it explains."""

    BINDINGS = keys.bindings("help")
    DEFAULT_CSS = """
    HelpPage { align: center middle; }
    HelpPage > Vertical { width: 96; max-width: 96%; height: 100%; border: round $primary;
        padding: 0 1; background: $surface; }
    HelpPage > Vertical.-ascii { border: ascii $primary; }
    HelpPage VerticalScroll { height: 1fr; }
    HelpPage Footer { dock: none; }
    """

    def __init__(self, beneath: Screen[Any]) -> None:
        super().__init__()
        self._beneath = beneath

    def compose(self) -> ComposeResult:
        ascii = self.app.has_class("-ascii")
        with Vertical(classes="-ascii" if ascii else "") as box:
            box.border_title = f"Help: {self._beneath.title or self.app.title}"
            yield VerticalScroll(Static(id="keys"))
            yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        """The page's own words, its keys, those of its list, the app's."""
        found = keys.page_of(self._beneath)
        lists = {keys.page_of(widget) for widget in self._beneath.query("*")} & keys.WIDGETS.keys()
        told = str(getattr(self._beneath, "HELP_TEXT", "")).strip()
        parts: list[RenderableType] = [Text(f"{told}\n")] if told else []
        for name, table in (
            ("Keys of this page", keys.table(found)),
            *(("In a list", keys.table(one)) for one in sorted(lists)),
            ("Everywhere", keys.APP),
        ):
            if table:
                parts += [Text(name, "bold underline"), self._table(table), Text()]
        self.query_one("#keys", Static).update(Group(*parts, Text(MOVE)))
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        """As high as what it says, where the window is that high: the border and the keys below take three rows."""
        rows = self.query_one("#keys").size.height + 3
        self.query_one("HelpPage > Vertical").styles.height = min(rows, self.app.size.height)

    def _table(self, table: tuple[Key, ...]) -> Table:
        with_ids = self.app.size.width >= WITH_IDS
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(width=18 if with_ids else 14)
        grid.add_column(ratio=1)
        if with_ids:
            grid.add_column(justify="right", no_wrap=True)
        for key in table:
            row = [Text(words.shown(self.app, key), "bold"), Text(words.of(key))]
            grid.add_row(*row, *([Text(key.id, "dim")] if with_ids else []))
        return grid

    def action_close(self) -> None:
        self.dismiss()

    def action_scroll(self, rows: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=rows, animate=False)

    def action_scroll_pages(self, pages: int) -> None:
        box = self.query_one(VerticalScroll)
        box.scroll_relative(y=pages * box.size.height, animate=False)
