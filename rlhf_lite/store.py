"""The store's file and what is there to be judged: prompts, completions and pairs, in one SQLite file.

* Which answer is shown as A is a coin tossed by a hash of seed, prompt and both texts, and stored: neither
  the order in which they are given nor the process that adds them has a say.
* A prompt's split follows from its text alone, so no prompt is ever on both sides of the hold-out.

A store belongs to one thread; any number of processes may write at once (WAL and a busy timeout).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from rlhf_lite.errors import BadRow
from rlhf_lite.schema import corrupt, explained, immediate, migrate, write_ahead

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
BUSY_SECONDS = 10.0


class Prompt(msgspec.Struct, frozen=True):
    id: int
    messages: list[Message]
    split: str  # "train" | "valid" | "test"

    @property
    def text(self) -> str:
        """What the user said last."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


class Pair(msgspec.Struct, frozen=True):
    """Two answers to one prompt, on the sides where they are shown."""

    id: int
    prompt: Prompt
    a: str
    b: str
    origin: str  # a run, "0001-generate", a file, "import:pairs.jsonl", or schema.IMPROVED


class Mark(msgspec.Struct, frozen=True):
    """What a person keeps about a pair for themselves; it trains nothing."""

    flagged: bool = False
    note: str = ""


class Store:
    """The open file. Any method may raise CorruptStore, DiskFull or UserError (in use)."""

    def __init__(self, db: sqlite3.Connection, path: Path, seed: int) -> None:
        self._db, self._path, self.seed = db, path, seed

    @classmethod
    def open(cls, path: Path, seed: int = 0) -> Self:
        """Open the store, made or migrated where needed; ``seed`` decides the sides of pairs added here."""
        with explained(path):
            # isolation_level=None: transactions begin where we say, never where the driver thinks.
            db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                write_ahead(db, BUSY_SECONDS)
                db.execute("PRAGMA synchronous = FULL")  # a label outlives a power cut, not only a crash
                db.execute("PRAGMA foreign_keys = ON")
                migrate(db, path)
                return cls(db, path, seed)
            except BaseException:
                db.close()
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing, and on disk when left; inside another it joins that one."""
        if self._db.in_transaction:
            yield
            return
        with explained(self._path), immediate(self._db):
            yield

    def add_prompts(self, prompts: Iterable[list[Message]]) -> int:
        """Add prompts; returns how many were new."""
        with self.transaction():
            return sum(self._prompt(messages)[1] for messages in prompts)

    def prompts(self, split: str | None = None) -> list[Prompt]:
        """All prompts, or those of one split, oldest first."""
        sql = "SELECT id, messages, split FROM prompts WHERE ifnull(?, split) = split ORDER BY id"
        return [Prompt(id, self._messages(text), part) for id, text, part in self._rows(sql, split)]

    def add_pair(self, prompt_id: int, first: str, second: str, *, origin: str) -> int | None:
        """Add two answers to be labelled; returns the pair's id, None where that very pair is there already.

        Raises BadRow where both answers are the same text."""
        with self.transaction():
            pair_id, new = self._pair(prompt_id, first, second, origin)
        return pair_id if new else None

    def pair(self, pair_id: int) -> Pair:
        """One pair. Raises KeyError where there is none of that id."""
        for pair in self._shown("WHERE id = ?", pair_id):
            return pair
        raise KeyError(pair_id)

    def flag(self, pair_id: int, on: bool = True) -> None:
        """Keep a pair among those to come back to, or no longer."""
        self._mark(pair_id, "flagged", on)

    def note(self, pair_id: int, text: str) -> None:
        """Keep a note on a pair, in place of the one before; an empty one is none."""
        self._mark(pair_id, "note", text)

    def mark(self, pair_id: int) -> Mark:
        for flagged, note in self._rows("SELECT flagged, note FROM marks WHERE pair_id = ?", pair_id):
            return Mark(bool(flagged), note)
        return Mark()

    def flagged(self) -> list[Pair]:
        """The flagged pairs, oldest first."""
        return self._shown("WHERE id IN (SELECT pair_id FROM marks WHERE flagged) ORDER BY id")

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with explained(self._path):
            return self._db.execute(sql, values).fetchall()

    def _shown(self, where: str, *values: object) -> list[Pair]:
        rows = self._rows(f"SELECT id, prompt_id, messages, split, a, b, origin FROM shown {where}", *values)
        return [Pair(id, Prompt(p, self._messages(m), split), *rest) for id, p, m, split, *rest in rows]

    def _messages(self, text: str) -> list[Message]:
        try:
            return msgspec.json.decode(text, type=list[Message])
        except msgspec.MsgspecError as error:
            raise corrupt(self._path, f"a prompt in it cannot be read: {error}") from error

    def _prompt(self, messages: list[Message]) -> tuple[int, bool]:
        """Its id, and whether it is new."""
        plain = [{"role": m["role"], "content": m["content"]} for m in messages]
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
        digest = _sha256(text)
        part = int.from_bytes(digest, "big") % 1000
        split = "test" if part < 150 else "valid" if part < 250 else "train"
        sql = "INSERT INTO prompts (digest, messages, split) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        new = self._db.execute(sql, (digest, text, split)).rowcount == 1
        return self._rows("SELECT id FROM prompts WHERE digest = ?", digest)[0][0], new

    def _completion(self, prompt_id: int, text: str) -> int:
        key = (prompt_id, _sha256(text))
        sql = "INSERT INTO completions (prompt_id, digest, text) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        self._db.execute(sql, (*key, text))
        return self._rows("SELECT id FROM completions WHERE prompt_id = ? AND digest = ?", *key)[0][0]

    def _pair(self, prompt_id: int, first: str, second: str, origin: str) -> tuple[int, bool]:
        """Its id, and whether it is new."""
        if first == second:
            raise BadRow("a pair needs two different answers", hint="leave out answers that are identical")
        texts = sorted((first, second))
        # The prompt is part of the toss, else "yes" against "no" would fall the same way for every prompt.
        if _sha256(f"{self.seed} {prompt_id} {texts}")[0] & 1:
            texts.reverse()
        a, b = (self._completion(prompt_id, text) for text in texts)
        sql = "INSERT INTO pairs (prompt_id, a, b, origin) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        new = self._db.execute(sql, (prompt_id, a, b, origin)).rowcount == 1
        find = "SELECT id FROM pairs WHERE min(a, b) = ? AND max(a, b) = ?"
        return self._rows(find, min(a, b), max(a, b))[0][0], new

    def _mark(self, pair_id: int, column: Literal["flagged", "note"], value: bool | str) -> None:
        sql = f"""INSERT INTO marks (pair_id, {column}) VALUES (?, ?)
            ON CONFLICT (pair_id) DO UPDATE SET {column} = excluded.{column}"""
        with self.transaction():
            self._db.execute(sql, (pair_id, value))


def _sha256(text: str) -> bytes:
    try:
        return hashlib.sha256(text.encode()).digest()
    except UnicodeEncodeError as error:
        raise BadRow("the text is not valid Unicode", why=str(error), hint="save it as UTF-8") from error
