"""When Python looks for garbage: in a pause that somebody names, not in the middle of a paint.

A full collection over all that Textual has loaded takes 70 ms and more, which a key or the next word would wait for.
"""

from __future__ import annotations

import gc


def keep() -> None:
    """What is loaded now stays for good: the collector may leave it alone from now on. What painting leaves behind it
    then finds by itself so seldom that :func:`pause` is there first."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 100)


def pause() -> None:
    """Nobody waits just now: collect."""
    gc.collect()
