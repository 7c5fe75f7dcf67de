"""What is each choice in our PPO worth? The same training with it and without, at equal processor time.

    python benchmarks/choices.py [--seeds 0 1 2] [--seconds 60] [--choices NAME...]

The demo's task: 160 pairs labelled by ``assets/examples/judge.py:prefer``, the reward model, then PPO by the ``demo``
preset from that same reward model with one thing another way (:data:`CHOICES`), each for as many steps as fit into
SECONDS of processor time; validation is not counted. Measured on held-out prompts by the same judge: the win rate over
the base of decided comparisons, KL, answers that end; and how much of the returns' variance the critic foretold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import critics
import torch
from record import Record
from wishes import PAIRS, finished, label_pairs, new_project

from rlhf_lite import paths, stages
from rlhf_lite.engine import objectives, ppo
from rlhf_lite.project import Project, Run

FOR_EVER = 10_000
Patch = Callable[[Path], contextlib.AbstractContextManager[Any]]
"""The reward model's folder → what is another way inside."""


def _as_it_is(reward: Path) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


def _parts_kept(reward: Path) -> contextlib.AbstractContextManager[Any]:
    plain = objectives.token_rewards
    return mock.patch.object(
        objectives,
        "token_rewards",
        lambda scores, parts, *more: plain(scores, torch.zeros_like(parts), *more),
    )


def _fixed(reward: Path) -> contextlib.AbstractContextManager[Any]:
    return mock.patch.object(objectives, "adapted_kl_coef", lambda kl_coef, *_: kl_coef)


CHOICES: dict[str, tuple[Patch, list[str]]] = {
    "as it is": (_as_it_is, []),
    "value: an adapter of its own": (critics.own_adapter, []),
    "value: a head on the policy's trunk": (critics.on_the_trunk, []),
    "value: none": (critics.none, []),
    "score: whole on the last token": (_parts_kept, []),
    "KL coefficient: fixed": (_fixed, []),
    "KL coefficient: 0.05": (_as_it_is, ["ppo.kl_coef=0.05"]),
    "KL: not in the reward": (_as_it_is, ["ppo.kl_coef=0"]),
    "epochs: 1": (_as_it_is, ["ppo.epochs=1"]),
    "epochs: 4": (_as_it_is, ["ppo.epochs=4"]),
    "lambda: 1": (_as_it_is, ["ppo.lam=1.0"]),
}


@contextlib.contextmanager
def limited(seconds: float) -> Generator[list[float]]:
    """Inside, PPO ends after the step in which so much processor time is spent. Yields what steps have taken."""
    plain, taken = ppo.Training.one_step, list[float]()

    def one_step(self: ppo.Training) -> bool:
        began = time.process_time()
        within = plain(self)
        taken.append(time.process_time() - began)
        if sum(taken) > seconds:
            self.settings = ppo.msgspec.structs.replace(self.settings, steps=self.step)
        return within

    with mock.patch.object(ppo.Training, "one_step", one_step):
        yield taken


def prepared(folder: Path, seed: int) -> Project:
    """A project with labels and the reward model."""
    project = new_project(folder, seed)
    label_pairs(project, judge(), PAIRS)
    finished(stages.train(project, stages.preset_of(project, []), "reward", None))
    return project


def judge() -> stages.NamedFunction:
    return stages.NamedFunction.find(f"{paths.examples() / 'judge.py'}:prefer")


def measured(project: Project, run: Run, taken: list[float]) -> dict[str, Any]:
    preset = stages.preset_of(project, [])
    compared = finished(stages.evaluate(project, preset, [run.name], judge(), None)).status().result
    [found] = compared["runs"].values()
    steps = [m.values for m in run.status().metrics if "seconds" in m.values]
    return {
        "steps": len(taken), "seconds": sum(taken), "win rate": found["decided_win_rate"], "kl": found["kl"],
        "eos": found["tuned"]["eos_rate"], "tokens": found["tuned"]["tokens"],
        "explained": mean(s["value/explained_variance"] for s in steps[len(steps) // 2 :]),
    }  # fmt: skip


def one(project: Project, choice: str, seconds: float) -> dict[str, Any]:
    """Train and judge, in a copy of the project."""
    patch, assignments = CHOICES[choice]
    reward = next(r for r in reversed(project.runs()) if r.stage == "reward")
    preset = stages.preset_of(project, [f"ppo.steps={FOR_EVER}", *assignments])
    with patch(reward.adapter), limited(seconds) as taken:
        run = finished(stages.train(project, preset, "ppo", None))
    found = measured(project, run, taken)
    shutil.rmtree(run.folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    record = Record("choices")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_LITE_STATE"] = folder
        for seed in given.seeds:
            todo = record.missing(
                {"choice": c, "seconds given": given.seconds, "seed": seed} for c in given.choices
            )
            project = prepared(Path(folder) / f"seed-{seed}", seed) if todo else None
            for key in todo:
                assert project is not None, "there is something to do"
                print(record.add(key, **one(project, key["choice"], given.seconds)), flush=True)


if __name__ == "__main__":
    main()
