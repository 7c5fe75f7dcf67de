"""Driving the command line in tests, and projects in the states that the commands meet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf_lite import events
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, Run
from rlhf_lite.settings import Inputs, Preset


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout, and nothing beside it."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


Command = Callable[..., Done]


def refused(done: Done, code: int, *expected: str) -> None:
    """It ended with this exit code and said these things, in three lines at most."""
    assert done.code == code, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("\n") <= 3, "what happened, why, what to do next"
    for text in expected:
        assert text in done.err


def add_run(
    project: Project, stage: str, *said: events.AnyEvent, adapter: bool = False, **inputs: str
) -> Run:
    """A run as a job would have left it."""
    more: dict[str, Any] = {
        "project": str(project.root),
        "model": "demo",
        "quantization": "nf4",
        "seed": 0,
        **inputs,
    }
    run = project.new_run(Inputs(stage=stage, **more), Preset())
    writer = EventWriter(run.events_path)
    for event in said or (events.Started(stage=stage, pid=1), events.Finished()):
        writer.write(event)
    if adapter:
        run.adapter.mkdir()
    return run


def decide(project: Project, *, on_side: str = "", count: int = 40) -> None:
    """Bring the labels up to ``count``, on pairs of their own, all on one side where one is named."""
    with project.labels() as store, store.transaction():
        prompt = store.prompts()[0].id
        for number in range(store.counts().labelled, count):
            pair = store.add_pair(prompt, f"yes {number}", f"no {number}", origin="test")
            assert pair is not None
            side = on_side or "ab"[number % 2]
            store.label(pair, "a" if side == "a" else "b", judge="person:test")
