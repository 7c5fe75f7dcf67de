"""How long from a label's key to the next pair on the screen, with many labels stored?

    python benchmarks/labelling.py [LABELS] [KEYS]

The real app in a pseudo terminal of 80x24: the clock runs from the key's byte going in to the byte with which the next
pair is complete on the screen. The label is on disk by then (SQLite, synchronous=FULL). Between two keys there is a
pause, as a person makes one, in which the figures are read; a second round waits for nothing but the pair. On a machine
that has other work, the time on the CPU says more than the clock.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tui"))

from terminal import Terminal

from rlhf_lite import config
from rlhf_lite.project import Project, ProjectFile

NEXT = r"Question (\d+) asks"
ANSWER = "Soak it in cold water for half an hour, then rub in a little soap and rinse it well. " * 4


def filled(folder: Path, labels: int, waiting: int) -> Project:
    """A project with labels of this person, and pairs that wait."""
    project = Project.create(folder, ProjectFile(name="bench", model="demo", preset="demo"))
    judge = f"person:{config.labeller()}"
    with project.labels() as store, store.transaction():
        store.add_prompts(
            [[{"role": "user", "content": f"Question {n} asks"}] for n in range(labels + waiting)]
        )
        for number, prompt in enumerate(store.prompts()):
            pair = store.add_pair(prompt.id, f"{ANSWER} {number}", f"No. {ANSWER}", origin="0001-generate")
            if number < labels and pair:
                store.label(pair, "ab"[number % 2], judge=judge, seconds=2.0)
    return project


def on_cpu(pid: int) -> float:
    """Milliseconds that the program's main thread has been running."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def measured(project: Project, keys: int, pause: float) -> tuple[list[float], list[float]]:
    """Milliseconds of each key: by the clock, and those in which the app's main thread was running."""
    found, ran = [], []
    with Terminal("label", project.root) as terminal:
        shown = terminal.wait_for(NEXT)
        time.sleep(1.0)
        for number in range(keys):
            terminal.settle(pause)
            began, before = time.perf_counter(), on_cpu(terminal.pid)
            terminal.press("ab"[number % 2])
            shown = terminal.wait_for(NEXT, other=shown[0])
            found.append((time.perf_counter() - began) * 1000)
            ran.append(on_cpu(terminal.pid) - before)
    return found, ran


def row(name: str, found: list[float]) -> str:
    cuts = statistics.quantiles(found, n=100)
    return f"{name:<28}{statistics.median(found):8.1f}{cuts[94]:8.1f}{cuts[98]:8.1f}{max(found):8.1f}"


def main() -> None:
    labels, keys = (int(a) for a in (*sys.argv[1:], "10000", "300")[:2])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_LITE_STATE"] = folder
        project = filled(Path(folder) / "bench", labels, 2 * keys + 10)
        print(f"{labels} labels stored, {keys} keys, ms  median     p95     p99     max")
        for name, pause in (("a person's pace (0.3 s)", 0.3), ("as fast as pairs appear", 0.0)):
            clock, ran = measured(project, keys, pause)
            print(row(name, clock))
            print(row("  of it on the CPU", ran))


if __name__ == "__main__":
    main()
