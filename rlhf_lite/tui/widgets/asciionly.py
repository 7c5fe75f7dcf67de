"""What ``--ascii`` does to every row before it is drawn: one plain character for each that only some fonts have.

Decided here: the whole screen at once, so that no page, and no widget of Textual's, has to think of it. Letters of any
language stay as they are: they are what people and models wrote. Each stand-in is as wide as what it stands for.
"""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_SIGNS = {
    "·": "-", "•": "*", "…": ".", "—": "-", "–": "-", "−": "-", "×": "x", "÷": "/", "±": "~", "≈": "~", "≥": ">",
    "≤": "<", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "✔": "x", "✓": "x", "✘": "!", "✗": "!", "●": "*",
    "○": "o", "◐": "*", "◆": "*", "⚑": "!", "▸": ">", "▶": ">", "◀": "<", "▼": "v", "▲": "^", "→": ">", "←": "<",
    "↑": "^", "↓": "v", "⏎": ">", "⌫": "<", "⭘": "o", "\u00a0": " ",
}  # fmt: skip
_BOXES = {chr(n): "-" if chr(n) in "─━┄┅┈┉╌╍═╴╶╸╺╼╾" else "|" if chr(n) in "│┃┆┇┊┋╎╏║╵╷╹╻╽╿" else "+"
          for n in range(0x2500, 0x2580)}  # fmt: skip
_BLOCKS = {chr(n): "." if chr(n) in "░▒" else "-" if chr(n) in "▔▁" else "|" if chr(n) in "▏▎▍▌▋▊▉▐▕" else "#"
           for n in range(0x2580, 0x25A0)}  # fmt: skip
_DOTS = {chr(n): "." if n > 0x2800 else " " for n in range(0x2800, 0x2900)}
STAND_INS = str.maketrans({**_BOXES, **_BLOCKS, **_DOTS, **_SIGNS})


class AsciiOnly(LineFilter):
    """Drawn signs as ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        del background
        return [segment if segment.text.isascii() else _plain(segment) for segment in segments]


def _plain(segment: Segment) -> Segment:
    return Segment(segment.text.translate(STAND_INS), segment.style, segment.control)
