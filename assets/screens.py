"""The README's pictures of the app, from the runs of a finished demo project: ``python assets/screens.py PROJECT``.

The real app is driven without a terminal on a copy of the project, so PROJECT stays as it is; nothing shown is made up.
A few more pairs are sampled first, so that there is something to label, and the chat is a turn with the tuned model.
The fonts that Rich's SVG would fetch from the web are left out; a reader's own monospace font takes their place.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from rlhf_lite import jobs, stages
from rlhf_lite.project import Project
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.screens.chat import ChatPage

SIZE = (100, 30)
OUT = Path(__file__).parent / "screens"
PAIRS = 24
QUESTION = "How do I prepare a salad for a picnic?"
NAMES = {" ": "space", "?": "question_mark", ",": "comma", ".": "full_stop"}
FONTS = '"Fira Code", ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace'
PATIENCE = 120.0  # seconds for a model to load and answer


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("project", type=Path, help="a finished demo project")
    options.add_argument("--out", type=Path, default=OUT, help="folder of the pictures")
    given = options.parse_args()
    Project.open(given.project)  # says what is wrong before anything is copied
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        state = place / "state"
        state.mkdir()
        (state / "welcomed").touch()
        os.environ.update(RLHF_LITE_STATE=str(state), RLHF_LITE_CONFIG=str(state / "config.toml"))
        project = Project.open(Path(shutil.copytree(given.project, place / given.project.resolve().name)))
        sample(project)
        given.out.mkdir(parents=True, exist_ok=True)
        asyncio.run(draw(project, given.out))


def sample(project: Project) -> None:
    """Pairs that nobody has labelled."""
    prepared = stages.generate(project, stages.preset_of(project, []), PAIRS)
    for _ in jobs.watch(prepared.run, jobs.spawn(prepared.run)):
        pass
    if prepared.run.status().ended != "finished":
        sys.exit(f"no pairs could be sampled: {prepared.run.status().failure}")


async def draw(project: Project, out: Path) -> None:
    """Go through the pages and keep each as a picture."""
    app = RlhfApp(project.root)
    async with app.run_test(size=SIZE) as pilot:

        async def keep(name: str) -> None:
            await rest(app, pilot)
            (out / f"{name}.svg").write_text(without_fonts(app.export_screenshot(), name))
            print(out / f"{name}.svg", file=sys.stderr)

        await keep("home")
        for page in ("label", "ppo", "compare"):
            app.show(page)
            await keep(page)
            app.back()
        app.show("chat")
        await rest(app, pilot)
        await say(app, pilot, QUESTION)
        await keep("chat")


async def say(app: RlhfApp, pilot: Pilot[None], text: str) -> None:
    """One turn with the real session, which loads the model first."""
    chat = app.screen
    assert isinstance(chat, ChatPage)
    await until(pilot, lambda: chat.ready is not None)
    await pilot.press(*(NAMES.get(letter, letter) for letter in text), "enter")
    await until(pilot, lambda: chat.last is not None and chat.saying is None)


async def until(pilot: Pilot[None], what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > end:
            sys.exit("the chat did not answer in time")
        await pilot.pause(0.1)


async def rest(app: RlhfApp, pilot: Pilot[None]) -> None:
    """Wait until the page has stopped changing."""
    before = ""
    for _ in range(50):
        await pilot.pause(0.3)
        now = without_fonts(app.export_screenshot(), "")
        if now == before:
            return
        before = now


def without_fonts(svg: str, name: str) -> str:
    """The picture without references to the web, its ids the same each time."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (?:Fira Code|arial)[^;]*;", f"font-family: {FONTS};", svg)
    return re.sub(r"terminal-\d+", f"terminal-{name}", svg)


if __name__ == "__main__":
    main()
