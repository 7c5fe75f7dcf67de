"""Two answers to one prompt: side by side, or one over the other where the window is narrow.

Neither pane takes the keyboard's focus, or the arrows would scroll it instead of choosing: a pane is picked by a
click, and chosen by a second click or the page's Enter. What a model wrote is a stranger's text: never markup, and
without the control sequences that a terminal would obey.
"""

from __future__ import annotations

import difflib
import re
from typing import Literal

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widgets import Static

from rlhf_lite.report import printable

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
LETTERS: dict[Side, str] = {"left": "A", "right": "B"}
FLASH_SECONDS = 0.12
DIFFERENT = "bold underline"
_WORDS = re.compile(r"\s+|\S+")


def differing(left: str, right: str) -> tuple[Text, Text]:
    """Both texts, the words that the other one lacks in bold and underlined."""
    sides = _WORDS.findall(left), _WORDS.findall(right)
    words = [[w for w in side if not w.isspace()] for side in sides]
    same: tuple[set[int], set[int]] = set(), set()
    for block in difflib.SequenceMatcher(None, *words, autojunk=False).get_matching_blocks():
        same[0].update(range(block.a, block.a + block.size))
        same[1].update(range(block.b, block.b + block.size))
    return _marked(sides[0], same[0]), _marked(sides[1], same[1])


def _marked(tokens: list[str], same: set[int]) -> Text:
    text, word = Text(), 0
    for token in tokens:
        if token.isspace():
            text.append(token)
            continue
        text.append(token, "" if word in same else DIFFERENT)
        word += 1
    return text


def length_words(text: str) -> str:
    """``40 words``."""
    count = len(text.split())
    return "1 word" if count == 1 else f"{count} words"


class AnswerPane(VerticalScroll, can_focus=False):
    """One answer. The border says which it is and how long."""

    class Clicked(Message):
        def __init__(self, side: Side) -> None:
            super().__init__()
            self.side: Side = side

    def __init__(self, side: Side) -> None:
        super().__init__(id=side)
        self.side: Side = side
        self._pressed_at: tuple[int, int] | None = None
        self._text = Static(markup=False)

    def compose(self) -> ComposeResult:
        yield self._text

    def show(self, answer: Text, words: str) -> None:
        """Another answer, from its beginning."""
        self._text.update(answer if answer.plain.strip() else Text("(an empty answer)", "dim italic"))
        self.border_subtitle = words
        self.scroll_home(animate=False)

    def name_it(self, *parts: str) -> None:
        self.border_title = " · ".join((LETTERS[self.side], *(p for p in parts if p)))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._pressed_at = event.screen_offset

    def on_click(self, event: events.Click) -> None:
        if event.screen_offset == self._pressed_at:  # else text was being selected
            self.post_message(self.Clicked(self.side))


class AnswerPanes(Container):
    """Both answers; ``zoomed`` is the one that has the whole width."""

    DEFAULT_CSS = """
    AnswerPanes { layout: horizontal; height: 1fr; min-height: 3; }
    AnswerPane {
        width: 1fr; height: 1fr; padding: 0 1; border: round $foreground 40%;
        border-title-color: $text; border-title-style: bold; border-subtitle-color: $text-muted;
        scrollbar-size-vertical: 1;
    }
    AnswerPane.-ascii { border: ascii $foreground 40%; }
    AnswerPane.-picked { border: round $primary; border-title-color: $text-primary; }
    AnswerPane.-picked.-ascii { border: ascii $primary; }
    AnswerPane.-picked:nocolor { border-title-style: reverse; }
    AnswerPane.-won { border: round $success; border-title-style: bold reverse; }
    AnswerPane.-won.-ascii { border: ascii $success; }
    """

    def __init__(self, *, ascii: bool = False, id: str = "answers") -> None:
        self._panes: dict[Side, AnswerPane] = {side: AnswerPane(side) for side in SIDES}
        super().__init__(*self._panes.values(), id=id)
        self.picked: Side | None = None
        self.zoomed: Side | None = None
        self.diff = False
        self._answers: dict[Side, str] = {"left": "", "right": ""}
        self._names: dict[Side, str] = {"left": "", "right": ""}
        for pane in self._panes.values():
            pane.set_class(ascii, "-ascii")
            pane.name_it()

    def show(self, left: str, right: str) -> None:
        """Another pair; nothing is picked, and names that were shown are gone."""
        self._answers = {"left": printable(left).strip(), "right": printable(right).strip()}
        self._names = {"left": "", "right": ""}
        self._draw()
        self.pick(None)

    def _draw(self) -> None:
        left, right = self._answers["left"], self._answers["right"]
        texts = differing(left, right) if self.diff else (Text(left), Text(right))
        for pane, text in zip(self._panes.values(), texts, strict=True):
            pane.show(text, length_words(self._answers[pane.side]))

    def toggle_diff(self) -> None:
        self.diff = not self.diff
        self._draw()

    def pick(self, side: Side | None) -> None:
        """The pane that Enter chooses."""
        self.picked = side
        for pane in self._panes.values():
            pane.set_class(pane.side == side, "-picked")
        self._title()

    def reveal(self, left: str, right: str) -> None:
        """Say on the borders whose answers these are."""
        self._names = {"left": left, "right": right}
        self._title()

    def _title(self) -> None:
        for side, pane in self._panes.items():
            hint = "Enter chooses it" if side == self.picked else ""
            zoomed = "z for the other" if side == self.zoomed else ""
            pane.name_it(self._names[side], hint, zoomed)

    def zoom(self) -> None:
        """One answer over the whole width, then the other, then both."""
        order: tuple[Side | None, ...] = (None, *SIDES)
        self.zoomed = order[(order.index(self.zoomed) + 1) % 3]
        for side, pane in self._panes.items():
            pane.display = self.zoomed in (None, side)
        self._title()

    def flash(self, side: Side) -> None:
        """Show for a moment which side was chosen; not where animations are off."""
        if self.app.animation_level == "none":
            return
        pane = self._panes[side]
        pane.add_class("-won")
        pane.set_timer(FLASH_SECONDS, lambda: pane.remove_class("-won"))

    def scroll_both(self, lines: int) -> None:
        """Both together."""
        for pane in self._panes.values():
            pane.scroll_relative(y=lines, animate=False)

    def scroll_pages(self, pages: int) -> None:
        self.scroll_both(pages * max(1, min(p.size.height for p in self._panes.values() if p.display) - 1))

    @property
    def shown(self) -> dict[Side, str]:
        return self._answers
