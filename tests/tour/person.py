"""What a person does in front of the app: look until something is there, read two answers, press a key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reading import Shown, dots, shown_pair
from terminal import PROMPT, NotSeen, Terminal

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = Path(sys.executable).parent / "rlhf-lite"
sys.path.insert(0, str(ROOT / "assets/examples"))

from judge import prefer  # noqa: E402  # an example for users, in no package

KEYS = {"a": "a", "b": "b", "tie": "t"}
JOB = 1800  # seconds that a job may take on a machine with other things to do


class Person:
    """Somebody of the taste ``prefer``, at a terminal, with a project."""

    def __init__(self, terminal: Terminal, project: Path) -> None:
        self.terminal, self.project = terminal, project
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str) -> Generator[list[str]]:
        """Tell a step, what was seen in it, and its time."""
        began, seen = time.monotonic(), list[str]()
        print(f"{name} …", flush=True)
        yield seen
        took = time.monotonic() - began
        self.times.append((name, took))
        print(f"   {took:6.1f} s  {'; '.join(seen)}", flush=True)

    @property
    def summary(self) -> str:
        """Every step with its time."""
        rows = [f"{seconds:7.1f} s  {name}" for name, seconds in self.times]
        return "\n".join([*rows, f"{sum(seconds for _, seconds in self.times):7.1f} s  all of it"])

    def enter(self, text: str) -> None:
        self.terminal.type(text)
        self.terminal.press("Enter")

    def open_app(self) -> None:
        self.enter("clear; rlhf-lite")

    def shell(self) -> None:
        self.terminal.wait_for(rf"{re.escape(PROMPT)}\s*\Z")

    def home_page(self) -> None:
        self.terminal.wait_for("▸ Home ")

    def pause(self, seen: list[str]) -> None:
        """Until a step more would long have come; then go on."""
        began = time.monotonic()
        first = int(self.terminal.wait_for(r"PPO steps (\d+)/")[1])
        self.terminal.wait_for(rf"PPO steps {first + 2}/", JOB)
        step = (time.monotonic() - began) / 1.5
        self.terminal.press("Space")
        self.terminal.wait_for("It pauses after this step", 3)
        time.sleep(2 * step)
        before = int(self.terminal.wait_for(r"PPO steps (\d+)/")[1])
        time.sleep(2 * step)
        after = int(self.terminal.wait_for(r"PPO steps (\d+)/")[1])
        self.sure(after == before, "it went on while it was paused")
        self.terminal.press("Space")
        self.terminal.wait_for("It goes on", 3)
        self.terminal.wait_for(rf"PPO steps {before + 1}/", JOB)
        seen.append(f"rested after step {before}")

    def come_back(self, seen: list[str]) -> None:
        """Leave the app while the job runs, and find both again."""
        self.terminal.press("Escape")
        self.home_page()
        self.terminal.press("q")
        self.terminal.wait_for("still running")
        self.terminal.press("k")
        self.shell()
        time.sleep(3)
        self.sure(self.status()["running"], "the job did not outlive the app")
        self.open_app()
        self.terminal.wait_for("No project is open")
        self.terminal.press("o")
        self.terminal.wait_for("Opened last")
        self.terminal.press("Enter")
        self.terminal.wait_for("-ppo is running")
        self.terminal.press("6")
        step = self.terminal.wait_for(r"PPO steps (\d+)/\d+")[1]
        self.sure(int(step) > 1 and dots(self.terminal.lines()) > 20, "the charts did not come back")
        seen.append(f"found again at step {step}")

    def next_pair(self, before: Shown | None) -> Shown:
        """The pair on the screen once it is another one, and has been drawn to its end."""
        until, last = time.monotonic() + 120, None
        while time.monotonic() < until:
            now = shown_pair(self.terminal.lines())
            if now and now == last and now != before:
                return now
            last = now
            time.sleep(0.03)
        raise NotSeen(self.terminal.told("no other pair came"))

    def say(self, pair: Shown) -> Shown:
        """Press what a person of that taste would press; returns the next pair."""
        self.terminal.press(KEYS[prefer(pair.prompt, pair.a, pair.b)])
        return self.next_pair(pair)

    def watch(self, pattern: str, end: str, seconds: float = JOB) -> list[int]:
        """The numbers that were seen to come and go until the end was on the screen."""
        until, seen = time.monotonic() + seconds, list[int]()
        while not re.search(end, screen := self.terminal.screen()):
            found = re.search(pattern, screen)
            if found and int(found[1]) not in seen[-1:]:
                seen.append(int(found[1]))
            self.sure(time.monotonic() < until, f"not seen after {seconds:.0f} s: {end}")
            time.sleep(0.05)
        return seen

    def answer(self) -> str:
        """What stands below the last question in the chat, above the two lines that one types under."""
        lines = self.terminal.lines()
        asked = max((y for y, line in enumerate(lines) if re.match(r" +> How ", line)), default=len(lines))
        return " ".join(line.strip() for line in lines[asked + 1 : -4]).strip()

    def status(self) -> dict[str, Any]:
        """What a script is told about the project."""
        command = [str(COMMAND), "status", str(self.project), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    def sure(self, holds: bool, what: str) -> None:
        if not holds:
            raise NotSeen(self.terminal.told(what))
