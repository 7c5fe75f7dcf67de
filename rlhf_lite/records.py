"""Files of rows: records one by one, each with its file and line, from text, gzip, JSON, parquet and Arrow.

A record that cannot be read is given as the BadRow that says why, and reading goes on where it can.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

from rlhf_lite.errors import BadRow, DataError, UserError

MAX_LINE = 16 * 2**20  # bytes; a longer one is no conversation
_NEXT = re.compile(r"[^\s,]")  # the next row of a JSON list, or its end

Record = tuple[str, int, object]  # file, line, what stands there: a BadRow where nothing can be made of it
Reader = Callable[[Path], Iterator[Record]]


def records(path: Path, readers: dict[str, Reader]) -> Iterator[Record]:
    """Raises UserError (no such file or ending), DataError (not what its name says)."""
    ending = "folder" if path.is_dir() else next((e for e in readers if path.name.lower().endswith(e)), "")
    if not path.exists():
        raise UserError(f"there is no {path}", hint="check its name")
    if not ending:
        raise UserError(f"cannot read {path}", why="its name ends like none of these", hint=" ".join(readers))
    try:
        yield from readers[ending](path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}", why=error.strerror or str(error), hint="check its permissions"
        ) from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        magic = file.read(2)
    if magic == b"\x1f\x8b":
        return cast("BinaryIO", gzip.open(path))
    if path.suffix.lower() == ".gz":
        raise DataError(f"{path} is not gzip", hint="if it is unpacked already, take .gz off its name")
    if magic in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path} is UTF-16", hint="save it as UTF-8")
    return path.open("rb")


def _lines(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        for number in count(1):
            try:
                line = rest = file.readline(MAX_LINE)
                while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(MAX_LINE)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield str(path), number, _damaged(error)
                return
            if not line:
                return
            if rest is not line:
                yield str(path), number, BadRow(f"the line is longer than {MAX_LINE // 2**20} MiB")
            elif line.strip():
                yield str(path), number, _decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


def _damaged(error: Exception) -> BadRow:
    return BadRow(f"the file is damaged, nothing from here on can be read: {error}")


def _decoded(line: bytes) -> str | BadRow:
    if b"\0" in line:
        return BadRow("the line holds NUL bytes")
    try:
        return line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8: byte {error.start + 1} of the line")


def _json_lines(path: Path) -> Iterator[Record]:
    for file, number, line in _lines(path):
        try:
            yield file, number, json.loads(line) if isinstance(line, str) else line
        except (ValueError, RecursionError) as error:
            yield file, number, _not_json(error)


def _not_json(error: Exception) -> BadRow:
    if isinstance(error, json.JSONDecodeError):
        return BadRow(f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    return BadRow(f"not JSON that can be read: {error}")  # nested too deeply, a number of thousands of digits


def _json_file(path: Path) -> Iterator[Record]:
    """One list of rows; where it is no list, JSON lines, which is what ``Dataset.to_json`` writes."""
    data = path.read_bytes()
    if not data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from _json_lines(path)
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8", why=f"at byte {error.start + 1}", hint="save it as UTF-8"
        ) from error
    at = text.index("[") + 1
    line = 1 + text.count("\n", 0, at)
    while found := _NEXT.search(text, at):
        line += text.count("\n", at, found.start())
        if found[0] == "]":
            return
        try:
            value, at = json.JSONDecoder().raw_decode(text, found.start())
        except (ValueError, RecursionError) as error:
            yield str(path), line, BadRow(f"{_not_json(error).message}; nothing from here on can be read")
            return
        yield str(path), line, value
        line += text.count("\n", found.start(), at)
    yield str(path), line, BadRow("the list breaks off here")


def _table(path: Path) -> Iterator[Record]:
    """A parquet file, or an Arrow stream as ``save_to_disk`` writes them."""
    arrow: Any = import_module("pyarrow")  # half a second, paid where there is one to read
    parquet: Any = import_module("pyarrow.parquet")
    row = 0
    try:
        stream = path.suffix == ".arrow"
        table = arrow.ipc.open_stream(arrow.memory_map(str(path))) if stream else parquet.ParquetFile(path)
        for batch in table if stream else table.iter_batches(1000):
            for at in range(batch.num_rows):
                row += 1
                try:
                    yield str(path), row, batch.slice(at, 1).to_pylist()[0]
                except UnicodeDecodeError:
                    yield str(path), row, BadRow("it holds text that is not UTF-8")
    except (arrow.ArrowException, OSError) as error:
        if not row:
            raise DataError(
                f"{path} cannot be read", why=str(error), hint="fetch or save it again"
            ) from error
        yield str(path), row + 1, _damaged(error)


def _folder(path: Path) -> Iterator[Record]:
    """What ``datasets.save_to_disk`` made: a data set, or one folder for each of its splits."""
    try:
        if (splits := path / "dataset_dict.json").is_file():
            parts = [path / Path(name).name for name in json.loads(splits.read_bytes())["splits"]]
        else:
            files = json.loads((path / "state.json").read_bytes())["_data_files"]
            parts = [path / Path(entry["filename"]).name for entry in files]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path} is no data set",
            why=f"not a folder that datasets.save_to_disk made: {error}",
            hint="name a file in it",
        ) from error
    for part in parts:
        yield from _folder(part) if splits.is_file() else _table(part)


ROWS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json_file,
    ".parquet": _table,
    "folder": _folder,
}
PROMPTS: dict[str, Reader] = {".txt": _lines, **ROWS}
