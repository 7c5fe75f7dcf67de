"""``train dpo``: learn from the same decided pairs without a reward model or sampling (Rafailov et al. 2023), by TRL's
DPOTrainer.

The reference is where the policy starts: a frozen copy, which TRL makes, of the adapter it is given. That is the
``sft`` adapter where there is one, else a fresh one, whose copy computes what the bare base computes. How far it goes
from there is watched (:mod:`rlhf_lite.engine.leash`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from rlhf_lite.engine import checkpoint
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.leash import Leash
from rlhf_lite.engine.pairs import TokenPair, in_batches, load_pairs
from rlhf_lite.engine.prompts import PromptIds, load_prompts
from rlhf_lite.engine.rollout import logprobs_of
from rlhf_lite.engine.trainers import (
    ADAPTER,
    JobTrainer,
    Learned,
    arguments,
    columns,
    epochs,
    first_and_last_loss,
)
from rlhf_lite.intervals import wilson

REFERENCE = "ref"  # TRL's name


class JobDpoTrainer(JobTrainer, DPOTrainer):
    """TRL's trainer, run as a job."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The rows are token ids already, which this trainer, unlike the other two, does not look for."""
        return dataset


def run(job: Job) -> None:
    """The stage ``dpo``."""
    base = SharedBase.of(job)
    pairs = load_pairs(job, base, job.preset.dpo.max_tokens)
    torch.manual_seed(job.inputs.seed)
    if job.inputs.start:
        base.load_adapter(ADAPTER, Path(job.inputs.start), trainable=True)
    else:
        base.add(ADAPTER, job.preset.lora, trainable=True)
    trainer = make_trainer(job, Learned(base), pairs.train)
    leash = Leash(trainer, REFERENCE, _held_out_prompts(job, base))
    trainer.add_callback(leash)
    trainer.run()
    kept = leash.kept()
    adapter = checkpoint.at(job.run, kept.step) / "adapter"
    trainer.learned.load(adapter)
    rewards = implicit_margins(job, base, pairs.held_out, leash.steps)
    right = sum(m > 0 for m in rewards)
    checkpoint.publish(adapter, job.run.adapter)
    job.result(
        {
            "pairs_train": len(pairs.train),
            "pairs_heldout": len(rewards),
            "accuracy": right / len(rewards) if rewards else None,
            "accuracy_interval": list(wilson(right, len(rewards))),
            "loss_last": first_and_last_loss(job)[1],
            "steps": leash.steps,
            "best_step": kept.step,
            "kl_best": kept.kl,
            "stopped": "kl_target" if trainer.done else "finished",
            "skipped_too_long": pairs.skipped_too_long,
        }
    )


def _held_out_prompts(job: Job, base: SharedBase) -> list[PromptIds]:
    return load_prompts(job, base, "valid", or_else=load_prompts(job, base, "train"))


def make_trainer(job: Job, learned: Learned, pairs: Sequence[TokenPair]) -> JobTrainer:
    """TRL's trainer on the shared base."""
    section, longest = job.preset.dpo, max(p.longest for p in pairs)
    rows = [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs]
    config = DPOConfig(
        **arguments(job, section, learned.base, 2 * longest, epochs(section, len(pairs))), beta=section.beta
    )
    return JobDpoTrainer.build(job, learned, learned.base.peft, args=config, train_dataset=columns(rows))


def implicit_margins(job: Job, base: SharedBase, pairs: Sequence[TokenPair], step: int) -> list[float]:
    """log π/π_ref of the chosen minus that of the rejected answer, nats: positive where DPO's implicit reward agrees
    with the label (Rafailov et al. 2023, eq. 5)."""
    found: list[float] = []
    for some in in_batches(job, pairs, step):
        prompts = [p.prompt for p in some] * 2
        completions = [p.chosen for p in some] + [p.rejected for p in some]
        policy, reference = (
            logprobs_of(base, view, prompts, completions, len(prompts)) for view in (ADAPTER, REFERENCE)
        )
        gains = [float((p - r).sum()) for p, r in zip(policy, reference, strict=True)]
        found += [c - r for c, r in zip(gains[: len(some)], gains[len(some) :], strict=True)]
    return found
