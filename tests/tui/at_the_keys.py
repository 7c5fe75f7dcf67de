"""Driving the app by its keys, as the tests of its first pages do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.css.query import NoMatches
from textual.pilot import Pilot
from textual.widgets import OptionList, Static
from textual.widgets._footer import FooterKey

from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import Page

Steps = Callable[[RlhfApp, Pilot[None]], Awaitable[None]]
NAMES = {"/": "slash", ".": "full_stop", "-": "minus", " ": "space", "_": "underscore", "?": "question_mark"}


def drive(
    steps: Steps, folder: Path | None = None, *, size: tuple[int, int] = (80, 24), ascii: bool = False
) -> None:
    """Run the app and these steps on it."""

    async def main() -> None:
        app = RlhfApp(folder, ascii=ascii)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(main())


async def until(pilot: Pilot[None], what: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something holds, which a thread of the page may take a moment for."""
    end = time.monotonic() + seconds
    while not holds(what):
        assert time.monotonic() < end, "waited in vain"
        await pilot.pause(0.02)


def holds(what: Callable[[], object]) -> bool:
    """A page that is being put together holds nothing yet."""
    try:
        return bool(what())
    except NoMatches:
        return False


async def write(pilot: Pilot[None], text: str) -> None:
    """Type text letter by letter."""
    await pilot.press(*(NAMES.get(letter, letter) for letter in text))


def page(app: RlhfApp) -> str:
    assert isinstance(app.screen, Page), app.screen
    return app.screen.PAGE_NAME


def shown(app: RlhfApp, selector: str) -> str:
    """The words of a Static."""
    return str(app.screen.query_one(selector, Static).render())


def rows(app: RlhfApp, selector: str = OptionList.__name__) -> list[str]:
    """The rows of a list, as they stand there."""
    return [str(option.prompt) for option in app.screen.query_one(selector, OptionList).options]


def highlighted(app: RlhfApp) -> str:
    option = app.screen.query_one(OptionList).highlighted_option
    return option.id or "" if option else ""


def footer_width(app: RlhfApp) -> int:
    """How many columns the keys at the bottom take."""
    return sum(key.outer_size.width for key in app.screen.query(FooterKey))
