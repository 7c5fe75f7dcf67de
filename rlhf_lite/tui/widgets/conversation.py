"""A conversation as it is seen: questions, answers that grow while they are said, and what the app says in between.

What a model says is Markdown, drawn without its HTML being obeyed or dropped, and every line break kept: small models
write lists and verses without the blank lines that Markdown wants. With ``ascii`` it is shown as it came.
"""

from __future__ import annotations

import re

from rich.markdown import MarkdownIt
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from rlhf_lite.report import printable

EMPTY = "*(an empty answer)*"
WHOLE = 1  # exchanges drawn as Markdown, a widget for every paragraph; those before are one text each


_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s")
_GOES_ON = re.compile(r"\s|[-*+>#|~`]|\d{1,3}[.)]|$")


def spaced(text: str) -> str:
    """Text with a blank line behind a list where the next line is plain: Markdown would make it part of the last
    item, and small models leave the blank line out."""
    lines, fenced, item = list[str](), False, False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        if item and not fenced and not _GOES_ON.match(line):
            lines.append("")
            item = False
        if not line.startswith(" "):
            item = not fenced and bool(_ITEM.match(line))
        lines.append(line)
    return "\n".join(lines)


def settled(text: str) -> str:
    """What of a text that still grows is sure to stay as :func:`spaced` draws it: a line that has just begun may yet
    become a list's next item."""
    whole, newline, begun = text.rpartition("\n")
    return text if len(begun) > 5 or not newline else whole


def _parser() -> MarkdownIt:
    parser = MarkdownIt("gfm-like", {"html": False, "linkify": False})
    parser.core.ruler.push("keep_breaks", _keep_breaks)
    return parser


def _keep_breaks(state) -> None:
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


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
        self._stream: MarkdownStream | None = None
        self._drawn = 0  # characters that the stream was given
        self.border_title = name or None
        self.set_class(ascii, "-ascii")
        self.set_class(bool(name), "-named")
        self.set_class(current, "-current")

    def compose(self) -> ComposeResult:
        if self._ascii:
            yield Static(printable(self.spoken), classes="plain", markup=False)
        else:
            yield Markdown(spaced(printable(self.spoken)) or None, parser_factory=_parser, open_links=False)

    async def write(self, piece: str) -> None:
        """Some more of it, as it is said."""
        self.spoken += piece
        if self._ascii:
            self.query_one(Static).update(Text(printable(self.spoken)))
            return
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        sure = spaced(printable(settled(self.spoken)))
        await self._stream.write(sure[self._drawn :])
        self._drawn = max(self._drawn, len(sure))

    async def finish(self) -> None:
        """No more will come: what it shows is the whole answer, drawn in one piece."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        if self._ascii:
            self.query_one(Static).update(Text(printable(self.spoken).strip() or EMPTY.strip("*")))
        else:
            await self.query_one(Markdown).update(spaced(printable(self.spoken)).strip() or EMPTY)


class Exchange(Vertical):
    """One question and what was answered to it."""

    DEFAULT_CSS = """
    Exchange { height: auto; }
    Exchange .question { text-style: bold; padding: 0 1; background: $panel; }
    Exchange .folded { padding: 0 1; }
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
        return new

    async def settle(self, answer: str) -> None:
        """This is the answer."""
        place = self.query_one(".answers")
        await place.remove_children()
        await place.mount(SpokenAnswer(answer, ascii=self._ascii))

    async def fold(self) -> None:
        """Become one text. Every new word lays the whole log out anew: with 30 exchanges in their many widgets that
        took 200 ms each time."""
        if self.has_class("-folded"):
            return
        self.add_class("-folded")
        text = Text(f"> {printable(self.question)}\n", "bold")
        for answer in self.query(SpokenAnswer):
            name = f"{answer.border_title}: " if answer.border_title else ""
            text.append(f"{name}{printable(answer.spoken)}\n", "not bold")
        await self.remove_children()
        await self.mount(Static(text, classes="folded", markup=False))


class ChatLog(VerticalScroll, can_focus=False):
    """All of it, at its end unless somebody scrolls up."""

    DEFAULT_CSS = """
    ChatLog { height: 1fr; scrollbar-size-vertical: 1; }
    ChatLog .note { color: $text-muted; padding: 0 1; margin: 0 0 1 0; }
    ChatLog .note.-bad { color: $text-error; text-style: bold; }
    """

    def __init__(self, *, ascii: bool, id: str) -> None:
        super().__init__(id=id)
        self._ascii = ascii

    def on_mount(self) -> None:
        self.anchor()

    async def ask(self, question: str, answer: str | None = None) -> Exchange:
        new = Exchange(question, answer, ascii=self._ascii)
        await self.mount(new)
        for old in list(self.query(Exchange))[:-WHOLE]:
            await old.fold()
        self.anchor()
        return new

    def note(self, words: str | Text, *, bad: bool = False) -> None:
        """Something that the app says; a rich Text keeps its own styles."""
        text = words if isinstance(words, Text) else Text(printable(words))
        self.mount(Static(text, classes="note -bad" if bad else "note", markup=False))
        self.anchor()

    def bring_down(self, exchange: Exchange) -> None:
        """Show an exchange that is answered again below all that was said since."""
        if self.children and self.children[-1] is not exchange:
            self.move_child(exchange, after=self.children[-1])
        self.anchor()

    @property
    def last(self) -> Exchange | None:
        """The newest exchange."""
        return next(reversed(list(self.query(Exchange))), None)

    async def clear(self) -> None:
        await self.remove_children()
