"""The file under the label store: its tables, its numbered migrations, and what SQLite's faults mean to a user."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rlhf_lite.errors import CorruptStore, DataError, DiskFull, RlhfLiteError, UserError

NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
IMPROVED = "improved"  # the origin of a pair that a person made by writing a better answer
_CREATED = f"created TEXT NOT NULL DEFAULT ({NOW})"

# Entry n takes a file from version n to n + 1. Never edit one that was released: append the next.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"""CREATE TABLE prompts (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE,
            messages TEXT NOT NULL,
            split TEXT NOT NULL CHECK (split IN ('train', 'valid', 'test')), {_CREATED})""",
        """CREATE TABLE completions (id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompts,
            digest BLOB NOT NULL, text TEXT NOT NULL, UNIQUE (prompt_id, digest))""",
        f"""CREATE TABLE pairs (id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompts,
            a INTEGER NOT NULL REFERENCES completions, b INTEGER NOT NULL REFERENCES completions,
            origin TEXT NOT NULL, {_CREATED}, CHECK (a <> b))""",
        "CREATE UNIQUE INDEX pairs_once ON pairs (min(a, b), max(a, b))",
        f"""CREATE TABLE labels (id INTEGER PRIMARY KEY, pair_id INTEGER NOT NULL REFERENCES pairs,
            verdict TEXT NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'both_bad', 'skip')),
            margin REAL NOT NULL, judge TEXT NOT NULL, seconds REAL, {_CREATED}, withdrawn TEXT)""",
        "CREATE INDEX labels_of_pair ON labels (pair_id)",
        f"""CREATE TABLE ratings (
            id INTEGER PRIMARY KEY, completion_id INTEGER NOT NULL REFERENCES completions,
            good INTEGER CHECK (good IN (0, 1)), origin TEXT NOT NULL, {_CREATED})""",
        "CREATE UNIQUE INDEX ratings_once ON ratings (completion_id, ifnull(good, -1))",
        """CREATE VIEW shown AS
            SELECT pairs.id, pairs.prompt_id, messages, split, a.text AS a, b.text AS b, origin
            FROM pairs JOIN prompts ON prompts.id = pairs.prompt_id
            JOIN completions AS a ON a.id = pairs.a JOIN completions AS b ON b.id = pairs.b""",
        """CREATE VIEW latest AS SELECT pair_id, verdict, margin FROM labels AS l
            WHERE withdrawn IS NULL AND NOT EXISTS (
            SELECT 1 FROM labels WHERE pair_id = l.pair_id AND id > l.id AND withdrawn IS NULL)""",
    ),
    (
        # act: the first label of the key press that gave this one; NULL on the first, and on one that stands alone.
        "ALTER TABLE labels ADD COLUMN swapped INTEGER NOT NULL DEFAULT 0 CHECK (swapped IN (0, 1))",
        "ALTER TABLE labels ADD COLUMN repeat INTEGER NOT NULL DEFAULT 0 CHECK (repeat IN (0, 1))",
        "ALTER TABLE labels ADD COLUMN act INTEGER REFERENCES labels",
        """CREATE INDEX labels_that_count ON labels (pair_id, id, verdict, margin)
            WHERE withdrawn IS NULL AND repeat = 0""",
        "CREATE INDEX labels_of_act ON labels (act) WHERE act IS NOT NULL",
        "DROP VIEW latest",
        """CREATE VIEW latest AS SELECT pair_id, verdict, margin, created FROM labels AS l
            WHERE withdrawn IS NULL AND repeat = 0 AND NOT EXISTS (SELECT 1 FROM labels
            WHERE pair_id = l.pair_id AND id > l.id AND withdrawn IS NULL AND repeat = 0)""",
        # A pair that a person made is decided at once; taken back, it is nobody's to judge.
        f"""CREATE VIEW waiting AS SELECT id AS pair_id FROM pairs WHERE origin <> '{IMPROVED}' AND NOT EXISTS (
            SELECT 1 FROM labels WHERE pair_id = pairs.id AND withdrawn IS NULL AND repeat = 0)""",
        "ALTER TABLE ratings ADD COLUMN withdrawn TEXT",
        "ALTER TABLE ratings ADD COLUMN act INTEGER REFERENCES labels",
        "DROP INDEX ratings_once",
        """CREATE UNIQUE INDEX ratings_once ON ratings (completion_id, ifnull(good, -1), ifnull(act, 0))
            WHERE withdrawn IS NULL""",
        "CREATE INDEX ratings_of_act ON ratings (act) WHERE act IS NOT NULL",
        """CREATE TABLE marks (pair_id INTEGER PRIMARY KEY REFERENCES pairs,
            flagged INTEGER NOT NULL DEFAULT 0 CHECK (flagged IN (0, 1)), note TEXT NOT NULL DEFAULT '')""",
    ),
)


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the version this program writes. Raises DataError where it is of a newer one."""
    version = _version(db)
    if version > len(MIGRATIONS):
        raise DataError(
            f"{path} was written by a newer rlhf-lite",
            why=f"its format is version {version}; this program knows them up to {len(MIGRATIONS)}",
            hint="update rlhf-lite; the file is as it was",
        )
    if version == len(MIGRATIONS):
        return
    with immediate(db):
        version = _version(db)  # another process may have been first
        if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise corrupt(path, "it is a database of some other program")
        for statement in (s for migration in MIGRATIONS[version:] for s in migration):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def write_ahead(db: sqlite3.Connection, patience: float) -> None:
    """Keep the file's changes in a write-ahead log, so that reading goes on while another process writes.

    Where two processes make a file at once, SQLite refuses this change of mode at once instead of waiting its
    busy timeout; so it is asked again for up to `patience` seconds. Raises sqlite3.OperationalError after that.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def immediate(db: sqlite3.Connection) -> Generator[None]:
    """A transaction with the write lock from its start: two reads that both turn into writes would fail one another."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield


def corrupt(path: Path, why: str) -> CorruptStore:
    return CorruptStore(
        f"{path} cannot be read", why=why, hint="put a backup in its place, or move it away to start anew"
    )


_FAULTS: dict[int, tuple[type[RlhfLiteError], str, str]] = {
    sqlite3.SQLITE_BUSY: (UserError, "is in use", "wait for the other program, then try again"),
    sqlite3.SQLITE_FULL: (DiskFull, "could not be written", "free some space, then try again"),
    sqlite3.SQLITE_CANTOPEN: (UserError, "cannot be opened", "check that its folder is there and yours"),
    sqlite3.SQLITE_READONLY: (UserError, "cannot be written", "check its permissions"),
}


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn what SQLite reports about the file into what its user can do; a caller's mistake passes."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        # Text that is not UTF-8 comes without a code: damage too.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code not in _FAULTS:
            raise corrupt(path, str(error)) from error
        kind, what, hint = _FAULTS[code]
        raise kind(f"{path} {what}", why=str(error), hint=hint) from error
