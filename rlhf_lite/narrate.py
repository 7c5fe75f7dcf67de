"""Tells a run on stderr while it goes: bars with the time left on a terminal, else a plain line now and then.

Ctrl-C asks the job to finish its step and save; a second one ends it at once. Closing the terminal does neither:
the job goes on, and its events can be read later.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from rich import progress
from rich.console import Console
from rich.text import Text

from rlhf_lite import events, health, jobs, signs, stages
from rlhf_lite.errors import JobDied, from_parts
from rlhf_lite.paths import shown
from rlhf_lite.project import Run
from rlhf_lite.report import Output, StoppedByUser, printable

BRIEF = {"loss": "loss", "objective/scores": "reward", "eval/kl": "KL", "objective/kl": "KL",
         "completion_length": "tokens"}  # fmt: skip
"""Of two by one name the later, where a run tells both."""
STARTING = ""  # no kind of work has this name
LINE_EVERY, LINE_SHARE, LINE_AT_LATEST = 5.0, 0.1, 60.0  # seconds, share of the whole, seconds
STYLES: dict[signs.Level, str] = {"ok": "", "watch": "yellow", "bad": "red"}
WELL_AGAIN = 3  # healthy steps in a row before that is said, so that a run on the edge is not told to and fro


@dataclass
class _Pace:
    """How fast one kind of work goes, and when it was last told."""

    first: int
    began: float = field(default_factory=time.monotonic)
    told_at: float = 0.0
    told_share: float = -1.0

    def due(self, share: float) -> bool:
        """At most a line every 5 s and 10 %, at least one a minute; the first and the last always."""
        since = time.monotonic() - self.told_at
        moved = share - self.told_share >= LINE_SHARE
        return (
            self.told_share < 0
            or share == 1 > self.told_share
            or (since >= LINE_EVERY and moved)
            or since >= LINE_AT_LATEST
        )

    def left(self, done: int, total: int) -> float | None:
        """Seconds to go, None before the first unit is done."""
        if done <= self.first:
            return None
        return (time.monotonic() - self.began) / (done - self.first) * (total - done)


class Narrator:
    """Prints events on stderr; a context manager, for the bars."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bars: progress.Progress | None = None
        self._tasks: dict[str, progress.TaskID] = {}
        self._paces: dict[str, _Pace] = {}
        self._told: dict[str, float] = {}  # by the names of metrics
        self._what = ""

    def __enter__(self) -> Narrator:
        if self._console.is_terminal:
            self._bars = progress.Progress(
                progress.TextColumn("  {task.description}"), progress.BarColumn(24), progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[numbers]}"),
                console=self._console,
            )  # fmt: skip
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def begin(self, text: str) -> None:
        """A sign of life until the first progress: loading torch and a model takes a while."""
        if self._bars:
            self._tasks[STARTING] = self._bars.add_task(text, total=None, numbers="")
        else:
            self.say(f"  {text}")

    def say(self, text: str, style: str = "") -> None:
        """One line of narration."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def tell(self, event: events.AnyEvent) -> None:
        """Show one event, where it is worth showing."""
        match event:
            case events.Progress():
                self._progress(event)
            case events.Metrics(values=values):
                self._told |= values
            case events.Note(text=text):
                self.say(f"  {text}")
            case events.Warn(text=text, hint=hint):
                self.say(f"  warning: {text}" + (f" ({hint})" if hint else ""), "yellow")
            case events.Changed(step=step, name=name, value=value, why=why):
                self.say(f"  step {step}: {name} is now {value:g}" + (f" ({why})" if why else ""))
            case events.Resumed(from_step=step):
                self.say(f"  goes on from step {step}")
            case _:
                pass

    def _progress(self, event: events.Progress) -> None:
        what, done, total = printable(event.what), event.done, max(event.total, 1)
        if what != self._what:
            self._what, self._told = what, {}  # numbers of other work
        if self._bars:
            if STARTING in self._tasks:
                self._bars.remove_task(self._tasks.pop(STARTING))
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total, numbers="")
            self._bars.update(self._tasks[what], completed=done, total=total, numbers=self._numbers)
            return
        pace = self._paces.setdefault(what, _Pace(done))
        if not pace.due(done / total):
            return
        pace.told_at, pace.told_share = time.monotonic(), done / total
        left = pace.left(done, total)
        eta = f"{_clock(left)} left" if left is not None and done < total else ""
        self.say(
            "  ".join(
                part
                for part in (f"  {what} {done}/{total}", f"{done / total:.0%}", self._numbers, eta)
                if part
            )
        )

    @property
    def _numbers(self) -> str:
        """What was measured last, in brief."""
        brief = {BRIEF[name]: self._told[name] for name in BRIEF if name in self._told}
        return "  ".join(f"{name} {value:.3g}" for name, value in brief.items())


class Nurse:
    """Says when a PPO run's health changes its level, not at each step; it was well to begin with."""

    def __init__(self, run: Run, narrator: Narrator) -> None:
        self._run, self._narrator, self._settings = run, narrator, run.settings().preset.ppo
        self._told: signs.Level = "ok"
        self._well = 0

    def tell(self, event: events.AnyEvent) -> None:
        """Narrate one event, and after a step what it means for the run's health."""
        self._narrator.tell(event)
        if not isinstance(event, events.Metrics) or "objective/kl" not in event.values:
            return
        found = health.of_ppo(self._run.status(), self._settings)
        self._well = self._well + 1 if found.level == "ok" else 0
        if found.level == self._told or 0 < self._well < WELL_AGAIN:
            return
        self._told = found.level
        words = found.words + (f" Next: {found.action}." if found.action else "")
        self._narrator.say(f"  step {event.step}: {words}", STYLES[found.level])


