"""Where a benchmark's numbers are kept: ``results/NAME.json``, a row at a time, with the machine, versions and date.

A row says in its ``key`` what was measured (model, batch, seed, …): a benchmark asks :meth:`Record.has` first, so that
one that was stopped goes on where it was. A figure counts for the machine and the versions named beside it: a file
that was made with others is refused, unless it is removed first. ``BENCH_RESULTS`` names another folder.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCH_RESULTS") or Path(__file__).resolve().parent / "results")
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "llama_cpp_python")
Row = dict[str, Any]


class Record:
    """The rows of one benchmark.

    Raises:
        SystemExit: the file there is of another machine or of other versions.
    """

    def __init__(self, name: str, folder: Path = RESULTS) -> None:
        self.path = folder / f"{name}.json"
        self.made_with = made_with()
        self.rows: list[Row] = []
        if self.path.exists():
            found = json.loads(self.path.read_text())
            if {k: found.get(k) for k in self.made_with} != self.made_with:
                raise SystemExit(
                    f"{self.path} is of another machine or other versions: remove it to measure anew"
                )
            self.rows = found["rows"]

    def has(self, **key: Any) -> bool:
        return any(row["key"] == key for row in self.rows)

    def missing(self, keys: Iterable[Row]) -> list[Row]:
        return [key for key in keys if not self.has(**key)]

    def add(self, key: Row, **measured: Any) -> Row:
        """Keep one row, on disk before this returns."""
        row = {"key": key, **rounded(measured), "date": datetime.date.today().isoformat()}
        self.rows = [r for r in self.rows if r["key"] != key] + [row]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(f"  {json.dumps(r)}" for r in self.rows)
        head = json.dumps(self.made_with, indent=1).removesuffix("\n}")
        part = self.path.with_suffix(".part")
        part.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
        os.replace(part, self.path)
        return row


def rounded(measured: Any) -> Any:
    """Four digits: more than any of these machines repeats."""
    if isinstance(measured, float):
        return float(f"{measured:.4g}")
    if isinstance(measured, dict):
        return {k: rounded(v) for k, v in measured.items()}
    return [rounded(v) for v in measured] if isinstance(measured, list | tuple) else measured


def made_with() -> dict[str, Any]:
    """This machine and what is installed."""
    return {"machine": machine(), "versions": {p: version(p) for p in PACKAGES}}


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, GPU."""
    import torch

    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "memory_gib": round(memory),
        "gpu": gpu, "python": platform.python_version(), "system": platform.system(),
    }  # fmt: skip
