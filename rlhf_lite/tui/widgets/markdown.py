"""What a model says as Markdown: every line break kept, no HTML obeyed or dropped."""

from __future__ import annotations

import re

from rich.markdown import MarkdownIt
from textual.widgets import Markdown

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


class SpokenMarkdown(Markdown):
    """With that parser, and no link that opens by a click."""

    def __init__(self, text: str | None) -> None:
        super().__init__(text, parser_factory=_parser, open_links=False)
