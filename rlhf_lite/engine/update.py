"""Clipped updates of policy and value on one rollout (Schulman et al. 2017, algorithm 1).

Gradients of micro-batches add up to a minibatch's, each weighed by its real tokens, so that the micro-batch is a
matter of memory alone, and which process computes it one of speed. Policy and value take turns: each runs its backward
before the view of the base changes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch

from rlhf_lite.engine import objectives, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.rollout import Rollout, response_logprobs, response_values, split
from rlhf_lite.engine.statistics import mean
from rlhf_lite.errors import JobError
from rlhf_lite.settings import Ppo

RATIO_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
MicroBatches = list[list[int]]
LossOf = Callable[[text.Padded, list[int]], objectives.PolicyLoss | objectives.ValueLoss]
"""A micro-batch as it is laid out, and its rows in the rollout → its loss."""


def update(
    learner: Learner,
    settings: Ppo,
    rollout: Rollout,
    estimate: objectives.Advantages,
    shuffler: random.Random,
) -> dict[str, float]:
    """Some epochs over the rollout; the policy's end once it has moved by ``max_approx_kl``.

    Returns:
        The means of what the charts show, by TRL's names.
    """
    advantages = objectives.center_and_scale(estimate.advantages, rollout.response_mask)
    history: list[dict[str, float]] = []
    moved = False
    for _ in range(settings.epochs):
        order = shuffler.sample(rollout.micro_batches, len(rollout.micro_batches))
        size = max(1, settings.minibatch // rollout.rows)
        for first in range(0, len(order), size):
            group = order[first : first + size]
            metrics = {"loss/value_avg": update_value(learner, settings, rollout, group, estimate.returns)}
            if not moved:
                metrics |= update_policy(learner, settings, rollout, group, advantages, unmoved=not history)
                moved = metrics["policy/approxkl_avg"] > settings.max_approx_kl
            history.append(metrics)
    names = {name for h in history for name in h}
    return {n: mean([h[n] for h in history if n in h]) for n in sorted(names)}


def warm_up_value(
    learner: Learner, settings: Ppo, rollout: Rollout, returns: torch.Tensor, on_update: Callable[[int], None]
) -> None:
    """Let the value model learn this rollout's returns before its advantages mean anything.

    ``on_update`` is told how many of the ``value_warmup`` updates are done.
    """
    batches = list(rollout.micro_batches)
    for index in range(settings.value_warmup):
        update_value(learner, settings, rollout, [batches[index % len(batches)]], returns)
        on_update(index + 1)


def update_policy(
    learner: Learner,
    settings: Ppo,
    rollout: Rollout,
    group: MicroBatches,
    advantages: torch.Tensor,
    *,
    unmoved: bool,
) -> dict[str, float]:
    """One minibatch of the clipped surrogate.

    Args:
        advantages: (B, T), centred and scaled.
        unmoved: the policy is still the one that sampled, so the ratio must be 1.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
        JobError: the ratio is not 1 where it must be.
    """
    base = learner.base

    def loss(padded: text.Padded, rows: list[int]) -> objectives.PolicyLoss:
        mask, width = padded.response_mask, padded.response_mask.shape[1]
        new, old = response_logprobs(base, padded).logprobs, rollout.logprobs[rows, :width]
        return objectives.policy_loss(new, old, advantages[rows, :width], mask, settings.clip)

    means = _backward(learner, "policy", learner.policy_optimizer, rollout, group, loss)
    if unmoved:
        _check_ratio(means["ratio"], RATIO_TOLERANCE[base.model.dtype])
    learner.step_policy()
    return {
        "loss/policy_avg": means["loss"],
        "policy/approxkl_avg": means["approx_kl"],
        "policy/clipfrac_avg": means["clip_fraction"],
        "val/ratio": means["ratio"],
    }


def update_value(
    learner: Learner, settings: Ppo, rollout: Rollout, group: MicroBatches, returns: torch.Tensor
) -> float:
    """One minibatch of value regression; returns the loss.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
    """
    base = learner.base

    def loss(padded: text.Padded, rows: list[int]) -> objectives.ValueLoss:
        mask, width = padded.response_mask, padded.response_mask.shape[1]
        values, old = response_values(base, padded, learner.value_head), rollout.values[rows, :width]
        return objectives.value_loss(values, old, returns[rows, :width], mask, settings.value_clip)

    means = _backward(learner, "value", learner.value_optimizer, rollout, group, loss)
    learner.step_value()
    return means["loss"]


def _backward(
    learner: Learner,
    view: str,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    group: MicroBatches,
    loss: LossOf,
) -> dict[str, float]:
    """A minibatch's gradients, a micro-batch at a time; returns the mean over its tokens of all that ``loss`` gives.
    Each process computes its share of the micro-batches; all end up with the whole.

    Where memory does not do, the minibatch begins again with micro-batches of half the size, to which the rollout
    keeps from then on: the gradients that add up are the same.
    """
    base, team = learner.base, learner.team
    tokens = sum(int(rollout.lengths[rows].sum()) for rows in group)
    while True:
        own = team.share(split(group, rollout.rows))
        try:
            parts = team.each(partial(_summed, base, view, rollout, own, loss, tokens))
        except torch.OutOfMemoryError:
            if rollout.rows == 1:
                raise
        else:
            team.add_up(p for g in optimizer.param_groups for p in g["params"])
            return {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}
        # Behind the except: the error holds the frames, and they what filled the memory.
        optimizer.zero_grad(set_to_none=True)
        if base.device.type == "cuda":
            torch.cuda.empty_cache()
        rollout.split(rollout.rows // 2)


def _summed(
    base: SharedBase, view: str, rollout: Rollout, group: MicroBatches, loss: LossOf, tokens: int
) -> dict[str, float]:
    """The part of these micro-batches in a minibatch of so many tokens."""
    means: dict[str, float] = defaultdict(float)
    base.model.train()  # switches checkpointing on where it was asked for, nothing else: there is no dropout
    with base.view(view):
        for rows in group:
            padded = rollout.pick(rows, base)
            result, share = loss(padded, rows), int(padded.response_mask.sum()) / tokens
            if not torch.isfinite(result.loss):
                raise FloatingPointError(f"the {view} loss is not finite")
            (result.loss * share).backward()
            for name, value in vars(result).items():
                means[name] += float(value.detach()) * share
    return means


def _check_ratio(ratio: float, tolerance: float) -> None:
    """Before the first update of a batch the policy is the one that sampled: the ratio is 1."""
    if abs(ratio - 1) > tolerance:
        raise JobError(
            f"the probability ratio is {ratio:.4f} before any update",
            why="old and new log-probabilities disagree: adapters, dtypes or padding are mixed up",
            hint="please report this with the run's job.log",
        )
