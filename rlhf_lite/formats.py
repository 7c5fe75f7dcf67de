"""Preference data in and out, row by row: a bad row is refused with file, line and reason, the good go in.

Where the records stand is :mod:`rlhf_lite.records`; what one of them means, :mod:`rlhf_lite.rows`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from rlhf_lite.errors import BadRow, DataError, DiskFull, NotEnoughLabels, UserError
from rlhf_lite.labels import LabelStore, Message, Preference, Rating
from rlhf_lite.records import PROMPTS, ROWS, records
from rlhf_lite.rows import columns, is_dialogue, parse, prompt_of

Format = Literal["explicit", "conversational", "implicit", "kto"]
CHUNK = 500  # rows a transaction: quick, and other programs still get their turn to write


class Row(msgspec.Struct, frozen=True):
    """``line`` counts from 1; in a parquet file or a data set's folder it is the row."""

    file: str
    line: int
    content: Preference | Rating


class Refused(msgspec.Struct, frozen=True):
    file: str
    line: int
    why: str


class ImportReport(msgspec.Struct, frozen=True):
    imported: int
    duplicates: int
    refused: list[Refused]


def read_rows(path: Path) -> Iterator[Row | Refused]:
    """The rows of a ``.jsonl``, ``.jsonl.gz``, ``.json`` or ``.parquet`` file, or of a folder that
    ``datasets.save_to_disk`` made. Raises UserError (no such file or ending), DataError (no such format)."""
    for file, line, record in records(path, ROWS):
        try:
            yield Row(file, line, parse(record))
        except BadRow as bad:
            yield Refused(file, line, bad.message)


def import_file(store: LabelStore, path: Path) -> ImportReport:
    """Put a file's rows into the store, labelled by judge "import". A pair that has a label keeps it: the
    same row again is a duplicate, one that says the opposite is refused. Raises as :func:`read_rows` does."""
    origin, imported, duplicates, refused = f"import:{path.name}", 0, 0, list[Refused]()
    opposite = "this pair is labelled the other way round already"
    rows = read_rows(path)
    while chunk := list(islice(rows, CHUNK)):
        with store.transaction():
            for row in chunk:
                if isinstance(row, Refused):
                    refused.append(row)
                elif (outcome := _add(store, row.content, origin)) == "opposite":
                    refused.append(Refused(row.file, row.line, opposite))
                else:
                    imported += outcome == "new"
                    duplicates += outcome == "known"
    if not imported and not duplicates and not refused:
        raise DataError(f"{path} holds no rows", hint="check that it was saved whole")
    return ImportReport(imported, duplicates, refused)


def _add(store: LabelStore, item: Preference | Rating, origin: str) -> Literal["new", "known", "opposite"]:
    if isinstance(item, Preference):
        return store.add_preference(item, origin=origin)
    return "new" if store.add_rating(item.prompt, item.completion, item.good, origin) else "known"


def read_prompts(path: Path) -> tuple[list[list[Message]], list[Refused]]:
    """The prompts of a ``.txt`` file (one a line) or of the ``prompt`` column of any file that
    :func:`read_rows` knows, with what was refused. Raises as that does."""
    prompts, refused = list[list[Message]](), list[Refused]()
    for file, line, record in records(path, PROMPTS):
        try:
            value = record.strip() if isinstance(record, str) else columns(record).get("prompt")
            prompts.append(prompt_of(value))
        except BadRow as bad:
            refused.append(Refused(file, line, bad.message))
    if not prompts and not refused:
        raise DataError(f"{path} holds no prompts", hint="check that it was saved whole")
    return prompts, refused


def export_labels(
    store: LabelStore, out: Path, format: Format = "conversational", *, overwrite: bool = False
) -> int:
    """Write every decided label as JSON lines that TRL and ``datasets`` read; returns the number of rows.

    ``explicit`` is plain text, a prompt of several turns as an HH dialogue; the others are lists of messages.
    There is a ``margin`` column where any label has one. ``kto`` has the answers called good or bad, singly.
    Raises NotEnoughLabels, UserError (the file is there; ``explicit`` cannot hold a prompt), DiskFull."""
    if out.suffix != ".jsonl":
        raise UserError(
            f"cannot write {out}", why="labels are written as JSON lines", hint=f"name it {out.stem}.jsonl"
        )
    if out.exists() and not overwrite:
        raise UserError(
            f"{out} exists already", hint="choose another name, or say that it may be overwritten"
        )
    pairs = store.preferences()
    rows = [_unpaired(r) for r in store.ratings()] if format == "kto" else [_paired(p, format) for p in pairs]
    if any(p.margin for p in pairs) and format != "kto":
        rows = [row | {"margin": p.margin} for row, p in zip(rows, pairs, strict=True)]
    if not rows:
        raise NotEnoughLabels(
            "there is nothing to export", why="no pair has been decided", hint="label some first"
        )
    part = out.with_name(out.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
    except OSError as error:
        part.unlink(missing_ok=True)
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
        raise kind(f"cannot write {out}", why=error.strerror or "", hint="choose another place") from error
    return len(rows)


def _paired(p: Preference, format: Format) -> dict[str, Any]:
    if format == "explicit":
        prompt = _prompt_text(p.prompt)
        space = " " if is_dialogue(prompt) else ""  # after "Assistant:"
        return {"prompt": prompt, "chosen": space + p.chosen, "rejected": space + p.rejected}
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (p.chosen, p.rejected))
    if format == "conversational":
        return {"prompt": p.prompt, "chosen": chosen, "rejected": rejected}
    return {"chosen": p.prompt + chosen, "rejected": p.prompt + rejected}


def _unpaired(r: Rating) -> dict[str, Any]:
    return {
        "prompt": r.prompt,
        "completion": [{"role": "assistant", "content": r.completion}],
        "label": r.good,
    }


def _prompt_text(messages: list[Message]) -> str:
    speakers = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    text = "".join(speakers[m["role"]] + m["content"] for m in messages) + "\n\nAssistant:"
    text = messages[0]["content"] if len(messages) == 1 else text
    if prompt_of(text) != messages:
        raise UserError(
            "a prompt cannot be written as plain text",
            why=f"read back, its turns would differ: {messages[-1]['content'][:60]!r}",
            hint="use --format conversational",
        )
    return text
