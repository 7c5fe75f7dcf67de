"""The stage ``ppo`` as any job runs it, a step at a time: ``python speed_of_ours.py RUN_DIR``, started by ppo_speed.py.

It replies with the step's prompts, which the peer is given then, and with how many tokens were sampled.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from stepping import Gate

from rlhf_lite import planning
from rlhf_lite.engine import ppo
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.rollout import Rollout
from rlhf_lite.project import Run

GATE = Gate()


class Stepwise(ppo.Training):
    """Waits before each step."""

    told: dict[str, Any]

    def one_step(self) -> bool:
        GATE.wait(**(self.told if self.step else {}))
        return super().one_step()

    def _rollout(self) -> Rollout:
        rollout = super()._rollout()
        self.told = {"prompts": rollout.prompts, "tokens": int(rollout.lengths.sum())}
        return rollout


def limit_memory(gibibytes: int) -> None:
    """Have torch allocate no more, what the plan takes CUDA's context to be included."""
    room, (_, total) = gibibytes * 2**30 - planning.CUDA_CONTEXT, torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))


if __name__ == "__main__":
    if wanted := int(os.environ.get("BENCH_ROOM", "0")):
        limit_memory(wanted)
    ppo.Training = Stepwise  # the stage makes its own
    sys.exit(run_job("ppo", Run(Path(sys.argv[1]))))
