"""Two answers to what was asked last, to choose from: the choice becomes a label."""

from __future__ import annotations

import random
import time

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from rlhf_lite.conversation import Choice
from rlhf_lite.report import printable
from rlhf_lite.tui.widgets.answers import AnswerPane, AnswerPanes, Side


class ChoicePanel(Vertical):
    """Hidden until :meth:`show`. The older answer's side is tossed: knowing which is which would sway the choice."""

    DEFAULT_CSS = """
    ChoicePanel { display: none; height: 1fr; padding: 0 1; }
    ChoicePanel #asked { max-height: 3; text-style: bold; }
    """

    class Chosen(Message):
        """``left`` and ``right`` as they were shown; ``answer`` is the one that was liked, None where neither was."""

        def __init__(self, choice: Choice, left: str, right: str, seconds: float) -> None:
            super().__init__()
            self.choice: Choice = choice
            self.left, self.right, self.seconds = left, right, seconds

        @property
        def answer(self) -> str | None:
            return {"left": self.left, "right": self.right}.get(self.choice)

    def __init__(self, *, ascii: bool, id: str) -> None:
        super().__init__(id=id)
        self._ascii = ascii
        self._texts: tuple[str, str] = ("", "")
        self._shown_at = 0.0

    def compose(self) -> ComposeResult:
        yield Static(id="asked", markup=False)
        yield AnswerPanes(ascii=self._ascii, id="two")

    @property
    def panes(self) -> AnswerPanes:
        return self.query_one(AnswerPanes)

    def show(self, question: str, first: str, second: str) -> None:
        """Ask which is better."""
        texts = [first, second]
        random.shuffle(texts)
        self._texts = (texts[0], texts[1])
        self._shown_at = time.monotonic()
        self.query_one("#asked", Static).update(Text(f"Which is better?  > {printable(question)}"))
        self.panes.show(*self._texts)
        self.display = True

    def hide(self) -> None:
        self.display = False

    def choose(self, choice: Choice) -> None:
        """The answer is given."""
        self.hide()
        self.post_message(self.Chosen(choice, *self._texts, time.monotonic() - self._shown_at))

    def choose_picked(self) -> None:
        if self.panes.picked:
            self.choose(self.panes.picked)

    @on(AnswerPane.Clicked)
    def _clicked(self, event: AnswerPane.Clicked) -> None:
        side: Side = event.side
        if self.panes.picked == side:
            self.choose(side)
        else:
            self.panes.pick(side)
