"""Every page in every state that is worth a look, on a machine and at a time that never change.

One line in :data:`VIEWS` adds a page to the snapshots, the size sweep and the tests of ascii and colours.
"""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
import textual.constants
from huggingface_hub import constants
from projects import BEGAN
from rich.segment import Segment
from rich.style import Style
from textual._compositor import LayoutUpdate
from textual.pilot import Pilot

from rlhf_lite import doctor, hub, jobs, memory, paths, sitting
from rlhf_lite.events import AnyEvent, EventWriter
from rlhf_lite.project import Project, Run
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens import preview, runwords
from rlhf_lite.tui.widgets import chart
from rlhf_lite.tui.widgets.topbar import TopBar

Go = Callable[[RlhfApp, "Pilot[None]"], Awaitable[None]]
FOLDERS = "/tmp"  # a path of one length everywhere: where it is shown, it wraps alike
GIB = memory.GIB
WEIGHTS = ("bold", "dim", "italic", "underline", "reverse", "strike", "blink")
NAMES = {" ": "space", "?": "question_mark", "/": "slash"}
SETTLED = 400  # looks before a page that never comes to rest is a failure


@dataclass(frozen=True)
class View:
    """``make`` lays out the project, None for none; ``busy`` begins a run in it, which is alive while one looks."""

    name: str
    make: Callable[[Path], Project] | None
    go: Go
    busy: Callable[[Project], Run] | None = None

    @property
    def slug(self) -> str:
        """Its name as part of a file's."""
        return self.name.replace(",", "").replace(" ", "-")


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = BEGAN + 86_400

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@contextmanager
def frozen() -> Generator[Path]:
    """A home folder on a machine that is the same everywhere; whatever asks the real one is replaced."""
    home = Path(tempfile.mkdtemp(prefix="rlhf-", dir=FOLDERS)).resolve()
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        _freeze(patch, home)
        os.chdir(home)
        try:
            yield home
        finally:
            os.chdir(before)
            shutil.rmtree(home, ignore_errors=True)
    time.tzset()


def _freeze(patch: pytest.MonkeyPatch, home: Path) -> None:
    CLOCK.now = BEGAN + 86_400
    (home / "state").mkdir()
    (home / "state" / "welcomed").touch()
    for name in [n for n in os.environ if n.startswith("RLHF_LITE_")] + ["NO_COLOR", "VISUAL"]:
        patch.delenv(name, raising=False)
    values = {"HOME": home, "RLHF_LITE_STATE": home / "state", "RLHF_LITE_CONFIG": home / "state" / "config.toml",
              "RLHF_LITE_PROJECTS": home / "projects", "RLHF_LITE_NAME": "ada", "TZ": "UTC", "EDITOR": "nano",
              "TERM": "xterm-256color", "COLORTERM": "truecolor"}  # fmt: skip
    for name, value in values.items():
        patch.setenv(name, str(value))
    time.tzset()
    patch.setattr(time, "time", CLOCK)
    patch.setitem(sitting.Sitting.__init__.__kwdefaults__, "clock", CLOCK)
    patch.setattr(textual.constants, "TEXTUAL_ANIMATIONS", "none")
    patch.setattr(chart, "REDRAW_S", 0.0)
    holders = (memory.Holder(1, "Xorg", int(0.4 * GIB)), memory.Holder(2, "firefox", int(0.3 * GIB)))
    card = memory.Memory("gpu", "NVIDIA GeForce RTX 3060", 12 * GIB, int(0.7 * GIB), int(11.3 * GIB), holders)
    patch.setattr(memory, "read", lambda: card)
    patch.setattr(jobs, "device_name", lambda: "gpu")
    patch.setattr(doctor, "check", lambda: list(CHECKS))
    patch.setattr(runwords, "datetime", Today)
    demo = paths.demo_model()
    (home / "presets").symlink_to(paths.presets())
    patch.setattr(paths, "presets", lambda: home / "presets")
    patch.setattr(hub, "find", lambda model: demo if model == "demo" else None)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(jobs, "Session", Session)
    patch.setattr(
        preview,
        "rendered",
        lambda root, wanted: [(f"<user>{m[-1]['content']}<assistant>", 14) for m in wanted],
    )


