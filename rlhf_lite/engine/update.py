"""What one rollout changes: its advantages, and clipped updates of the policy (Schulman et al. 2017, algorithm 1).

Gradients of micro-batches add up to a minibatch's, each weighed by its real tokens, so that the micro-batch is a
matter of memory alone, and which process computes it one of speed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import torch

from rlhf_lite.engine import objectives
from rlhf_lite.engine.batches import split
from rlhf_lite.engine.critic import explained_variance
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.merged import merged
from rlhf_lite.engine.rollout import Rollout, response_logprobs
from rlhf_lite.engine.statistics import mean
from rlhf_lite.errors import JobError
from rlhf_lite.settings import Ppo

RATIO_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
MicroBatches = list[list[int]]


def update(learner: Learner, settings: Ppo, rollout: Rollout, shuffler: random.Random) -> dict[str, float]:
    """Some epochs over the rollout, until the policy has moved by ``max_approx_kl``; the critic learns from it too.

    Returns:
        The means of what the charts show, by TRL's names where it has one.
    """
    advantages, explained = advantages_of(learner, settings, rollout)
    history: list[dict[str, float]] = []
    for group in _minibatches(settings, rollout, shuffler):
        history.append(update_policy(learner, settings, rollout, group, advantages, unmoved=not history))
        if history[-1]["policy/approxkl_avg"] > settings.max_approx_kl:
            break
    means = {name: mean([metrics[name] for metrics in history]) for name in history[0]}
    return {**means, "value/explained_variance": explained}


def advantages_of(learner: Learner, settings: Ppo, rollout: Rollout) -> tuple[torch.Tensor, float]:
    """Advantages, (B, T), centred and scaled, by the critic as it was; then it learns what came of these states.

    Also returns the share of the returns' variance that it had foretold.
    """
    counters, critic, mask = learner.counters, learner.critic, rollout.response_mask
    counters.scores.update(rollout.scores)
    std = counters.scores.std
    scores = (rollout.scores / std).clamp(-settings.score_clip, settings.score_clip)
    rewards = objectives.token_rewards(scores, rollout.parts / std, rollout.kl, mask, counters.kl_coef)
    values = critic.values(rollout.states, mask)
    estimate = objectives.gae(rewards, values, mask, settings.gamma, settings.lam)
    returns = objectives.gae(rewards, torch.zeros_like(values), mask, settings.gamma, 1.0).returns
    critic.learn(rollout.states, returns, mask)
    return objectives.center_and_scale(estimate.advantages, mask), explained_variance(values, returns, mask)


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
    means = _backward(learner, rollout, group, advantages, settings.clip)
    if unmoved:
        _check_ratio(means["ratio"], RATIO_TOLERANCE[learner.base.model.dtype])
    learner.step()
    return {
        "loss/policy_avg": means["loss"],
        "policy/approxkl_avg": means["approx_kl"],
        "policy/clipfrac_avg": means["clip_fraction"],
        "val/ratio": means["ratio"],
    }


def _minibatches(settings: Ppo, rollout: Rollout, shuffler: random.Random) -> Iterator[MicroBatches]:
    """Of all epochs; micro-batches are drawn anew in each."""
    for _ in range(settings.epochs):
        order = shuffler.sample(rollout.micro_batches, len(rollout.micro_batches))
        size = max(1, settings.minibatch // rollout.rows)
        yield from (order[first : first + size] for first in range(0, len(order), size))


def _backward(
    learner: Learner, rollout: Rollout, group: MicroBatches, advantages: torch.Tensor, clip: float
) -> dict[str, float]:
    """A minibatch's gradients, a micro-batch at a time; returns the mean over its tokens of all that the loss tells.
    Each process computes its share of the micro-batches; all end up with the whole.

    Where memory does not do, the minibatch begins again with micro-batches of half the size, to which the rollout
    keeps from then on: the gradients that add up are the same.
    """
    base, team = learner.base, learner.team
    tokens = sum(int(rollout.lengths[rows].sum()) for rows in group)
    while True:
        own = team.share(split(group, rollout.rows))
        try:
            parts = team.each(partial(_summed, learner, rollout, own, advantages, clip, tokens))
        except torch.OutOfMemoryError:
            if rollout.rows == 1:
                raise
        else:
            team.add_up(learner.parameters)
            return {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}
        # Behind the except: the error holds the frames, and they what filled the memory.
        learner.optimizer.zero_grad(set_to_none=True)
        if base.device.type == "cuda":
            torch.cuda.empty_cache()
        rollout.split(rollout.rows // 2)


def _summed(
    learner: Learner,
    rollout: Rollout,
    group: MicroBatches,
    advantages: torch.Tensor,
    clip: float,
    tokens: int,
) -> dict[str, float]:
    """The part of these micro-batches in a minibatch of so many tokens."""
    base, means = learner.base, defaultdict[str, float](float)
    base.model.train()  # switches checkpointing on where it was asked for, nothing else: there is no dropout
    with base.view("policy"), merged(base.model):
        for rows in group:
            padded = rollout.pick(rows, base)
            mask, width = padded.response_mask, padded.response_mask.shape[1]
            new, old = response_logprobs(base, padded), rollout.logprobs[rows, :width]
            result = objectives.policy_loss(new, old, advantages[rows, :width], mask, clip)
            if not torch.isfinite(result.loss):
                raise FloatingPointError("the policy loss is not finite")
            share = int(mask.sum()) / tokens
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
