"""``FILE.py:FUNC``: naming a judge or a programmable reward, without running it (the engine does that)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rlhf_lite.errors import SettingsError


def split_function(spec: str) -> tuple[Path, str]:
    """``FILE.py:FUNC`` as a path and a name."""
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise SettingsError(
            f"cannot read {spec}", why="it wants FILE.py:FUNC", hint="for example judge.py:prefer"
        )
    if not Path(path).is_file():
        raise SettingsError(f"{path} does not exist", hint="name a Python file that does")
    return Path(path), name


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
