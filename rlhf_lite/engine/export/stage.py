"""What is on disk while an export goes on: every file and folder is written beside its name and takes it when whole.

A kill costs the stage that was running, no more. The long one is the merged F16 file, which every other type is made
from: once proven it is kept as ``NAME-f16.FINGERPRINT.stage`` until all that was asked for is there. The next export
of the same inputs, whatever its type, goes on from it; one of other inputs removes it. The fingerprint is of
everything that the file depends on, so that nothing has to be remembered elsewhere. A base of gigabytes is taken to be
the same where its files' sizes and times are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_lite import __version__
from rlhf_lite.errors import DiskFull
from rlhf_lite.functions import hash_file

if TYPE_CHECKING:
    from rlhf_lite.engine.export import ExportRequest

_SPARE = 64 * 2**20  # bytes beyond what is computed, for whatever else writes meanwhile


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what ``path``, a file or a folder, is to be. It takes that name once the block has ended well;
    else it is removed, and an older ``path`` stays."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        for file in sorted(part.rglob("*")) if part.is_dir() else []:
            _sync(file)
        _sync(part)
        move(part, path)
    finally:
        _remove(part)


def f16_stage(request: ExportRequest, dtype: str) -> Path:
    """Where the merged F16 file of this request is kept; ``dtype``: what the base is computed in here."""
    base = [
        (p.name, p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(request.model.iterdir())
        if p.is_file()
    ]
    adapter = (
        [hash_file(p) for p in sorted(request.adapter.iterdir()) if p.is_file()] if request.adapter else []
    )
    told = [__version__, request.name, request.quantization, dtype, request.plain_template, base, adapter]
    fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return request.output / f"{request.name}-f16.{fingerprint}.stage"


def drop_stages(folder: Path, name: str, *, keep: Path | None = None) -> None:
    """Remove the F16 files that exports of ``name`` left for the next one, but ``keep``."""
    for left in list(folder.iterdir()):
        if left != keep and re.fullmatch(rf"{re.escape(name)}-f16\.\w+\.stage", left.name):
            left.unlink()


def sweep(folder: Path, name: str) -> None:
    """Remove what a killed export of ``name`` had begun to write in ``folder``."""
    begun = re.compile(rf"({re.escape(name)}-\w+(\.gguf|\.\w+\.stage)?)\.([\w.]*part|former)")
    for left in list(folder.iterdir()):
        if found := begun.fullmatch(left.name):
            if left.suffix == ".former" and not (folder / found[1]).exists():
                os.replace(left, folder / found[1])  # killed between its leaving and its successor's coming
            else:
                _remove(left)


def move(source: Path, target: Path) -> None:
    """Give a file or folder its name for good; one that has the name is replaced."""
    former = target.with_name(f"{target.name}.former")
    if target.is_dir():  # a full folder cannot be replaced in one step
        os.replace(target, former)
    os.replace(source, target)
    _sync(target.parent)
    _remove(former)


def require_space(folder: Path, need: int) -> None:
    """Raises DiskFull where ``folder``'s disk has no room for ``need`` bytes."""
    free = shutil.disk_usage(folder).free
    if free < need + _SPARE:
        raise DiskFull(
            "not enough disk space for this export",
            why=f"it needs {(need + _SPARE) / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free",
            hint="free some space, or name another folder with --output",
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
