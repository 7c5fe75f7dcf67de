"""DPO: starts at its reference, keeps it frozen, and comes to agree with the labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from export_models import lora, tiny_model
from training_projects import make_project, new_job, new_run, preferences, weights

from rlhf_lite.engine import dpo
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.pairs import load_pairs
from rlhf_lite.engine.rollout import logprobs_of
from rlhf_lite.engine.trainers import ADAPTER, Learned
from rlhf_lite.project import Project

SOME_PROMPTS, SOME_COMPLETIONS = [[5, 6, 7], [8, 9]], [[10, 11, 12], [13, 14, 15, 16]]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "p", preferences(40), tiny_model("llama"))


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("from_sft", [False, True], ids=["from the base", "from an sft adapter"])
def test_the_reference_is_where_the_policy_starts_and_stays_there(project: Project, from_sft: bool) -> None:
    """At the start the loss is −log σ(0) = log 2, for any adapter: not one weight was rounded on the way."""
    job, base = new_job(project, "dpo", "dpo.learning_rate=1e-3")

    def said(view: str | None) -> list[torch.Tensor]:
        return logprobs_of(base, view, SOME_PROMPTS, SOME_COMPLETIONS, 2)

    start = said(None)
    if from_sft:
        base.load_adapter(ADAPTER, lora("llama"), trainable=True)
        assert not same(said(ADAPTER), start)
        start = said(ADAPTER)
    else:
        base.add(ADAPTER, job.preset.lora, trainable=True)
    trainer = dpo.make_trainer(job, Learned(base), load_pairs(job, base, 256).train)
    assert same(said(ADAPTER), start)
    assert same(said(dpo.REFERENCE), start)
    trainer.run()
    losses = [m.values["loss"] for m in job.run.status().metrics]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]
    assert same(said(dpo.REFERENCE), start)
    assert not same(said(ADAPTER), start)


def test_its_implicit_reward_comes_to_agree_with_held_out_labels(project: Project) -> None:
    run = new_run(project, "dpo", "dpo.learning_rate=2e-3", "dpo.epochs=4")
    assert run_job("dpo", run) == 0
    found = run.status().result
    assert found["accuracy"] == 1.0
    assert {"run", "pairs_train", "accuracy", "accuracy_interval", "loss_last"} <= found.keys()
    assert found["loss_last"] < math.log(2)  # type: ignore[operator]
    assert {"rewards/margins", "rewards/accuracies"} <= run.status().metrics[-1].values.keys()


def test_the_result_of_a_run_that_starts_from_sft_is_one_adapter_on_the_base(project: Project) -> None:
    run = new_run(project, "dpo", start=str(lora("llama")))
    assert run_job("dpo", run) == 0
    start, tuned = weights(lora("llama")), weights(run.adapter)
    assert start.keys() == tuned.keys()
    distance = max(float((start[n] - tuned[n]).abs().max()) for n in start)
    assert 0 < distance < 0.01
