"""DPO: starts at its reference, keeps it frozen, and comes to agree with the labels."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import lora, tiny_model
from training_projects import make_project, new_job, new_run, preferences, stop_at, weights

from rlhf_lite.engine import dpo
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.pairs import load_pairs
from rlhf_lite.engine.rollout import logprobs_of
from rlhf_lite.engine.trainers import ADAPTER, Learned
from rlhf_lite.project import Project, Run

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


def result_of(run: Run) -> dict[str, Any]:
    return run.status().result


def test_it_ends_where_it_goes_beyond_the_target_and_keeps_what_was_within(project: Project) -> None:
    """Its own loss goes on falling; what it says to held-out prompts tells."""
    run = new_run(project, "dpo", "dpo.learning_rate=5e-3", "dpo.epochs=10", "ppo.kl_target=1.0")
    assert run_job("dpo", run) == 0
    status, found = run.status(), result_of(run)
    looks = {m.step: m.values["eval/kl"] for m in status.metrics if "eval/kl" in m.values}
    losses = [m.values["loss"] for m in status.metrics if "loss" in m.values]
    assert looks[0] == pytest.approx(0, abs=1e-4)
    assert found["stopped"] == "kl_target"
    assert list(looks.values())[-1] > 1.0 >= found["kl_best"] == looks[found["best_step"]]
    assert 0 < found["best_step"] < found["steps"] < 10 * math.ceil(found["pairs_train"] / 8)
    assert losses[-1] < losses[0]
    assert any("exceeds the target" in w.text for w in status.warnings)
    kept = weights(run.folder / "checkpoints" / f"{found['best_step']:06d}" / "adapter")
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights(run.adapter).items())


def test_one_that_is_beyond_the_target_at_the_first_look_says_what_to_change(project: Project) -> None:
    run = new_run(project, "dpo", "dpo.learning_rate=5e-2", "dpo.epochs=10", "ppo.kl_target=0.001")
    assert run_job("dpo", run) == 5
    failure = run.status().failure
    assert failure is not None
    assert failure.kind == "Diverged"
    assert "target is 0.001" in failure.why
    assert "dpo.learning_rate" in failure.hint
    assert not run.adapter.exists()


def test_what_it_says_is_sampled_at_the_start_and_ten_times_on_the_way(project: Project) -> None:
    run = new_run(project, "dpo", "dpo.epochs=4", "dpo.batch_size=2")
    assert run_job("dpo", run) == 0
    status, steps = run.status(), result_of(run)["steps"]
    looks = [m.step for m in status.metrics if "eval/ended" in m.values]
    every = math.ceil(steps / 10)
    assert looks == [0, *range(every, steps, every), steps]
    assert {s.step for s in status.samples} == set(looks)
    assert all(0 <= m.values["eval/ended"] <= 1 for m in status.metrics if "eval/ended" in m.values)
    assert result_of(run)["best_step"] == steps


def test_what_was_within_outlives_a_stop_and_many_saves(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved at every step, stopped between two looks, resumed, and beyond the target at the next look."""
    monkeypatch.setattr("rlhf_lite.engine.trainers.SAVE_EVERY", 0.0)
    monkeypatch.setattr("rlhf_lite.engine.leash.LOOKS", 3)
    run = new_run(project, "dpo", "dpo.learning_rate=2e-3", "dpo.batch_size=2", "ppo.kl_target=3")
    with monkeypatch.context() as patch:
        stop_at(13, patch)
        assert run_job("dpo", run) == 130
    assert run_job("dpo", run) == 0
    found = result_of(run)
    assert found["stopped"] == "kl_target"
    assert found["best_step"] in [int(c.name) for c in run.checkpoints()]


def test_a_run_that_an_earlier_version_stopped_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a checkpoint and never looked."""
    run = new_run(project, "dpo")
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert run_job("dpo", run) == 130
    log = run.events_path
    log.write_text(
        "".join(line for line in log.read_text().splitlines(keepends=True) if "eval/kl" not in line)
    )
    assert run_job("dpo", run) == 0
    assert result_of(run)["best_step"] == result_of(run)["steps"]


def test_a_stop_after_it_went_too_far_trains_nothing_more(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: Job, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        job.check_stop()

    run = new_run(project, "dpo", "dpo.learning_rate=5e-3", "dpo.epochs=10", "ppo.kl_target=1.0")
    with monkeypatch.context() as patch:
        patch.setattr(dpo, "implicit_margins", stop)
        assert run_job("dpo", run) == 130
    before = [m.step for m in run.status().metrics]
    assert run_job("dpo", run) == 0
    assert [m.step for m in run.status().metrics] == before
    assert result_of(run)["stopped"] == "kl_target"
    assert result_of(run)["best_step"] < result_of(run)["steps"] == max(before)
