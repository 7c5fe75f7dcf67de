"""The stage ``ppo`` as any job runs it, a step at a time: ``python speed_of_ours.py RUN_DIR``, started by ppo_speed.py.

It replies with the step's prompts, which the peer is given then, and with how many tokens were sampled.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stepping import Gate

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


if __name__ == "__main__":
    ppo.Training = Stepwise  # the stage makes its own
    sys.exit(run_job("ppo", Run(Path(sys.argv[1]))))
