"""A conversation as it is seen: questions, answers that grow while they are said, and what the app says in between.

What a model says is Markdown, drawn without its HTML being obeyed or dropped, and every line break kept: small models
write lists and verses without the blank lines that Markdown wants. With ``ascii`` it is shown as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.timer import Timer
from textual.widgets import Static

from rlhf_lite.report import printable
from rlhf_lite.tui import garbage
from rlhf_lite.tui.widgets.markdown import SpokenMarkdown, settled, spaced

EMPTY = "*(an empty answer)*"
WHOLE = (
    2000  # characters at the end that stay Markdown, a widget a paragraph; what lies before is one text each
)
PAST = 10_000  # characters after which the next text of the past begins: to lay out again is then a few ms
PAUSE = 0.1  # seconds between two drawings of an answer that grows


class SpokenAnswer(Vertical):
    """One answer. ``name`` stands on its border where two are next to each other."""

    DEFAULT_CSS = """
    SpokenAnswer { height: auto; width: 1fr; }
    SpokenAnswer Markdown { padding: 0 1; }
    SpokenAnswer .plain { padding: 0 1; margin: 0 0 1 0; }
    SpokenAnswer MarkdownH1, SpokenAnswer MarkdownH2 { content-align: left middle; margin: 0 0 1 0; }
    SpokenAnswer.-named { border: round $foreground 40%; min-height: 3; }
    SpokenAnswer.-named.-ascii { border: ascii $foreground 40%; }
    SpokenAnswer.-named.-current { border: round $primary; border-title-style: bold; }
    SpokenAnswer.-named.-current.-ascii { border: ascii $primary; }
    """

    def __init__(self, text: str = "", *, ascii: bool, name: str = "", current: bool = False) -> None:
        super().__init__()
        self.spoken = text
        self._ascii = ascii
        self._painter: Timer | None = None
        self._drawn = ""  # what the Markdown was given
        self._drawing = asyncio.Lock()
        self.border_title = name or None
        self.set_class(ascii, "-ascii")
        self.set_class(bool(name), "-named")
        self.set_class(current, "-current")

    def compose(self) -> ComposeResult:
        if self._ascii:
            yield Static(printable(self.spoken), classes="plain", markup=False)
        else:
            yield SpokenMarkdown(spaced(printable(self.spoken)) or None)

    async def write(self, piece: str) -> None:
        """Some more of it, as it is said; drawn at once where it is the first, else with what else comes meanwhile."""
        self.spoken += piece
        if self._painter is None:
            self._painter = self.set_interval(PAUSE, self._paint)
            await self._paint()

    async def _paint(self) -> None:
        if self._ascii:
            self.query_one(Static).update(Text(printable(self.spoken)))
        else:
            await self._draw(spaced(printable(settled(self.spoken))))

    async def _draw(self, text: str) -> None:
        """Show this Markdown; what goes on from what is there costs no more than what is new."""
        markdown = self.query_one(SpokenMarkdown)
        async with self._drawing:
            drawn, self._drawn = self._drawn, text
            if not text.startswith(drawn):
                await markdown.update("")
                drawn = ""
            if text != drawn:
                await markdown.append(text[len(drawn) :])

    async def finish(self) -> None:
        """No more will come: what it shows is the whole answer."""
        if self._painter is not None:
            self._painter.stop()
        if self._ascii:
            self.query_one(Static).update(Text(printable(self.spoken).strip() or EMPTY.strip("*")))
        else:
            await self._draw(spaced(printable(self.spoken)) if self.spoken.strip() else EMPTY)


class Exchange(Vertical):
    """One question and what was answered to it."""

    DEFAULT_CSS = """
    Exchange { height: auto; }
    Exchange .question { text-style: bold; padding: 0 1; background: $panel; }
    Exchange .answers { height: auto; layout: horizontal; }
    """

    def __init__(self, question: str, answer: str | None = None, *, ascii: bool) -> None:
        super().__init__()
        self.question = question
        self._answer = answer
        self._ascii = ascii

    def compose(self) -> ComposeResult:
        yield Static(Text(f"> {printable(self.question)}"), classes="question", markup=False)
        with Container(classes="answers"):
            if self._answer is not None:
                yield SpokenAnswer(self._answer or EMPTY.strip("*"), ascii=self._ascii)

    async def answers(self, *names: str, current: str = "") -> list[SpokenAnswer]:
        """Room for new answers in place of the old: one without a name, or one of each name."""
        place = self.query_one(".answers")
        new = [SpokenAnswer(ascii=self._ascii, name=name, current=name == current) for name in names or ("",)]
        await place.remove_children()
        await place.mount_all(new)
        self.call_after_refresh(garbage.pause)
        return new

    async def settle(self, answer: str) -> None:
        """This is the answer."""
        place = self.query_one(".answers")
        await place.remove_children()
        await place.mount(SpokenAnswer(answer, ascii=self._ascii))

    @property
    def length(self) -> int:
        """Characters of its answers."""
        return sum(len(answer.spoken) for answer in self.query(SpokenAnswer))

    def as_text(self) -> Text:
        heard = [(answer.border_title or "", answer.spoken) for answer in self.query(SpokenAnswer)]
        return as_text(self.question, *heard)


def as_text(question: str, *answers: tuple[str, str]) -> Text:
    """An exchange as one text; each answer behind the name of its voice, empty where there was only one."""
    text = Text().append(f"> {printable(question)}\n", "bold")
    for name, answer in answers:
        text.append(f"{name}: " if name else "").append(
            f"{printable(answer).strip() or EMPTY.strip('*')}\n\n"
        )
    return text


class Note(Static):
    """Something that the app says."""

    def __init__(self, words: str | Text, *, bad: bool) -> None:
        self.words = words if isinstance(words, Text) else Text(printable(words))
        super().__init__(self.words, classes="note -bad" if bad else "note", markup=False)

    def as_text(self) -> Text:
        return Text().append_text(self.words).append("\n\n")


class Past(Static):
    """What was said long ago, as one text: an answer that grows lays the whole log out anew, each of its widgets."""

    def __init__(self) -> None:
        self.text = Text()
        super().__init__(classes="past", markup=False)

    def add(self, text: Text) -> None:
        self.text.append_text(text)
        self.update(self.text[:-1])  # its last line break would be an empty row more


class ChatLog(VerticalScroll, can_focus=False):
    """All of it, at its end unless somebody scrolls up."""

    DEFAULT_CSS = """
    ChatLog { height: 1fr; scrollbar-size-vertical: 1; }
    ChatLog .past { padding: 0 1; }
    ChatLog .note { color: $text-muted; padding: 0 1; margin: 0 0 1 0; }
    ChatLog .note.-bad { color: $text-error; text-style: bold; }
    """

    def __init__(self, *, ascii: bool, id: str) -> None:
        super().__init__(id=id)
        self._ascii = ascii

    def on_mount(self) -> None:
        self.anchor()
        self.call_after_refresh(garbage.keep)

    async def ask(self, question: str) -> Exchange:
        """A new exchange at the end; those long before it become text."""
        length = 0
        for exchange in self._exchanges():
            length += exchange.length
            if length > WHOLE:
                await self._fold(exchange)
                break
        new = Exchange(question, ascii=self._ascii)
        await self.mount(new)
        self.anchor()
        return new

    async def show(self, turns: list[tuple[str, str]]) -> None:
        """Questions and their answers, from the first on."""
        whole, length = len(turns), 0
        while whole and (length := length + len(turns[whole - 1][1])) <= WHOLE:
            whole -= 1
        whole = min(whole, max(0, len(turns) - 1))  # the last may be answered again
        if whole:
            await self._fold()
        for question, answer in turns[:whole]:
            await self._add(as_text(question, ("", answer)))
        for question, answer in turns[whole:]:
            await self.mount(Exchange(question, answer, ascii=self._ascii))
        self.anchor()

    async def _fold(self, last: Exchange | None = None) -> None:
        """Make text of all up to this exchange, or of all that is there."""
        for widget in list(self.children):
            if isinstance(widget, Note | Exchange):
                await self._add(widget.as_text())
                await widget.remove()
            if widget is last:
                return

    async def _add(self, text: Text) -> None:
        """Add text to what is past, which stands before all else."""
        past = [child for child in self.children if isinstance(child, Past)]
        if not past or len(past[-1].text) > PAST:
            past.append(Past())
            await self.mount(past[-1], before=len(past) - 1 if self.children else None)
        past[-1].add(text)

    def _exchanges(self) -> Iterator[Exchange]:
        """The newest first."""
        return (child for child in reversed(self.children) if isinstance(child, Exchange))

    def note(self, words: str | Text, *, bad: bool = False) -> None:
        """Something that the app says; a rich Text keeps its own styles."""
        self.mount(Note(words, bad=bad))
        self.anchor()

    def bring_down(self, exchange: Exchange) -> None:
        """Show an exchange that is answered again below all that was said since."""
        if self.children and self.children[-1] is not exchange:
            self.move_child(exchange, after=self.children[-1])
        self.anchor()

    @property
    def last(self) -> Exchange | None:
        """The newest exchange."""
        return next(self._exchanges(), None)

    async def clear(self) -> None:
        await self.remove_children()