class Today(datetime):
    """Now, by the clock above."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Today:
        return cls.fromtimestamp(CLOCK(), tz)


class Session:
    """A child that is loaded at once and always answers the same."""

    def __init__(self, verb: str, *arguments: str) -> None:
        self._replies: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._replies.put({"type": "ready", "name": arguments[0], "context": 2048, "device": "gpu"})

    def send(self, **message: object) -> None:
        if message["type"] != "chat":
            return
        answer = SIDES.get(str(message.get("side", "")), SIDES["tuned"])
        for word in answer.split(" "):
            self._replies.put({"type": "token", "text": f"{word} "})
        self._replies.put({"type": "done", "reason": "stop", "tokens": 24, "seconds": 0.5, "prompt_tokens": 31,
                           "seconds_to_first": 0.02})  # fmt: skip

    def receive(self) -> dict[str, object]:
        return self._replies.get()

    def close(self) -> None:
        pass


SIDES = {
    "tuned": "Six minutes for a **soft** yolk, nine for a firm one.\n\n- start when it boils again\n- then cold water",
    "base": "It depends. Eggs can be boiled for a short time or a long time, as you like.",
}
CHECKS = (
    doctor.Check("Python", True, "3.11.9"),
    doctor.Check("system", True, "Linux 6.8, x86-64"),
    doctor.Check("packages", True, "torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0, textual 8.2.8"),
    doctor.Check("GPU", True, "NVIDIA GeForce RTX 3060, 12 GiB, driver 570.86"),
    doctor.Check("memory", True, "27.4 GiB free"),
    doctor.Check("disk", False, "0.4 GiB free here", "free some: a project wants 1 GiB or more"),
    doctor.Check("llama.cpp", True, "0.3.36, built without CUDA: chat runs on the CPU", "make builds it for the GPU"),
)  # fmt: skip


@dataclass
class Seen:
    """What a screen shows: rows of segments."""

    rows: list[list[Segment]]

    @property
    def text(self) -> str:
        return "\n".join("".join(s.text for s in row) for row in self.rows)

    def dump(self, home: Path) -> str:
        """The text, then which columns of which rows have which style; ``home`` by a name of its length."""
        names: dict[str, str] = {}
        runs = [self._runs(row, names) for row in self.rows]
        text = self.text.replace(str(home), "/tmp/rlhf-" + "." * (len(str(home)) - len("/tmp/rlhf-")))
        lines = [line.rstrip() for line in text.splitlines()]
        told, start = list[str](), 0
        for number in range(1, len(runs) + 1):
            if number == len(runs) or runs[number] != runs[start]:
                rows = f"{start}" if number == start + 1 else f"{start}-{number - 1}"
                told.append(f"{rows}: {runs[start]}")
                start = number
        styles = [f"{name} = {style or 'none'}" for style, name in names.items()]
        return "\n".join([*lines, "", *told, "", *styles])

    def _runs(self, row: list[Segment], names: dict[str, str]) -> str:
        found: list[tuple[str, int]] = []
        for text, style, _ in row:
            name = names.setdefault(_spelled(style), _letter(len(names)))
            before = found.pop() if found and found[-1][0] == name else (name, 0)
            found.append((name, before[1] + Segment(text).cell_length))
        return " ".join(f"{name}{width}" for name, width in found)


def _letter(number: int) -> str:
    return chr(97 + number) if number < 26 else _letter(number // 26 - 1) + _letter(number % 26)


def _spelled(style: Style | None) -> str:
    """Colours and weights as Rich spells them, without what a style carries besides: actions, which hold ids."""
    if style is None:
        return ""
    weights = {name: True for name in WEIGHTS if getattr(style, name)}
    return str(Style(color=style.color, bgcolor=style.bgcolor, **weights)).replace("none", "")


def seen(app: RlhfApp) -> Seen:
    """What is on the screen now, a dialog over the page that it lies on."""
    update = app.screen._compositor.render_update(
        full=True, screen_stack=app._background_screens, simplify=True
    )
    assert isinstance(update, LayoutUpdate)
    return Seen([[segment for strip in strips for segment in strip] for strips in update.strips])


async def settle(app: RlhfApp, pilot: Pilot[None]) -> Seen:
    """Wait until nothing works in the background and the screen has stopped changing."""
    for screen in app.screen_stack:
        screen.query(TopBar).refresh()  # by itself it looks once a second
    before, same = "", 0
    for _ in range(SETTLED):
        await pilot.pause()
        found = seen(app)
        working = [t for t in threading.enumerate() if "(run)" in t.name] or [
            w for w in app.workers if w.is_running
        ]
        same = same + 1 if not working and found.text == before else 0
        if same == 3:
            return found
        before = found.text
        await asyncio.sleep(0.02)
    raise AssertionError(f"never comes to rest: {working}\n{before}")


@contextmanager
def laid_out(view: View, home: Path) -> Generator[Project | None]:
    """The view's project in the home folder, its job alive."""
    with ExitStack() as stack:
        project = view.make(home / "projects" / "kitchen-advice") if view.make else None
        if project and view.busy:
            run = view.busy(project)
            stack.enter_context(jobs.hold_lock(jobs.lock_path(run), "1"))
        yield project


def look(view: View, steps: Go, size: tuple[int, int], *, ascii: bool = False) -> None:
    """Open a view in a frozen home that is this process' own, and do these steps in it."""

    async def main(project: Project | None) -> None:
        app = RlhfApp(project.root if project else None, ascii=ascii)
        async with app.run_test(size=size) as pilot:
            await settle(app, pilot)
            await view.go(app, pilot)
            await settle(app, pilot)
            await steps(app, pilot)

    with laid_out(view, Path.home()) as project:
        asyncio.run(main(project))


# --- ways to get somewhere


def at(page: str, *keys: str, text: str = "") -> Go:
    """Open a page, type a text, and press these keys there."""

    async def go(app: RlhfApp, pilot: Pilot[None]) -> None:
        if not (isinstance(app.screen, Page) and page == app.screen.PAGE_NAME):
            app.show(page)
            await settle(app, pilot)
        if text:
            await pilot.press(*(NAMES.get(letter, letter) for letter in text))
        for key in keys:
            CLOCK.now += 9
            await pilot.press(key)
            await settle(app, pilot)

    return go


def told(page: str, more: Sequence[Sequence[AnyEvent]], seconds: float = 8.0) -> Go:
    """Open a page while its run goes on: each batch of events comes ``seconds`` after the one before."""

    async def go(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at(page)(app, pilot)
        assert app.desk.feed
        log = EventWriter(app.desk.feed.busy[-1].run.events_path)
        for batch in more:
            CLOCK.now += seconds
            for event in batch:
                log.write(event)
            app._poll()
            await settle(app, pilot)
        log.close()

    return go
