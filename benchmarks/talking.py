"""How late is the event loop while an answer is said below a long conversation?

    python benchmarks/talking.py [TURNS] [TOKENS] [TOKENS_A_SECOND]

The real chat page, headless, 120x36: a conversation of so many turns is loaded, then one more answer of so many tokens
is said by a stand-in for the model's process. A heartbeat that sleeps 10 ms notes how much later it woke. Printed:
median, p99 and maximum in ms while the conversation is loaded, while the answer is said and while one scrolls through
all of it. To compare two versions, run them by turns with PYTHONPATH on the one and the other.
"""

from __future__ import annotations

import asyncio
import os
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rlhf_lite import chats, jobs
from rlhf_lite.conversation import Conversation
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.screens.chat import ChatPage

BEAT = 0.01
PART = """\
A stain of **red wine** is best soaked at once, before it dries:

1. Dab it with a *clean* cloth; do not rub.
2. Pour on cold water, and a little salt.
3. Wash it as usual, at `30 °C` at most.

If it has dried already, try this; it takes patience, but most fabrics come out of it as if nothing had happened.

```
soak(30, "minutes")
rinse(cold=True)
```

"""
CHARACTERS = 4  # a token, about


def answer(tokens: int) -> str:
    length = tokens * CHARACTERS
    return (PART * (length // len(PART) + 1))[:length]


class Speaker:
    """In place of :class:`jobs.Session`: says every answer at the same pace."""

    tokens, pace = 500, 60.0

    def __init__(self, *_: str) -> None:
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._text, self._next = "", 0.0
        self._greeted = False

    def send(self, **message: Any) -> None:
        self._asked.put(message["type"] == "chat")

    def receive(self) -> dict[str, Any]:
        if not self._greeted:
            self._greeted = True
            return {"type": "ready", "name": "it", "context": 100_000, "sides": ["base"], "device": "cpu"}
        if not self._text:
            self._asked.get()
            self._text, self._next = answer(self.tokens), time.perf_counter()
        self._next += 1 / self.pace
        time.sleep(max(0.0, self._next - time.perf_counter()))
        piece, self._text = self._text[:CHARACTERS], self._text[CHARACTERS:]
        if self._text:
            return {"type": "token", "text": piece}
        return {"type": "done", "reason": "stop", "tokens": self.tokens, "seconds": self.tokens / self.pace}

    def close(self) -> None:
        self._asked.put(False)


async def lateness(what: Awaitable[None]) -> list[float]:
    """Milliseconds that each heartbeat was late while this was done."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(BEAT)
            late.append((time.perf_counter() - began - BEAT) * 1000)

    heart = asyncio.ensure_future(beat())
    try:
        await what
        await asyncio.sleep(2 * BEAT)
    finally:
        heart.cancel()
    return late


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.02)


async def measured(project: Project, turns: int) -> dict[str, list[float]]:
    app = RlhfApp(project.root)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("c")
        page = app.screen
        assert isinstance(page, ChatPage)

        async def loading() -> None:
            page.typing.insert("/load long")
            await pilot.press("enter")
            await until(lambda: len(page.chat.turns) == 2 * turns and page.ready is not None)
            await pilot.pause()

        async def saying() -> None:
            page.typing.insert("And then?")
            await pilot.press("enter")
            await until(lambda: len(page.chat.turns) == 2 * turns + 2)

        async def scrolling() -> None:
            for key in ["pageup"] * 80 + ["pagedown"] * 80:
                await pilot.press(key)

        return {
            "loading it": await lateness(loading()),
            "an answer is said": await lateness(saying()),
            "scrolling": await lateness(scrolling()),
        }


def main() -> None:
    turns, tokens, pace = (int(a) for a in (*sys.argv[1:], *("30", "500", "60")[len(sys.argv) - 1 :]))
    Speaker.tokens, Speaker.pace = tokens, float(pace)
    jobs.Session = Speaker  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_LITE_STATE"] = folder
        os.environ["RLHF_LITE_CONFIG"] = str(Path(folder) / "config.toml")
        (Path(folder) / "welcomed").touch()
        project = Project.create(
            Path(folder) / "bench", ProjectFile(name="bench", model="demo", preset="demo")
        )
        chat = Conversation()
        for number in range(turns):
            chat.say(f"Question {number}: how do I get it out?")
            chat.reply(answer(tokens))
        chats.save(project, chat, "long")
        found = asyncio.run(measured(project, turns))
    print(f"{turns} turns of {tokens} tokens, {pace} a second; late by, ms   median     p99     max")
    for name, late in found.items():
        p99 = sorted(late)[int(0.99 * len(late))]
        print(f"{name:<52}{statistics.median(late):8.1f}{p99:8.1f}{max(late):8.1f}")


if __name__ == "__main__":
    main()