def run(prepared: stages.Prepared, output: Output) -> dict[str, object]:
    """Start a run and tell it until it ends, as events on stdout or in words on stderr; returns what it reported.

    Raises:
        StoppedByUser: Ctrl-C.
        RlhfLiteError: what the job failed of.
    """
    with Narrator() as narrator:
        if output is Output.EVENTS:
            return _follow(prepared, narrator, _stream)
        narrator.begin(f"{prepared.run.name}: starting")
        teller = Nurse(prepared.run, narrator) if prepared.run.stage == "ppo" else narrator
        return _follow(prepared, narrator, teller.tell)


def _stream(event: events.AnyEvent) -> None:
    sys.stdout.write(events.encode(event).decode() + "\n")
    sys.stdout.flush()


def _follow(
    prepared: stages.Prepared, narrator: Narrator, listen: Callable[[events.AnyEvent], None]
) -> dict[str, object]:
    """Start a run, hand each of its events to ``listen`` until it ends; returns what it reported."""
    run = prepared.run
    tail = events.EventTail(run.events_path)
    tail.read()  # an earlier life of a resumed run is not told again
    for warning in prepared.warnings:
        listen(events.Warn(text=warning))
    result: dict[str, object] = {}
    end: events.AnyEvent | None = None
    process = jobs.spawn(run, trusted_function=prepared.trusted_function)
    with _interruptible(process, narrator) as presses:
        try:
            for end in jobs.watch(run, process, tail=tail):
                listen(end)
                if isinstance(end, events.Result):
                    result = end.values
        except JobDied:
            if presses:
                raise _stopped(run, result, len(presses)) from None
            raise
    match end:
        case events.Stopped():
            raise _stopped(run, result, len(presses))
        case events.Failed(kind=kind, message=message, why=why, hint=hint):
            raise from_parts(kind, message, why, f"{hint} (log: {shown(run.log_path)})".strip())
        case _:
            return result


@contextmanager
def _interruptible(process: subprocess.Popen[bytes], narrator: Narrator) -> Generator[list[int]]:
    presses: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        presses.append(number)
        if len(presses) > 1:
            process.kill()
        else:
            process.terminate()
            narrator.say("stopping after this step, and saving; Ctrl-C again ends it at once")

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, previous)


def _stopped(run: Run, result: dict[str, object], presses: int) -> StoppedByUser:
    folder = shown(run.folder.parents[1])
    if run.stage in stages.TRAINED:
        what = "stopped, saved" if presses < 2 else "stopped at once; its last checkpoint is kept"
        again = f"rlhf-lite train {folder} {run.stage} --resume"
        return StoppedByUser(
            what, why=f"{run.name} is unfinished", hint=f"go on with: {again}", result=result
        )
    kept = (
        "what was done before is kept"
        if run.stage in ("generate", "label", "download", "export")
        else "it begins anew next time"
    )
    return StoppedByUser("stopped", why=kept, hint=f"again: rlhf-lite {run.stage} {folder}", result=result)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
