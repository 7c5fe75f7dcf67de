"""The real app in a pseudo terminal: bytes in, bytes out, and no mercy at the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from types import TracebackType
from typing import Self

SCRIPT = "import sys; from rlhf_lite.cli import main; sys.exit(main(sys.argv[1:]))"


class Terminal:
    """``rlhf-lite ARGUMENTS`` with the keyboard and the screen in our hands. Leaving kills what still runs."""

    def __init__(self, *arguments: object, size: tuple[int, int] = (80, 24), **environment: str) -> None:
        command = [sys.executable, "-c", SCRIPT, *(str(a) for a in arguments)]
        child = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, command, child)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self._ended = False
        self.seen = ""  # what was drawn since the last look

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def read(self, seconds: float) -> bool:
        """Take in what is drawn within that time; False once the program is gone."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def wait_for(self, pattern: str, seconds: float = 20.0, *, other: str = "") -> re.Match[str]:
        """The last match in what was drawn since the last look; ``other`` than what was there before."""
        until = time.monotonic() + seconds
        while True:
            found = [m for m in re.finditer(pattern, self.seen) if not other or m[0] != other]
            if found:
                self.seen = ""
                return found[-1]
            assert time.monotonic() < until, f"{pattern} was never drawn: {self.seen[-2000:]!r}"
            assert self.read(0.5), f"the program ended: {self.seen[-2000:]!r}"

    def settle(self, seconds: float) -> None:
        """Let it draw for that long, and forget what it drew."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.read(left)
        self.seen = ""

    def kill(self) -> None:
        """SIGKILL: no handler, no last write."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()
        os.close(self._fd)
