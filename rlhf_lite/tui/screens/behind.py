"""Slow work of a page, off the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from rlhf_lite.tui.page import Page

T = TypeVar("T")


def behind(
    page: Page,
    work: Callable[[], T],
    done: Callable[[T], None],
    failed: Callable[[Exception], None] | None = None,
) -> threading.Thread:
    """Do ``work`` in a thread and hand its result to ``done`` on the page's loop, if the page is still there.

    What goes wrong is for ``failed``, or is told as an error page. The thread is a daemon, unlike a Textual worker's:
    leaving the app must not wait for it.
    """

    def told(error: Exception) -> None:
        with page.told():
            raise error

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # told on the page's loop, which re-raises it there
            _hand_over(page, lambda error=error: (failed or told)(error))
        else:
            _hand_over(page, lambda: done(result))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _hand_over(page: Page, what: Callable[[], None]) -> None:
    def there() -> None:
        if page.is_attached:
            what()

    with suppress(RuntimeError):  # the app has gone meanwhile
        page.rlhf.call_from_thread(there)
