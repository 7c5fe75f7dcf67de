"""How long until the app shows something, and until a large project is open?

    python benchmarks/opening.py [LABELS] [RUNS] [EVENTS] [PAIRS_OF_STARTS]

Opening: from ``RlhfApp(folder)`` to home painted with that project's eight steps, in this process without a terminal;
the imports are done before. Each time in a process of its own, for what was read is remembered.

First paint: the real app and a bare Textual app that says hello, each started in a pseudo terminal of 80x24, by turns:
from spawning the process to the bytes that complete the first screen. What counts is the ratio of the two.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rlhf_lite import events
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import Inputs, load_preset

HELLO = """
from textual.app import App
from textual.widgets import Static

class Hello(App):
    def compose(self):
        yield Static("Hello, world")

Hello().run()
"""
ANSWER = "Soak it in cold water for half an hour, then rub in a little soap and rinse it well. " * 4
LIMIT = 30.0  # seconds until a start has failed


def filled(folder: Path, labels: int, runs: int, length: int) -> Project:
    """A project with so many labels, and runs of so many events."""
    project = Project.create(folder, ProjectFile(name="bench", model="demo", preset="demo"))
    with project.labels() as store, store.transaction():
        store.add_prompts([[{"role": "user", "content": f"Question {n} asks"}] for n in range(labels)])
        for number, prompt in enumerate(store.prompts()):
            pair = store.add_pair(prompt.id, f"{ANSWER} {number}", f"No. {ANSWER}", origin="0001-generate")
            if pair:
                store.label(pair, "a" if number % 2 else "b", judge="person:me", seconds=2.0)
    for number in range(runs):
        stage = ("generate", "reward", "ppo", "ppo", "eval")[number % 5]
        inputs = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0)
        log = EventWriter(project.new_run(inputs, load_preset("demo")).events_path)
        log.write(events.Started(stage=stage, pid=1))
        for step in range((length - 2) // 2):
            values = dict.fromkeys((*events.METRIC_LABELS, *(f"more/{n}" for n in range(6))), 0.1 * step)
            log.write(events.Metrics(step=step, values=values))
            log.write(events.Progress(what="steps", done=step, total=length // 2))
        log.write(events.Finished())
        log.close()
    return project


def opened(root: Path) -> float:
    """Milliseconds to home painted with the project, headless."""
    from rlhf_lite.tui.app import RlhfApp

    async def main() -> float:
        began = time.perf_counter()
        app = RlhfApp(root)
        async with app.run_test(size=(80, 24)) as pilot:
            while not any("Export" in strip.text for strip in app.screen._compositor.render_strips()):
                await asyncio.sleep(0)
            took = time.perf_counter() - began
            await pilot.pause()
        return took * 1000

    return asyncio.run(main())


def painted(command: list[str], wanted: str) -> float:
    """Milliseconds from spawning to the last byte of the first screen that has these words."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    environment.pop("NO_COLOR", None)
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
        start_new_session=True,
        env=environment,
    )
    os.close(theirs)
    seen = b""
    try:
        while wanted.encode() not in seen:
            if not select.select([mine], [], [], LIMIT)[0]:
                raise TimeoutError(f"nothing like {wanted!r} in {LIMIT} s: {seen[-500:]!r}")
            seen += os.read(mine, 65536)
        return (time.perf_counter() - began) * 1000
    finally:
        process.kill()
        process.wait()
        os.close(mine)


def pairs(command: list[str], wanted: str, number: int) -> None:
    """Both apps by turns, which of them first changing: a busy machine then slows both alike."""
    hello, app, ratios = list[float](), list[float](), list[float]()
    for turn in range(number):
        both = [([sys.executable, "-c", HELLO], "Hello", hello), (command, wanted, app)]
        for what, words, found in both if turn % 2 else both[::-1]:
            found.append(painted(what, words))
        ratios.append(app[-1] / hello[-1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{statistics.median(hello):10.0f}{statistics.median(app):10.0f}{middle:10.2f}   ({low:.2f} to {high:.2f})"
    )


def main() -> None:
    labels, runs, length, number = (
        int(a) for a in (*sys.argv[1:], *("10000", "50", "300", "9")[len(sys.argv) - 1 :])
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_LITE_STATE"] = folder
        os.environ["RLHF_LITE_CONFIG"] = str(Path(folder) / "config.toml")
        (Path(folder) / "welcomed").touch()
        project = filled(Path(folder) / "bench", labels, runs, length)
        asked = [sys.executable, __file__, "--open", str(project.root)]
        found = [float(subprocess.check_output(asked, text=True)) for _ in range(number)]
        print(
            f"{labels} labels, {runs} runs of {length} events: open in {statistics.median(found):.0f} ms",
            end="",
        )
        print(f" (median of {number}; {min(found):.0f} to {max(found):.0f})")
        print("first paint, ms        hello       app     ratio   (quartiles)")
        print("without a project  ", end="", flush=True)
        pairs([sys.executable, "-m", "rlhf_lite"], "No project is open", number)
        print("with that project  ", end="", flush=True)
        pairs([sys.executable, "-m", "rlhf_lite", "--project", str(project.root)], "Export", number)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        print(opened(Path(sys.argv[2])))
    else:
        main()
