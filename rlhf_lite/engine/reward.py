"""``train reward``: a LoRA with a score head on the shared base, by TRL's RewardTrainer (Bradley and Terry 1952).

Decided here:

- The reward is a sum over the completion's tokens up to its stop token, read alike here, in rollouts and in
  evaluation (:mod:`rlhf_lite.engine.heads` says why it is not read at the last token alone).
- "Much better" is a margin in the loss (Touvron et al. 2023, section 3.2.2); centering keeps rewards near 0.
- Accuracy is counted on pairs whose prompts were never trained on, with its interval, and beside it stands what
  length alone would have got: on few labels a reward model is often a ruler.
- A head without bias holds no mean. Mean and standard deviation over fresh samples of the policy's starting point are
  kept beside the adapter; not over the labelled answers, which the model has been fitted to.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl import RewardConfig, RewardTrainer

from rlhf_lite.engine import checkpoint, heads
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.pairs import Pairs, TokenPair, in_batches, load_pairs
from rlhf_lite.engine.prompts import draw, load_prompts
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.statistics import correlation
from rlhf_lite.engine.trainers import ADAPTER, JobTrainer, Learned, arguments, columns, epochs
from rlhf_lite.errors import JobError, UserError
from rlhf_lite.events import Metrics
from rlhf_lite.intervals import wilson

SCALE_SAMPLES = 128  # the standard error of the mean is then 9 % of a standard deviation
FEW_HELD_OUT = 20


class JobRewardTrainer(JobTrainer, RewardTrainer):
    """TRL's trainer, run as a job."""


def run(job: Job) -> None:
    """The stage ``reward``."""
    base = SharedBase.of(job)
    pairs = load_pairs(job, base, job.preset.reward.max_tokens)
    torch.manual_seed(job.inputs.seed)
    base.add(ADAPTER, job.preset.lora, trainable=True)
    learned = Learned(base, heads.new_head(base.width, base.device))
    trainer = make_trainer(job, learned, pairs.train)
    trainer.run()
    step = trainer.state.global_step
    # Judged by the very file that PPO will read, along the path it will take.
    heads.save_scale(trainer.adapter, heads.RewardScale())  # raw, until the samples below say otherwise
    model = RewardModel(base, trainer.adapter)
    accuracy = held_out_accuracy(job, model, pairs, step)
    scale = _scale(job, base, model, step)
    heads.save_scale(trainer.adapter, scale)
    checkpoint.publish(trainer.adapter, job.run.adapter)
    job.result(
        {
            "pairs_train": len(pairs.train),
            "pairs_heldout": len(pairs.held_out),
            "heldout_splits": ["valid", "test"],
            **accuracy,
            "skipped_too_long": pairs.skipped_too_long,
        }
    )


def make_trainer(job: Job, learned: Learned, pairs: Sequence[TokenPair]) -> JobTrainer:
    """TRL's trainer on the shared base."""
    section, longest = job.preset.reward, max(p.longest for p in pairs)
    rows = [
        {"chosen_ids": p.prompt + p.chosen, "rejected_ids": p.prompt + p.rejected, "margin": p.margin}
        for p in pairs
    ]
    config = RewardConfig(
        **arguments(job, section, learned.base, 2 * longest, epochs(section, len(pairs))),
        center_rewards_coefficient=section.centering or None,
    )
    return JobRewardTrainer.build(
        job, learned, reward_view(learned), args=config, train_dataset=columns(rows)
    )


def reward_view(learned: Learned) -> PreTrainedModel:
    """The base as a sequence classifier around the same layers; no second copy of a weight is made.

    Raises:
        UserError: transformers knows no sequence classifier of this architecture.
    """
    base, head = learned.base, learned.head
    assert head is not None, "a reward model has a score head"
    config = copy.deepcopy(base.model.config)
    config.num_labels, config.pad_token_id = 1, base.pad
    try:
        with torch.device("meta"):
            shell = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(
            f"no reward model can be made of a {config.model_type} model", why=str(error).splitlines()[0],
            hint="pick a model of the Llama or Qwen family",
        ) from error  # fmt: skip
    setattr(shell, shell.base_model_prefix, base.backbone)
    shell.score = heads.RunningSum(head)
    assert not any(p.is_meta for p in shell.parameters()), (
        "every weight of the classifier is the base's or the head's"
    )
    return shell


