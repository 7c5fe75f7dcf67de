"""A terminal of its own, by tmux: keys go in, and what a person would see comes out.

The server has a socket of its own, so that leaving it ends this one and no other; nobody's tmux.conf is read.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

LOOK_EVERY = 0.1  # seconds between two looks at the screen
PROMPT = "tour$"  # of the shell that one lands in
BROKEN = r"esc Close c Copy|Traceback \(most recent call last\)"
"""On the screen where the app tells of an error, and where it is gone; the tour gives it no reason for either."""


class ToolMissing(Exception):
    """tmux is not here; the message says what to do."""


class NotSeen(AssertionError):
    """What should be on the screen is not; the message ends with the screen as it is."""


class Terminal:
    """A shell at a prompt in a terminal of ``size`` (columns, rows), started in ``folder``."""

    def __init__(self, socket: Path, folder: Path, size: tuple[int, int] = (160, 50)) -> None:
        if not shutil.which("tmux"):
            raise ToolMissing(
                "tmux is not installed, and the tour drives the app in it.\n"
                "Next: apt install tmux (Fedora: dnf install tmux), then again"
            )
        self._tmux = ["tmux", "-u", "-f", "/dev/null", "-S", str(socket)]
        columns, rows = map(str, size)
        shell = f"exec env PS1='{PROMPT} ' bash --noprofile --norc"
        self._run("new-session", "-d", "-x", columns, "-y", rows, "-c", str(folder), shell)
        # 256 colours as most terminals have; an Escape is one at once, and not the beginning of another key.
        self._run("set", "-g", "status", "off", ";", "set", "-s", "escape-time", "0")
        self._run("set", "-g", "default-terminal", "tmux-256color")
        self.wait_for(re.escape(PROMPT), 10)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"tmux {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: ``Enter``, ``Escape``, ``C-p``, ``F4``, ``a``."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        """A text as it stands, letter by letter."""
        self._run("send-keys", "-l", text)

    def lines(self) -> list[str]:
        """The screen's rows, without the spaces at their ends."""
        return [line.rstrip() for line in self._run("capture-pane", "-p").split("\n")]

    def screen(self) -> str:
        return "\n".join(self.lines())

    def wait_for(self, pattern: str, seconds: float = 10.0, *, gone: bool = False) -> re.Match[str]:
        """The first match of a regular expression on the screen, or, with ``gone``, until there is none.

        Raises:
            NotSeen: it did not come in time, or the app told of an error.
        """
        until = time.monotonic() + seconds
        while True:
            screen = self.screen()
            found = re.search(pattern, screen, re.MULTILINE)
            if gone and not found:
                return re.compile("").match("")  # pyright: ignore[reportReturnType]  # matches
            if found and not gone:
                return found
            if re.search(BROKEN, screen):
                raise NotSeen(self.told(f"an error while waiting for: {pattern}"))
            if time.monotonic() > until:
                words = "still there" if gone else "not seen"
                raise NotSeen(self.told(f"{words} after {seconds:.0f} s: {pattern}"))
            time.sleep(LOOK_EVERY)

    def told(self, what: str) -> str:
        """``what``, and the screen below it in a frame."""
        lines = self.lines()
        width = max((len(line) for line in lines), default=0)
        frame = [f"+{'-' * width}+", *(f"|{line:<{width}}|" for line in lines), f"+{'-' * width}+"]
        return "\n".join([what, *frame])

    def close(self) -> None:
        """End this server, and with it whatever runs in the foreground of its terminal."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
