"""Changes one value in a TOML text and leaves every other line, comment and blank as the user wrote it.

It knows lines, not TOML, and so checks what it made by reading both texts: where the result would say anything but
the old text with that one change (a value over several lines, a table in one line), it makes none.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

import tomli_w

_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[\w.+-]+)"""
_HEADER = re.compile(r"\s*\[\[?[^\[\]]+\]\]?\s*(?:#.*)?")


def with_value(text: str, table: str, key: str, value: str | bool | None) -> str | None:
    """The text with ``key`` of ``table`` ("" for the top) set, or gone for None; None where that cannot be done.

    Raises:
        tomllib.TOMLDecodeError: the text is not TOML.
    """
    wanted = changed(tomllib.loads(text), table, key, value)
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.removesuffix(end).split(end) if text else []
    made = end.join([*_edited(lines, table, key, value), ""])
    try:
        return made if _same(tomllib.loads(made), wanted, table) else None
    except tomllib.TOMLDecodeError:
        return None


def changed(values: dict[str, Any], table: str, key: str, value: str | bool | None) -> dict[str, Any]:
    """The same change on what the text says."""
    inner = dict(values.get(table, {})) if table else dict(values)
    inner.pop(key, None)
    if value is not None:
        inner[key] = value
    return {**values, table: inner} if table else inner


def _same(made: dict[str, Any], wanted: dict[str, Any], table: str) -> bool:
    """An empty table says as much as none."""
    return {k: v for k, v in made.items() if k != table or v} == {
        k: v for k, v in wanted.items() if k != table or v
    }


def _edited(lines: list[str], table: str, key: str, value: str | bool | None) -> list[str]:
    spellings = "|".join(re.escape(s) for s in (f'"{key}"', f"'{key}'", key))
    assigned = re.compile(rf"(\s*(?:{spellings})\s*=\s*){_VALUE}(\s*(?:#.*)?)")
    offered = re.compile(rf"\s*#\s*(?:{spellings})\s*=.*")
    first, last = _region(lines, table)
    new = [] if value is None else [tomli_w.dumps({key: value}).strip()]
    for number in range(first, last):
        found = assigned.fullmatch(lines[number])
        if found:
            kept = [] if value is None else [f"{found[1]}{tomli_w.dumps({'v': value}).strip()[4:]}{found[2]}"]
            return [*lines[:number], *kept, *lines[number + 1 :]]
    if not new:
        return lines
    if first > len(lines):
        return [*lines, *([""] if lines and lines[-1] else []), f"[{table}]", *new]
    after = next((n for n in range(first, last) if offered.fullmatch(lines[n])), None)
    place = _end_of_content(lines, first, last) if after is None else after + 1
    return [*lines[:place], *new, *lines[place:]]


def _region(lines: list[str], table: str) -> tuple[int, int]:
    """The lines of a table without its header; past the end where there is no such table."""
    headers = [n for n, line in enumerate(lines) if _HEADER.fullmatch(line)]
    if not table:
        return 0, headers[0] if headers else len(lines)
    own = [n for n in headers if lines[n].partition("#")[0].strip() == f"[{table}]"]
    if not own:
        return len(lines) + 1, len(lines) + 1
    return own[0] + 1, next((n for n in headers if n > own[0]), len(lines))


def _end_of_content(lines: list[str], first: int, last: int) -> int:
    """Behind the last assignment; without one, behind the comment that opens the region."""
    content = [n for n in range(first, last) if lines[n].strip() and not lines[n].lstrip().startswith("#")]
    if content:
        return content[-1] + 1
    return next((n for n in range(first, last) if not lines[n].strip()), last)
