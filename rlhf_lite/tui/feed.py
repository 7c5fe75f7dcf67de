"""What the runs of a project are doing: reads what they append, and notices starts, ends and deaths.

The same code serves a run that this app started, one that a command started, and one found alive at the next start:
each is its log and its lock. Read from the app's own thread; an event takes microseconds. The log of a run that has
ended before is not read until somebody asks: a project with many of them opens at once.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rlhf_lite import jobs
from rlhf_lite.events import AnyEvent, EventTail
from rlhf_lite.project import Project, Run, RunStatus, fold

if TYPE_CHECKING:
    from rlhf_lite import stages

State = Literal["starting", "running", "finished", "stopped", "failed", "died", "new"]
LOOK_EVERY = 1.0  # seconds between two looks for runs that somebody else started


@dataclass
class Watched:
    """A run and what its log has said so far."""

    run: Run
    alive: bool = False
    process: subprocess.Popen[bytes] | None = None
    tail: EventTail = field(init=False)
    _status: RunStatus = field(default_factory=RunStatus)
    _begun: bool = False

    def __post_init__(self) -> None:
        self.tail = EventTail(self.run.events_path)

    @property
    def status(self) -> RunStatus:
        if not self._begun:
            self.read()
        return self._status

    @property
    def state(self) -> State:
        if self.alive:
            return "running" if self.status.stage else "starting"
        if self.status.ended:
            return self.status.ended
        return "died" if self.status.stage else "new"

    @property
    def busy(self) -> bool:
        return self.alive

    @property
    def paused(self) -> bool:
        """Whether it was asked to rest, by whomever and from whichever window."""
        return self.alive and jobs.paused(self.run)

    def read(self) -> list[AnyEvent]:
        """Fold and return what is new."""
        self._begun = True
        found = self.tail.read()
        fold(found, self._status)
        return found

    @property
    def untouched(self) -> bool:
        """Nobody has asked for it, and nobody runs it."""
        return not (self._begun or self.alive)

    def adopt(self, read: Watched) -> None:
        """Take what another one of the same run has read, in a thread, unless this one has read meanwhile."""
        if self.untouched:
            self.tail, self._status, self._begun = read.tail, read.status, True

    def look(self) -> bool:
        """Ask whether a process holds the run; returns whether it has just ended."""
        was = self.alive
        started_here = self.process is not None and self.process.poll() is None
        self.alive = started_here or jobs.alive(self.run)
        return was and not self.alive


@dataclass(frozen=True)
class Change:
    """What a look found about one run."""

    watched: Watched
    events: tuple[AnyEvent, ...]
    ended: bool


class Feed:
    """The runs of one project, oldest first."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._watched: dict[str, Watched] = {}
        self._looked = 0.0
        self._ended_before = {run.name for run in project.runs()}
        self.poll()

    def poll(self) -> list[Change]:
        """What happened since the last call."""
        now, found = time.monotonic(), list[Change]()
        everyone = now - self._looked >= LOOK_EVERY
        if everyone:
            self._looked = now
            self._find()
        for watched in self._watched.values():
            if not (watched.alive or everyone):
                continue
            ended = watched.look()  # before reading: what a dying job said last is then read as well
            if watched.untouched and watched.run.name in self._ended_before:
                continue
            events = watched.read()
            if events or ended:
                found.append(Change(watched, tuple(events), ended))
        return found

    def _find(self) -> None:
        there = {run.name: run for run in self.project.runs()}
        for name in [n for n in self._watched if n not in there]:
            del self._watched[name]
        for name, run in there.items():
            self._watched.setdefault(name, Watched(run))

    def start(self, prepared: stages.Prepared) -> Watched:
        """Spawn a prepared run and watch it. Raises DeviceBusy where it runs already."""
        watched = self._watched.setdefault(prepared.run.name, Watched(prepared.run))
        watched.read()
        watched.process = jobs.spawn(prepared.run, trusted_function=prepared.trusted_function)
        watched.alive, watched.status.ended = True, ""
        return watched

    def forget(self, run: Run) -> None:
        """Its folder is gone."""
        self._watched.pop(run.name, None)

    @property
    def runs(self) -> list[Watched]:
        """Every run, oldest first."""
        return sorted(self._watched.values(), key=lambda w: w.run.number)

    def newest(self, *stages: str, state: State | None = None) -> Watched | None:
        """The newest run of these stages, in that state where one is named."""
        for watched in reversed(self.runs):
            if watched.run.stage in stages and (state is None or watched.state == state):
                return watched
        return None

    @property
    def busy(self) -> list[Watched]:
        """The runs that a process holds now."""
        return [w for w in self.runs if w.busy]