def held_out_accuracy(job: Job, model: RewardModel, pairs: Pairs, step: int) -> dict[str, object]:
    """How often the chosen answer of a held-out pair scores higher, its interval, and what length alone gets."""
    found = pairs.held_out
    right = sum(m > 0 for m in margins(job, model, found, step))
    low, high = wilson(right, len(found))
    accuracy = right / len(found) if found else None
    baseline = length_baseline(pairs.train, found)
    if len(found) < FEW_HELD_OUT:
        job.warn(
            f"only {len(found)} held-out pairs: the accuracy may be anywhere from {low:.0%} to {high:.0%}",
            "label more pairs",
        )
    if low <= 0.5:
        job.warn(
            f"the reward model may be guessing: {right} of {len(found)} held-out pairs right ({low:.0%} to {high:.0%})",
            "PPO on this would optimise noise; label more pairs, or judge by something the answers show",
        )
    if accuracy is not None and baseline is not None and baseline >= accuracy:
        job.warn(
            f"length alone gets {baseline:.0%} of the held-out pairs right, the reward model {accuracy:.0%}",
            "it may have learned to measure length; look at length_correlation",
        )
    return {"accuracy": accuracy, "accuracy_interval": [low, high], "length_baseline": baseline}


def margins(job: Job, model: RewardModel, pairs: Sequence[TokenPair], step: int) -> list[float]:
    """Reward of the chosen minus reward of the rejected answer."""
    found: list[float] = []
    for some in in_batches(job, pairs, step):
        prompts = [p.prompt for p in some]
        scores = model(prompts + prompts, [p.chosen for p in some] + [p.rejected for p in some])
        found += [c - r for c, r in zip(scores[: len(some)], scores[len(some) :], strict=True)]
    return found


def length_baseline(train: Sequence[TokenPair], held_out: Sequence[TokenPair]) -> float | None:
    """Share of held-out pairs that "the longer" or "the shorter" gets right, whichever did better on the training
    pairs; equal lengths count half. None without held-out pairs."""
    if not held_out:
        return None
    longer = _share_longer(held_out)
    return longer if _share_longer(train) >= 0.5 else 1 - longer


def _share_longer(pairs: Sequence[TokenPair]) -> float:
    return sum(
        (len(p.chosen) > len(p.rejected)) + 0.5 * (len(p.chosen) == len(p.rejected)) for p in pairs
    ) / len(pairs)


def _scale(job: Job, base: SharedBase, model: RewardModel, step: int) -> heads.RewardScale:
    """Mean and standard deviation of the raw reward over samples of the policy's starting point.

    Raises:
        JobError: every sample has the same reward.
    """
    prompts, sampling = load_prompts(job, base, "train"), job.preset.sampling
    chosen = draw([p.ids for p in prompts], SCALE_SAMPLES, 0, job.inputs.seed)
    start = None
    if job.inputs.start:
        start = "sft"
        base.load_adapter(start, Path(job.inputs.start), trainable=False)
    job.progress("samples to set the scale", 0, SCALE_SAMPLES)
    with base.view(start):
        found = sample(
            base, chosen, max_new_tokens=sampling.max_new_tokens, batch_size=sampling.batch_size,
            generator=seeded(base.device, job.inputs.seed, 0),
            on_batch=lambda done: job.progress("samples to set the scale", done, SCALE_SAMPLES),
        )  # fmt: skip
    job.check_stop(step)
    scores = torch.tensor(model(chosen, found.completions, job.preset.ppo.micro_batch))
    by_length = correlation(torch.tensor([float(len(c)) for c in found.completions]), scores)
    mean, std = float(scores.mean()), float(scores.std())
    if not std > 1e-6:
        raise JobError(
            "the reward model gives every answer the same reward", why=f"{mean:.4g} for {SCALE_SAMPLES} samples",
            hint="train longer: --set reward.epochs=…, or with a larger learning rate",
        )  # fmt: skip
    job.emit(Metrics(step=step, values={"length_correlation": by_length}))
    return heads.RewardScale(mean, std)
