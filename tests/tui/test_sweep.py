"""Every page at every size, in ascii, without colours and in the terminal's own: nothing breaks, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from looks import View, frozen, look, seen, settle
from textual.pilot import Pilot
from textual.widgets import Footer
from views import VIEWS

from rlhf_lite import paths
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import TOO_SMALL, ErrorPage

WIDTHS = (20, 40, 59, 60, 75, 76, 90, 109, 110, 160, 250)
HEIGHTS = (8, 19, 20, 31, 32, 50, 80)
SAMPLE = ((20, 8), (59, 30), (80, 19), (60, 20), (75, 24), (109, 31), (110, 32), (250, 80))
SAMPLED = ("home", "prompts", "label", "ppo", "compare", "chat", "runs", "settings")
TALL_ENOUGH, WIDE_ENOUGH = 20, 60


@pytest.fixture(autouse=True)
def home() -> Iterator[Path]:
    with frozen() as folder:
        yield folder


def _named(views: Iterable[View]) -> list[object]:
    return [pytest.param(v, id=v.slug, marks=() if v.name in SAMPLED else pytest.mark.long) for v in views]


def _complaints(app: RlhfApp) -> str:
    """What the app wrote into its log, or shows as an error that the view does not ask for."""
    log = paths.state() / "app.log"
    if log.exists():
        return log.read_text()
    return str(app.screen.error) if isinstance(app.screen, ErrorPage) else ""


async def _sweep(view: View, sizes: Iterable[tuple[int, int]], app: RlhfApp, pilot: Pilot[None]) -> None:
    for width, height in sizes:
        await pilot.resize_terminal(width, height)
        await pilot.pause()
        text = seen(app).text
        assert app.size == (width, height)
        if view.name != "error":
            assert not _complaints(app), (width, height)
        small = width < WIDE_ENOUGH or height < TALL_ENOUGH
        if app.screen.query(".too-small"):
            told = TOO_SMALL.split()[0] in text and "60x20" in text.replace("\n", " ")
            assert told == small, f"{width}x{height}\n{text}"
        if not small:
            _footer_fits(app, width)


def _footer_fits(app: RlhfApp, width: int) -> None:
    """Every key at the bottom is on the screen, whole."""
    for key in app.screen.query(Footer).first().children if app.screen.query(Footer) else ():
        if key.display and "-command-palette" not in key.classes:
            assert key.region.right <= width, f"{key} ends at column {key.region.right} of {width}"


@pytest.mark.parametrize("view", _named(VIEWS))
def test_a_sample_of_sizes(view: View) -> None:
    async def sweep(app: RlhfApp, pilot: Pilot[None]) -> None:
        await _sweep(view, SAMPLE, app, pilot)

    look(view, sweep, (80, 24))


@pytest.mark.long
@pytest.mark.parametrize("view", [pytest.param(v, id=v.slug) for v in VIEWS])
def test_every_size(view: View) -> None:
    async def sweep(app: RlhfApp, pilot: Pilot[None]) -> None:
        await _sweep(view, ((w, h) for w in WIDTHS for h in HEIGHTS), app, pilot)

    look(view, sweep, (120, 40))


@pytest.mark.parametrize("view", _named(VIEWS))
def test_ascii_shows_nothing_else(view: View) -> None:
    found: list[str] = []

    async def read(app: RlhfApp, pilot: Pilot[None]) -> None:
        for size in ((120, 40), (80, 24)):
            await pilot.resize_terminal(*size)
            found.append((await settle(app, pilot)).text)

    look(view, read, (120, 40), ascii=True)
    strange = {c: line for text in found for line in text.splitlines() for c in line if not c.isascii()}
    assert not strange


@pytest.mark.long
@pytest.mark.parametrize("view", [pytest.param(v, id=v.slug) for v in VIEWS])
def test_no_colour_is_shown_where_none_is_wanted(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def read(app: RlhfApp, pilot: Pilot[None]) -> None:
        for row in seen(app).rows:
            for text, style, _ in row:
                for colour in (style.color, style.bgcolor) if style else ():
                    grey = colour is None or colour.triplet is None or len(set(colour.triplet)) == 1
                    assert grey, f"{colour} in {text!r}"

    look(view, read, (80, 24))


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
@pytest.mark.parametrize("view", [pytest.param(v, id=v.slug, marks=pytest.mark.long) for v in VIEWS])
def test_the_terminals_own_colours_do(view: View, theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_LITE_THEME", theme)

    async def read(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert app.theme == theme
        for colours in ("ansi", ""):
            if not colours:
                app.theme = "textual-dark"  # and back, while a page is open
            await settle(app, pilot)
            assert view.name == "error" or not _complaints(app)

    look(view, read, (80, 24))


@pytest.mark.long
@pytest.mark.parametrize("view", [pytest.param(v, id=v.slug) for v in VIEWS])
def test_the_terminals_own_colours_without_colour(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("RLHF_LITE_THEME", "ansi-dark")

    async def read(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert view.name == "error" or not _complaints(app)

    look(view, read, (80, 24))
