"""What the stages on TRL share: they stop and go on, keep fp32, touch nothing but the adapter, and say what they do."""

from __future__ import annotations

import gc
import hashlib
import math
import os
import signal
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from export_models import tiny_model
from torch import nn
from training_projects import make_project, new_job, new_run, preferences, stop_at, weights
from trl.trainer import base_trainer

from rlhf_lite.catalog import TOKENS_AT_ONCE, micro_batch
from rlhf_lite.engine import dpo, heads, reward, sft
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.pairs import TokenPair, in_batches, load_pairs
from rlhf_lite.engine.trainers import ADAPTER, JobTrainer, Learned
from rlhf_lite.errors import NotEnoughLabels
from rlhf_lite.events import EventTail, Metrics, Progress, Resumed, Saved
from rlhf_lite.labels import Preference
from rlhf_lite.project import Project

STAGES = ("sft", "reward", "dpo")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "p", preferences(40), tiny_model("llama"))


def trainer_of(stage: str, job: Job, base: SharedBase) -> tuple[JobTrainer, Learned]:
    base.add(ADAPTER, job.preset.lora, trainable=True)
    if stage == "sft":
        learned = Learned(base)
        return sft.make_trainer(job, learned, sft.load_examples(job, base)[0]), learned
    pairs = load_pairs(job, base, 256).train
    if stage == "dpo":
        learned = Learned(base)
        return dpo.make_trainer(job, learned, pairs), learned
    learned = Learned(base, heads.new_head(base.width, base.device))
    return reward.make_trainer(job, learned, pairs), learned


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stopped_in_the_middle_and_resumed_ends_where_an_uninterrupted_one_does(
    stage: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = new_run(project, stage), new_run(project, stage)
    assert run_job(stage, whole) == 0
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert run_job(stage, parted) == 130
    assert parted.status().ended == "stopped"
    assert int(parted.checkpoints()[-1].name) == 6  # the signal came during the step's report
    assert not parted.adapter.exists()
    assert run_job(stage, parted) == 0
    expected, found = weights(whole.adapter), weights(parted.adapter)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    assert [e.from_step for e in EventTail(parted.events_path).read() if isinstance(e, Resumed)] == [6]
    steps = [m.step for m in parted.status().metrics if "loss" in m.values]
    assert steps == [m.step for m in whole.status().metrics if "loss" in m.values]


def test_a_stop_after_the_last_step_trains_nothing_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(project, "reward")
    with monkeypatch.context() as patch:
        patch.setattr(reward, "held_out_accuracy", lambda job, *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run_job("reward", run) == 130
    last = run.checkpoints()[-1]
    before = weights(last / "adapter")
    assert run_job("reward", run) == 0
    after = weights(run.adapter)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_tells_loss_learning_rate_and_progress_and_keeps_two_checkpoints(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_lite.engine.trainers.SAVE_EVERY", 0.0)
    run = new_run(project, "reward")
    assert run_job("reward", run) == 0
    events = EventTail(run.events_path).read()
    steps = [e for e in events if isinstance(e, Metrics) and "loss" in e.values]
    assert [e.step for e in steps] == list(range(1, len(steps) + 1))
    assert all({"loss", "lr", "accuracy", "margin", "mean_reward"} <= e.values.keys() for e in steps)
    told = [e for e in events if isinstance(e, Progress) and e.what == "training steps"]
    assert (told[0].done, told[-1].done) == (0, len(steps))
    assert {e.total for e in told} == {len(steps)}
    saved = [e for e in events if isinstance(e, Saved)]
    assert len(saved) == len(steps)
    assert [str(c) for c in run.checkpoints()] == [e.path for e in saved[-2:]]


@pytest.mark.parametrize("stage", STAGES)
def test_not_a_number_ends_the_run_and_never_enters_the_log(stage: str, project: Project) -> None:
    run = new_run(project, stage, f"{stage}.learning_rate=1e30")
    assert run_job(stage, run) == 5
    status = run.status()
    assert status.failure is not None
    assert status.failure.kind == "Diverged"
    assert "learning_rate" in status.failure.hint
    assert all(math.isfinite(v) for m in status.metrics for v in m.values.values())
    assert not run.adapter.exists()


def four_bit(model: nn.Module) -> list[bnb.nn.Params4bit]:
    return [p for p in model.parameters() if isinstance(p, bnb.nn.Params4bit)]


def digest(base: SharedBase) -> str:
    """Of every weight that is not the adapter's."""
    found = hashlib.sha256()
    for name, p in base.model.named_parameters():
        if "lora_" not in name:
            found.update(p.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("stage", STAGES)
def test_training_moves_fp32_adapters_on_one_copy_of_an_untouched_base(stage: str, project: Project) -> None:
    gc.collect()
    before = sum(isinstance(o, bnb.nn.Params4bit) for o in gc.get_objects())
    job, base = new_job(project, stage)
    untouched, alone = digest(base), len(four_bit(base.model))
    trainer, learned = trainer_of(stage, job, base)
    start = [p.detach().clone() for p in learned.parameters()]
    trainer.run()
    gc.collect()
    assert sum(isinstance(o, bnb.nn.Params4bit) for o in gc.get_objects()) - before == alone > 0
    assert digest(base) == untouched
    assert {p.dtype for p in learned.parameters()} == {torch.float32}
    moved = [not torch.equal(p, s) for p, s in zip(learned.parameters(), start, strict=True)]
    assert all(moved)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}  # pyright: ignore
    assert held == {id(p) for p in learned.parameters()}


def test_nothing_is_sent_anywhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("telemetry")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", refuse)
    for stage in STAGES:
        trainer_of(stage, *new_job(project, stage))


def test_pairs_are_split_by_prompt_and_what_does_not_fit_is_counted_not_cut(tmp_path: Path) -> None:
    long = Preference(
        [{"role": "user", "content": "Tell me about " + "cats and birds " * 200}], "No.", "Yes."
    )
    project = make_project(tmp_path / "p", [*preferences(40), long], tiny_model("llama"))
    job, base = new_job(project, "reward")
    pairs = load_pairs(job, base, 10_000)  # the model's own context is the limit then
    assert pairs.skipped_too_long == 1
    with project.labels() as store:
        held_out = [p for s in ("valid", "test") for p in store.preferences(s)]
    assert len(pairs.train) + len(pairs.held_out) == 40
    assert len(pairs.held_out) == len(held_out) > 0
    assert all(p.longest <= base.context for p in [*pairs.train, *pairs.held_out])
    assert ["1 of 41" in w.text for w in job.run.status().warnings] == [True]


def test_too_few_pairs_that_fit_are_refused_with_the_reason(project: Project) -> None:
    job, base = new_job(project, "reward")
    with pytest.raises(NotEnoughLabels) as caught:
        load_pairs(job, base, 5)
    assert "longer than 5 tokens" in caught.value.why


@pytest.mark.parametrize(("size", "longest", "rows"), [(8, 100, 8), (8, 2048, 4), (6, 3000, 2), (8, 9000, 1)])
def test_long_texts_are_taken_in_smaller_parts_of_the_batch(size: int, longest: int, rows: int) -> None:
    assert micro_batch(size, longest) == rows
    assert size % rows == 0


@pytest.mark.parametrize("length", [10, 1000, 3000, 9000])
def test_held_out_pairs_are_read_as_few_at_once_as_a_training_pass_could_hold(
    project: Project, length: int
) -> None:
    job, _ = new_job(project, "reward")
    pairs = [TokenPair([1] * (length - i - 1), [2], [3], 0.0) for i in range(9)]
    read = list(in_batches(job, pairs, 0))
    assert [p for some in read for p in some] == pairs
    assert all(len(some) == 1 or 2 * len(some) * length <= TOKENS_AT_ONCE for some in read)
    assert list(in_batches(job, [], 0)) == []
