"""Checkpoints that are complete if they exist: written as ``000060.part``, renamed once, older ones pruned after.

(``os.replace`` cannot replace a full folder, hence a fresh name for each step.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Container
from pathlib import Path

from rlhf_lite.project import Run

KEEP_LAST = 2


def at(run: Run, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run.folder / "checkpoints" / f"{step:06d}"


def save(run: Run, step: int, write: Callable[[Path], None], *, keep: Container[int] = ()) -> Path:
    """Write a checkpoint and keep it, those of ``keep`` and the last two.

    Args:
        write: fills the folder it is given.
        keep: steps of checkpoints that are not pruned.
    """
    final = at(run, step)
    part = final.with_name(f"{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(part, final)
    for old in run.checkpoints()[:-KEEP_LAST]:
        if int(old.name) not in keep:
            shutil.rmtree(old)
    return final


def publish(source: Path, adapter: Path) -> None:
    """Make a folder the run's result, whole or not at all."""
    part = adapter.with_name("adapter.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(adapter, ignore_errors=True)
    os.rename(part, adapter)
