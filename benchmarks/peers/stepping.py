"""How ppo_speed.py has a process do one step at a time: a gate at the top of the process's own loop over steps.

The process reads a line of JSON, does a step, comes by the gate again and replies with a line: the step's seconds, from
gate to gate so that all of the loop counts, its peak memory so far, and what else it has to tell. The end of its input
ends it. Nothing here needs more than Python, so that it runs in any environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Gate:
    """What others print goes to stderr from now on."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._began = 0.0

    def wait(self, **told: Any) -> Any:
        """Tell of the step that is over, where there was one, and wait for the next; returns what it is given.

        Raises:
            SystemExit: there is no next one.
        """
        if self._began:
            seconds = time.perf_counter() - self._began
            self._replies.write(json.dumps({"seconds": seconds, "peak": peak(), **told}) + "\n")
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        given = json.loads(line)
        self._began = time.perf_counter()
        return given


def peak() -> int:
    """The most bytes that this process has held: of the GPU as torch counts it, where it has one. Not ``ru_maxrss``, in
    which the parent's share lives on.
    """
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":  # what a bare interpreter with torch holds
    import torch  # noqa: F401

    print(peak())
