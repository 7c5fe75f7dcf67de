"""A page to write on: a better answer, or the project's guidelines."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Static, TextArea

from rlhf_lite.tui import keys


class WritingPage(ModalScreen[str | None]):
    """Gives back the text, or None where the writer went back. ``starts`` are texts to begin with: (name, text)."""

    BINDINGS = keys.bindings("writing")
    DEFAULT_CSS = """
    WritingPage { align: center middle; }
    WritingPage > Vertical { width: 96%; height: 90%; border: round $primary; background: $surface; padding: 0 1; }
    WritingPage > Vertical.-ascii { border: ascii $primary; }
    WritingPage .what { height: auto; max-height: 4; text-style: bold; }
    WritingPage TextArea { height: 1fr; border: none; padding: 0; }
    WritingPage .from { color: $text-muted; }
    """

    def __init__(self, title: str, starts: Sequence[tuple[str, str]], *, ascii: bool = False) -> None:
        super().__init__()
        self._title, self._starts, self._at, self._ascii = title, list(starts), 0, ascii

    def compose(self) -> ComposeResult:
        with Vertical(classes="-ascii" if self._ascii else ""):
            yield Static(self._title, classes="what", markup=False)
            yield Static(classes="from", markup=False)
            yield TextArea(soft_wrap=True, show_line_numbers=False, compact=True)
            yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self._begin()
        self.query_one(TextArea).focus()

    def _begin(self) -> None:
        name, text = self._starts[self._at]
        area = self.query_one(TextArea)
        area.load_text(text)
        area.move_cursor(area.document.end)
        words = self.query_one(".from", Static)
        words.display = len(self._starts) > 1
        following = self._starts[(self._at + 1) % len(self._starts)][0]
        words.update(f"Begins with {name}; F3 begins with {following} instead.")

    def action_other(self) -> None:
        """Begin with the next text; what was written since is dropped."""
        self._at = (self._at + 1) % len(self._starts)
        self._begin()

    def action_save(self) -> None:
        self.dismiss(self.query_one(TextArea).text)

    def action_cancel(self) -> None:
        self.dismiss(None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return len(self._starts) > 1 if action == "other" else True
