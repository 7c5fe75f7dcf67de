"""What a model says as Markdown: every line break kept, no HTML obeyed or dropped, and each list one widget.

Textual's lists take four widgets an item, and are made anew for each new word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from rich.markdown import MarkdownIt
from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.geometry import Size
from textual.widgets._markdown import (
    Markdown,
    MarkdownBlock,
    MarkdownBulletList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
)

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


# Textual takes a widget's styles from its first base that is one, which has to be the list.
_Block = MarkdownBlock if TYPE_CHECKING else object


class _OneWidget(_Block):
    """Draws its items itself where each of them is one paragraph; else it is Textual's."""

    _items: tuple[tuple[str, Content], ...] = ()

    def compose(self) -> ComposeResult:
        self._items = self._take()
        return () if self._items else super().compose()

    def _take(self) -> tuple[tuple[str, Content], ...]:
        """Marker and text of each item; none where there is more to one of them than a paragraph."""
        items = [item for item in self._blocks if isinstance(item, MarkdownListItem)]
        if any([type(block) for block in item._blocks] != [MarkdownParagraph] for item in items):
            return ()
        return tuple(
            (self._marker(items, number), item._blocks[0]._content) for number, item in enumerate(items)
        )

    def _marker(self, items: list[MarkdownListItem], number: int) -> str:
        return items[number].bullet

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        items = block._take() if self._items and type(block) is type(self) else ()
        if items:
            self._items = items
            self._copy_context(block)
            self.refresh(layout=True)
        else:
            await super()._update_from_block(block)

    def _rows(self, width: int) -> list[Content]:
        rows = list[Content]()
        colour = "$text-primary" if self.app.current_theme.dark else "$text-secondary"  # as Textual's
        for marker, text in self._items:
            lead = Content.styled(marker, colour)
            for row in text.wrap(max(1, width - lead.cell_length)):
                rows.append(lead + row)
                lead = Content(" " * lead.cell_length)
        return rows

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if self._items:
            return len(self._rows(width))
        return super().get_content_height(container, viewport, width)

    def render(self):
        return Content("\n").join(self._rows(self.content_size.width)) if self._items else super().render()

    def on_resize(self, _: events.Resize) -> None:
        self.refresh()


class SpokenBullets(_OneWidget, MarkdownBulletList):
    pass


class SpokenNumbers(_OneWidget, MarkdownOrderedList):
    def _marker(self, items: list[MarkdownListItem], number: int) -> str:
        start = int(items[0].bullet) if items[0].bullet.isdecimal() else 1
        wide = len(f"{start + len(items) - 1}. ")
        return f"{start + number}. ".rjust(wide + 1)


class SpokenMarkdown(Markdown):
    """With these lists."""

    BLOCKS: ClassVar[dict[str, type[MarkdownBlock]]] = {
        **Markdown.BLOCKS, "bullet_list_open": SpokenBullets, "ordered_list_open": SpokenNumbers,
    }  # fmt: skip

    def __init__(self, text: str | None) -> None:
        super().__init__(text, parser_factory=_parser, open_links=False)
