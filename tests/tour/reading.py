"""What a person reads off the screen: the two answers in their frames, a chart's dots, a number beside a word."""

from __future__ import annotations

import re
from dataclasses import dataclass

BRAILLE = re.compile("[\u2801-\u28ff]")


@dataclass(frozen=True)
class Shown:
    """A pair as it is on the screen."""

    prompt: str
    a: str
    b: str


def shown_pair(lines: list[str]) -> Shown | None:
    """The pair in its two frames, side by side or one over the other; None while there is none, or half of one."""
    answers = [_framed(lines, letter) for letter in "AB"]
    top = next((y for y, line in enumerate(lines) if re.search("╭─ [AB] ", line)), 0)
    prompt = " ".join(line.strip() for line in lines[1:top])
    return Shown(prompt, *answers) if prompt and answers[0] and answers[1] else None


def _framed(lines: list[str], letter: str) -> str:
    """The text in the frame whose title begins with a letter, its word wrap undone."""
    for y, line in enumerate(lines):
        top = re.search(rf"╭─ {letter}\b[^╭╮]*╮", line)
        if not top:
            continue
        left, right = top.start(), top.end() - 1
        rows: list[str] = []
        for below in lines[y + 1 :]:
            if below[left : left + 1] != "│":
                break
            rows.append(below[left + 2 : right - 1].rstrip())
        return unwrapped(rows, right - left - 3)
    return ""


def unwrapped(rows: list[str], width: int) -> str:
    """A row that was broken because the next word had no room goes on in the next one; a break of the text stays."""
    text, before = "", ""
    for row in rows:
        broken = before and row and len(before) + 1 + len(row.split()[0]) > width
        text += f" {row}" if broken else f"\n{row}"
        before = row
    return text.strip()


def dots(lines: list[str]) -> int:
    """How many cells hold braille dots, which is what the charts are drawn with."""
    return len(BRAILLE.findall("\n".join(lines)))
