"""Where a message is typed. Enter sends, a backslash before it or ctrl+o begins a new line, up brings old ones back."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import TextArea

from rlhf_lite.tui import keys

OWN = ("newline", "older", "newer", "page(-1)", "page(1)")


class ChatInput(TextArea):
    """As high as its text, up to six rows. The page hears :class:`Sent`, and :class:`Paged` for the log."""

    BINDINGS: ClassVar[list[BindingType]] = [b for b in keys.bindings("chat") if b.action in OWN]
    DEFAULT_CSS = """
    ChatInput, ChatInput:focus {
        height: auto; min-height: 1; max-height: 6; border: none; padding: 0; background: $surface;
    }
    """

    class Sent(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Paged(Message):
        def __init__(self, pages: int) -> None:
            super().__init__()
            self.pages = pages

    def __init__(self, *, id: str, placeholder: str) -> None:
        super().__init__(
            id=id,
            placeholder=placeholder,
            compact=True,
            soft_wrap=True,
            highlight_cursor_line=False,
        )
        self._sent: list[str] = []
        self._place = 0  # in what was sent; its length: what is being typed now
        self._draft = ""
        self.cursor_blink = False

    def _on_key(self, event: events.Key) -> None:
        if event.key != "enter":
            return
        event.stop()
        event.prevent_default()
        row, column = self.cursor_location
        before = self.document.get_line(row)[:column]
        if before.endswith("\\"):
            self.action_delete_left()
            self.insert("\n")
        elif self.text.strip():
            self.send()

    def send(self) -> None:
        """Hand over what was typed, and be empty again."""
        text = self.text.rstrip()
        if self._sent[-1:] != [text]:
            self._sent.append(text)
        self.put("")
        self._place = len(self._sent)
        self.post_message(self.Sent(text))

    def put(self, text: str) -> None:
        """Hold this text, the cursor behind it."""
        self.text = text
        self.move_cursor(self.document.end)

    def action_newline(self) -> None:
        self.insert("\n")

    def action_older(self) -> None:
        """The message before, where the cursor cannot go up any more."""
        if not self.cursor_at_first_line:
            self.action_cursor_up()
        elif self._place > 0:
            if self._place == len(self._sent):
                self._draft = self.text
            self._place -= 1
            self.put(self._sent[self._place])

    def action_newer(self) -> None:
        if not self.cursor_at_last_line:
            self.action_cursor_down()
        elif self._place < len(self._sent):
            self._place += 1
            self.put(self._draft if self._place == len(self._sent) else self._sent[self._place])

    def action_page(self, pages: int) -> None:
        self.post_message(self.Paged(pages))
