"""What a piece of work costs this process: seconds, processor seconds, and the most memory above what it began with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class Cost:
    """Begins where it is made. Linux."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before = _peak()
        self._began, self._processor = time.perf_counter(), time.process_time()

    def print(self, written: Path) -> None:
        """As a line of JSON, once the file that was written is on the disk."""
        descriptor = os.open(written, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        measured = {
            "seconds": time.perf_counter() - self._began,
            "processor_seconds": time.process_time() - self._processor,
            "peak_mib": (_peak() - self._before) / 2**20,
        }
        print(json.dumps(measured))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
