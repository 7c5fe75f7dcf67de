"""How every page looks, held row by row: its text, and which columns have which style.

A page that is meant to look different: ``python -m pytest tests/tui/test_snapshots.py -m "" --snapshot-update``, and
read the difference. Text and styles rather than pictures: a tenth of the size, and a difference that can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from looks import View, frozen, look, seen
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.pilot import Pilot
from views import CORE, VIEWS

from rlhf_lite.tui.app import RlhfApp

SIZES = ((60, 20), (80, 24), (120, 40))
LOOKS = ("dark", "light", "nocolor")


class Screens(SingleFileSnapshotExtension):
    """One text file a view and look."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"


@pytest.fixture(autouse=True)
def home() -> Iterator[Path]:
    with frozen() as folder:
        yield folder


def _cases() -> Iterator[object]:
    for view in VIEWS:
        for size in SIZES:
            for colours in LOOKS:
                core = view.name in CORE and (colours == "dark" or size == (80, 24))
                yield pytest.param(
                    view, size, colours, id=f"{view.slug}-{size[0]}x{size[1]}-{colours}",
                    marks=() if core else pytest.mark.long,
                )  # fmt: skip


@pytest.mark.parametrize(("view", "size", "colours"), _cases())
def test_look(
    view: View, size: tuple[int, int], colours: str, home: Path, monkeypatch: pytest.MonkeyPatch,
    snapshot: SnapshotAssertion,
) -> None:  # fmt: skip
    if colours == "nocolor":
        monkeypatch.setenv("NO_COLOR", "1")
    if colours == "light":
        monkeypatch.setenv("RLHF_LITE_THEME", "textual-light")
    found: list[str] = []

    async def keep(app: RlhfApp, pilot: Pilot[None]) -> None:
        found.append(seen(app).dump(home))

    look(view, keep, size)
    assert found[0] == snapshot(extension_class=Screens)
