"""The log is the truth: what was acknowledged is read back, whatever happened to the writer."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lite import events
from rlhf_lite.events import EventTail, EventWriter, Finished, Metrics, Note, Progress, Started

WRITE_FOREVER = """
import sys
from pathlib import Path
from rlhf_lite.events import EventWriter, Note
writer = EventWriter(Path(sys.argv[1]))
for number in range(10**9):
    writer.write(Note(text=f"{number} " + "x" * 200))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    said: list[events.AnyEvent] = [
        Started(stage="ppo", pid=7), Progress(what="steps", done=1, total=2), Metrics(step=1, values={"loss": 0.5}),
        Note(text="ünïcödé\nand a line break"), Finished(),
    ]  # fmt: skip
    writer = EventWriter(tmp_path / "events.jsonl")
    for event in said:
        writer.write(event)
    assert EventTail(tmp_path / "events.jsonl").read() == said


def test_a_killed_writer_loses_no_acknowledged_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(300)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout.read().splitlines() if line.strip().isdigit()]
    child.wait()
    tail = EventTail(path)
    numbers = [int(e.text.split()[0]) for e in tail.read() if isinstance(e, Note)]
    assert tail.malformed == 0
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= len(acknowledged) - 1  # the last acknowledgement itself may be torn


def test_a_torn_line_of_an_earlier_life_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(events.encode(Note(text="before")) + b'\n{"type":"note","te')
    EventWriter(path).write(Note(text="after"))
    tail = EventTail(path)
    assert [e.text for e in tail.read() if isinstance(e, Note)] == ["before", "after"]
    assert tail.malformed == 1


def test_a_reader_takes_whole_lines_only_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []  # no file yet
    line = events.encode(Note(text="one")) + b"\n"
    path.write_bytes(line[:10])
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(line[10:])
    assert [e.text for e in tail.read() if isinstance(e, Note)] == ["one"]
    assert tail.read() == []


def test_an_event_of_a_newer_version_is_skipped_and_rubbish_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type":"telepathy","time":1.0}\nrubbish\n{"type":"note"}\n[]\n')
    tail = EventTail(path)
    assert tail.read() == []
    assert tail.malformed == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_enters_the_log(tmp_path: Path, value: float) -> None:
    writer = EventWriter(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="loss/value_avg"):
        writer.write(Metrics(step=1, values={"loss": 1.0, "loss/value_avg": value}))
    assert EventTail(tmp_path / "events.jsonl").read() == []
