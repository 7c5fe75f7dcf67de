"""A short list of things to do or to change, one a row, each with its key beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from rlhf_lite.tui import keys


@dataclass(frozen=True)
class Doing:
    """``action`` is what Enter or a click on the row runs; ``strong`` for the one that most people want."""

    action: str
    key: str
    name: str
    words: str = ""
    strong: bool = False


class PickList(OptionList, inherit_bindings=False):
    """An OptionList that leaves Enter to its page, whose footer then names it; the page calls ``action_select``."""

    BINDINGS: ClassVar[list[BindingType]] = [*keys.bindings("list")]
    DEFAULT_CSS = """
    PickList {
        border: none; padding: 0; background: transparent; text-wrap: nowrap; text-overflow: ellipsis;
        scrollbar-size-vertical: 1;
    }
    PickList:focus { border: none; }
    """


class DoingList(PickList):
    """Keeps its place when its rows are told anew."""

    DEFAULT_CSS = """
    DoingList { height: auto; max-height: 50%; }
    """

    def __init__(self, *, id: str, width: int = 12) -> None:
        super().__init__(id=id, compact=True)
        self._width = width

    def show(self, rows: Iterable[Doing], at: str = "") -> None:
        """Show these rows; ``at`` names the action whose row is highlighted, else the one that was."""
        before = self.highlighted_option.id if self.highlighted_option else None
        self.clear_options()
        self.add_options([Option(self._drawn(row), id=row.action) for row in rows])
        for wanted in (at, before):
            if wanted and any(option.id == wanted for option in self.options):
                self.highlighted = self.get_option_index(wanted)
                return
        self.highlighted = 0

    def _drawn(self, row: Doing) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f" {row.key:<6}", "bold")
        text.append(f"{row.name:<{self._width}} ", "bold" if row.strong else "")
        return text.append(row.words)
