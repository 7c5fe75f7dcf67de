"""What the processes of a test do together, on a rollout that they are given: ``python update_together.py RUN``."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lite.engine import update
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.processes import Team, helpers, team_of
from rlhf_lite.engine.rollout import Rollout
from rlhf_lite.errors import JobError, UserError
from rlhf_lite.project import Run

GIVEN = "given.pt"


def run(job: Job) -> None:
    """Two updates, the second short of memory in the last process; then what only that one meets."""
    with team_of(job) as team:
        settings, base = job.preset.ppo, SharedBase.load(job.inputs)
        learner = Learner(base, settings, job.preset.lora, start=None, team=team)
        rollout = given(job.run)
        told = [update.update(learner, settings, rollout, random.Random(0))]
        learner.save(job.run.folder / f"first-{team.rank}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(
                update.RATIO_TOLERANCE, torch.float32, 1.0
            )  # the second begins off the policy that sampled
            if team.rank == team.count - 1:
                patch.setattr(update, "response_logprobs", short_of_memory(update.response_logprobs))
            told.append(update.update(learner, settings, rollout, random.Random(1)))
        learner.save(job.run.folder / f"second-{team.rank}")
        found = {
            "told": told,
            "rows": rollout.rows,
            "met": met(team),
            "decided": team.from_main(lambda: team.rank),
        }
        (job.run.folder / f"found-{team.rank}.json").write_text(json.dumps(found))


def given(run: Run) -> Rollout:
    return torch.load(run.folder / GIVEN, weights_only=False)


def short_of_memory(original: Any) -> Any:
    def forward(base: SharedBase, padded: Any) -> Any:
        if len(padded.ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(base, padded)

    return forward


def met(team: Team) -> list[str]:
    """What this process is told of the faults of the last one alone."""
    told: list[str] = []
    for fault in (
        UserError("it returned NaN", why="one answer"),
        FloatingPointError("not finite"),
        KeyError(7),
    ):

        def work(fault: Exception = fault) -> None:
            if team.rank == team.count - 1:
                raise fault

        try:
            team.each(work)
        except (UserError, FloatingPointError, JobError, KeyError) as error:
            told.append(f"{type(error).__name__}: {error}, {getattr(error, 'why', '')}")
    return told


if __name__ == "__main__":
    started = Job(Run(Path(sys.argv[1])))
    with helpers(started, "update_together"):
        run(started)
