"""Layers that are computed again for their gradients, where a run was made so: less memory, the very same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from msgspec import structs
from test_needs import held
from training_projects import make_project, new_job, new_run, preferences

from rlhf_lite.engine import dpo, heads, reward, sft, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.pairs import load_pairs
from rlhf_lite.engine.trainers import ADAPTER, JobTrainer, Learned
from rlhf_lite.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "p", preferences(24))


def load(job: Job, *, checkpointing: bool) -> SharedBase:
    return SharedBase.load(structs.replace(job.inputs, checkpointing=checkpointing))


def test_the_gradients_are_the_same_and_the_memory_is_less(project: Project) -> None:
    job, _ = new_job(project, "ppo")
    peaks: list[int] = []
    gradients: list[list[torch.Tensor]] = []
    for checkpointing in (False, True):
        base = load(job, checkpointing=checkpointing)
        learner = Learner(base, job.preset.ppo, job.preset.lora, start=None)
        padded = text.pad([[5] * 9, [6] * 20], [[7] * 30] * 2, base.pad, base.device)
        base.model.train()
        with LiveBytes(held(base.model)) as alive, base.view("policy"):
            (base.hidden(padded)[padded.own] ** 2).sum().backward()
        peaks.append(alive.peak)
        gradients.append([p.grad for p in learner.parameters if p.grad is not None])
    assert peaks[1] < 0.6 * peaks[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def trainer_of(stage: str, job: Job, base: SharedBase) -> JobTrainer:
    base.add(ADAPTER, job.preset.lora, trainable=True)
    if stage == "sft":
        return sft.make_trainer(job, Learned(base), sft.load_examples(job, base)[0])
    pairs = load_pairs(job, base, 512).train
    if stage == "dpo":
        return dpo.make_trainer(job, Learned(base), pairs)
    return reward.make_trainer(job, Learned(base, heads.new_head(base.width, base.device)), pairs)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_trainer_computes_layers_twice_only_where_the_run_says_so(stage: str, project: Project) -> None:
    times: dict[bool, int] = {}
    for checkpointing in (False, True):
        job = Job(new_run(project, stage, f"{stage}.epochs=1"))
        base = load(job, checkpointing=checkpointing)
        trainer = trainer_of(stage, job, base)
        backbone: Any = base.backbone
        calls: list[bool] = []
        backbone.layers[0].mlp.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(torch.is_grad_enabled())
        )
        trainer.run()
        times[checkpointing] = sum(calls)
    assert times[True] == 2 * times[False] > 0
