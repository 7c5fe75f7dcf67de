"""One line to type into, hidden until something is asked: until then every letter is a key of the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input, Label

Answer = Callable[[str], object]


class PathSuggester(Suggester):
    """The rest of a file's or folder's name, in grey; the right arrow takes it."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(_completed, value)


def _completed(value: str) -> str | None:
    head, slash, start = value.rpartition("/")
    folder = Path(f"{head}{slash}" or ".").expanduser()
    try:
        found = sorted(
            p for p in folder.iterdir() if p.name.startswith(start) and start + p.name[:1] not in ("", ".")
        )
    except OSError:
        return None
    return f"{head}{slash}{found[0].name}{'/' if found[0].is_dir() else ''}" if found else None


class _Line(Input):
    """An input that gives away the lines it cannot hold; Textual's own drops all but the first of a paste."""

    def __init__(self, ask: AskLine) -> None:
        super().__init__(compact=True)
        self._ask = ask

    def _on_paste(self, event: events.Paste) -> None:
        if self._ask.take_lines(event.text):
            event.stop()
            event.prevent_default()


class AskLine(Horizontal):
    """Asks one thing at a time. Enter answers, and closes unless ``again``; :meth:`close` is for esc."""

    DEFAULT_CSS = """
    AskLine { height: 1; display: none; }
    AskLine Label { padding: 0 1 0 0; text-style: bold; }
    AskLine Input { width: 1fr; }
    """

    def __init__(self, id: str = "ask") -> None:
        super().__init__(id=id)
        self._answer: Answer = lambda _: None
        self._each: Answer | None = None
        self._again = False
        self._before: Widget | None = None

    def compose(self) -> ComposeResult:
        yield Label("", markup=False)
        yield _Line(self)

    @property
    def line(self) -> Input:
        return self.query_one(Input)

    def ask(
        self, what: str, answer: Answer, *, value: str = "", again: bool = False, each: Answer | None = None,
        suggester: Suggester | None = None,
    ) -> None:  # fmt: skip
        """Open for one question; ``each`` hears every change, ``again`` asks on until it is closed."""
        if not self.display:
            self._before = self.screen.focused
        self._answer, self._each, self._again = answer, each, again
        self.query_one(Label).update(what)
        self.line.suggester = suggester
        self.line.value = value
        self.line.cursor_position = len(value)
        self.display = True
        self.line.focus()

    def close(self) -> bool:
        """Back to the keys; False where nothing was asked."""
        if not self.display:
            return False
        self.display = False
        self._each = None
        if self._before is not None:
            self._before.focus()
        return True

    def take_lines(self, text: str) -> bool:
        """Answer with all pasted lines at once; False where there is but one, or one is wanted."""
        lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
        if not self._again or len(lines) < 2:
            return False
        self._answer("\n".join(lines))
        return True

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        text = event.value.strip()
        if self._again:
            self.line.value = ""
        else:
            self.close()
        self._answer(text)

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._each and self.display:
            self._each(event.value)
