"""What PPO may ask of Accelerate, and what of it this machine cannot: several processes, and a tracker."""

from __future__ import annotations

from importlib.util import find_spec

from rlhf_lite import memory
from rlhf_lite.errors import ToolMissing, UserError
from rlhf_lite.settings import Preset

TRACKERS = ("tensorboard", "wandb", "trackio")


def check(processes: int, report_to: str, preset: Preset) -> None:
    """Refuse what would fail once a run has started.

    Raises:
        UserError: more processes than GPUs, or than there are episodes to share out; no such tracker.
        ToolMissing: the tracker is not installed.
    """
    there, episodes = memory.gpus() if processes > 1 else 0, preset.ppo.episodes
    if 0 < there < processes:
        raise UserError(
            f"{processes} processes want {processes} GPUs", why=f"jobs can use {there} here",
            hint=f"--processes {there}, or hide the GPUs and use the CPU: CUDA_VISIBLE_DEVICES= rlhf-lite …",
        )  # fmt: skip
    if processes > episodes:
        raise UserError(
            f"{processes} processes cannot share {episodes} episodes", why="each has to make one a step at least",
            hint=f"--processes {episodes}, or more of them: --set ppo.episodes={processes}",
        )  # fmt: skip
    if report_to and report_to not in TRACKERS:
        raise UserError(f"no tracker named {report_to}", hint=f"known: {', '.join(TRACKERS)}")
    if report_to and not find_spec(report_to):
        raise ToolMissing(
            f"{report_to} is not installed", why="a tracker is a package of its own",
            hint=f"pip install {report_to}, into the environment that rlhf-lite runs in",
        )  # fmt: skip
