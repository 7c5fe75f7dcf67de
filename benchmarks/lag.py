"""How late is the app's event loop while a real PPO job runs beside it on the same cores?

    python benchmarks/lag.py PROJECT --seconds 60

The real app in a pseudo terminal of 120x36 on a project that has a reward model: it opens the PPO page, starts PPO and
stays on its live charts. A heartbeat that sleeps 10 ms notes how much later it woke. Printed: median, p99 and maximum
in ms, with the job and, before it starts, without.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time
from fcntl import ioctl
from pathlib import Path

BEAT = 0.01
QUIET = 5.0  # seconds on the page before the job starts


def inside(folder: Path, seconds: float, out: Path) -> None:
    """The app with a heart; runs in the pseudo terminal."""
    from rlhf_lite import jobs
    from rlhf_lite.tui import app

    class Measured(app.RlhfApp):
        CSS_PATH = Path(app.__file__).with_name("app.tcss")  # Textual looks beside the subclass

        def on_mount(self) -> None:
            super().on_mount()
            self.heart = asyncio.get_running_loop().create_task(self.measure())

        async def beat(self, until: float) -> list[float]:
            late: list[float] = []
            while (now := time.perf_counter()) < until:
                await asyncio.sleep(BEAT)
                late.append(time.perf_counter() - now - BEAT)
            return late

        async def measure(self) -> None:
            await asyncio.sleep(1.0)
            self.show("ppo")
            await asyncio.sleep(1.0)
            quiet = await self.beat(time.perf_counter() + QUIET)
            await self.run_action("start", self.screen)
            busy = await self.beat(time.perf_counter() + seconds)
            assert self.desk.feed
            watched = self.desk.feed.newest("ppo")
            assert watched
            steps = len([m for m in watched.status.metrics if "seconds" in m.values])
            jobs.stop(watched.run)
            out.write_text(json.dumps({"quiet": quiet, "busy": busy, "steps": steps}))
            self.exit()

    Measured(folder).run()


def figures(late: list[float]) -> str:
    ordered = sorted(x * 1e3 for x in late)
    p99 = ordered[int(0.99 * len(ordered))]
    return f"median {statistics.median(ordered):5.1f}  p99 {p99:5.1f}  most {ordered[-1]:6.1f} ms  of {len(ordered)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.project, given.seconds, given.inside)
        return
    out = Path(os.environ.get("TMPDIR", "/tmp")) / f"lag-{os.getpid()}.json"
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
    command = [
        sys.executable,
        __file__,
        str(given.project),
        "--seconds",
        str(given.seconds),
        "--inside",
        str(out),
    ]
    child = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(slave)

    last = bytearray()  # of what it drew: where a traceback would be

    def drain() -> None:
        try:
            while drawn := os.read(master, 65536):
                last.extend(drawn)
                del last[:-4000]
        except OSError:  # the app has closed its end
            pass

    threading.Thread(target=drain, daemon=True).start()
    if child.wait() or not out.exists():
        raise SystemExit(f"the app ended with {child.returncode}:\n{last.decode(errors='replace')}")
    found = json.loads(out.read_text())
    out.unlink()
    print(f"without a job   {figures(found['quiet'])}")
    print(f"PPO running     {figures(found['busy'])}  ({found['steps']} steps)")


if __name__ == "__main__":
    main()
