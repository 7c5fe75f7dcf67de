"""Critics that our PPO does not have, for ``choices.py``: each is put in the way of a run by a context manager."""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from rlhf_lite.engine import heads, objectives, ppo, update
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.logprobs import token_logprobs
from rlhf_lite.engine.merged import merged
from rlhf_lite.engine.rollout import Rollout

LEARNING_RATE = 1e-3
CLIP = 0.2
WARM_UP = 20  # minibatches that the adapter trains on before the policy's first step
COEFFICIENT = 0.1  # of the value loss beside the policy's, on a shared trunk


def clipped_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Half the squared error of each token, pessimistic about leaving ``old`` by more than :data:`CLIP`; all (N,)."""
    near = old + (values - old).clamp(-CLIP, CLIP)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


class OfAView:
    """Values by a linear head on a view's states, before each token."""

    def __init__(self, learner: Learner, view: str) -> None:
        self.learner, self.base, self.view = learner, learner.base, view
        self.head = heads.new_head(self.base.width, self.base.device)
        self.rollout: Rollout | None = None

    def values(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert self.rollout is not None, "an update has begun"
        found = torch.zeros(mask.shape)
        with torch.no_grad(), self.base.view(self.view), merged(self.base.model):
            for rows in self.rollout.micro_batches:
                padded = self.rollout.pick(rows, self.base)
                told = padded.spread(self.head(self.base.hidden(padded)[padded.before]).squeeze(-1))
                found[rows, : told.shape[1]] = told
        self.old = found
        return found

    def learn(self, states: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> None:
        self.returns = returns

    def save(self, path: Path) -> None:
        """These runs are never resumed."""


class OwnAdapter(OfAView):
    """An adapter that starts as a copy of the reward model's, with AdamW of its own."""

    def __init__(self, learner: Learner, reward: Path) -> None:
        super().__init__(learner, "value")
        self.base.load_adapter("value", reward, trainable=True)
        self.parameters = [*self.base.parameters("value"), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, LEARNING_RATE, weight_decay=0.0)
        self.dice = random.Random(0)

    def learn(self, states: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> None:
        assert self.rollout is not None, "an update has begun"
        batches, size = self.rollout.micro_batches, 32 // self.rollout.rows
        first = self.learner.counters.step == 0
        epochs = 2 + (WARM_UP * size // len(batches) if first else 0)
        for _ in range(epochs):
            order = self.dice.sample(batches, len(batches))
            for start in range(0, len(order), size):
                self._step(order[start : start + size], returns)

    def _step(self, group: list[list[int]], returns: torch.Tensor) -> None:
        assert self.rollout is not None, "an update has begun"
        tokens = sum(int(self.rollout.lengths[rows].sum()) for rows in group)
        with self.base.view("value"), merged(self.base.model):
            for rows in group:
                padded = self.rollout.pick(rows, self.base)
                mask, width = padded.response_mask, padded.response_mask.shape[1]
                values = self.head(self.base.hidden(padded)[padded.before]).squeeze(-1)
                loss = clipped_loss(values, self.old[rows, :width][mask], returns[rows, :width][mask])
                (loss.sum() / tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class OnTheTrunk(OfAView):
    """A head on the policy's own states, trained in the policy's own passes."""

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner, "policy")
        self.optimizer = torch.optim.AdamW(self.head.parameters(), LEARNING_RATE, weight_decay=0.0)

    def summed(
        self, learner: Learner, rollout: Rollout, group: list[list[int]], advantages: torch.Tensor, clip: float,
        tokens: int,
    ) -> dict[str, float]:  # fmt: skip
        """As ``update._summed``, with the value loss of the same states."""
        means = defaultdict[str, float](float)
        with self.base.view("policy"), merged(self.base.model):
            for rows in group:
                padded = rollout.pick(rows, self.base)
                mask, width = padded.response_mask, padded.response_mask.shape[1]
                states = self.base.hidden(padded)[padded.before]
                new = padded.spread(token_logprobs(states, self.base.logits, padded.targets))
                result = objectives.policy_loss(
                    new, rollout.logprobs[rows, :width], advantages[rows, :width], mask, clip
                )
                old, returns = (x[rows, :width][mask] for x in (self.old, self.returns))
                value = clipped_loss(self.head(states).squeeze(-1), old, returns).sum() / tokens
                share = int(mask.sum()) / tokens
                (result.loss * share + COEFFICIENT * value).backward()
                for name, number in vars(result).items():
                    means[name] += float(number.detach()) * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return means


class Nothing:
    """Every value is 0: what is left is to centre the returns."""

    def values(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.zeros(mask.shape)

    def learn(self, states: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> None:
        """There is nothing to learn."""

    def save(self, path: Path) -> None:
        """These runs are never resumed."""


@contextlib.contextmanager
def _with_critic(make: Any) -> Generator[list[Any]]:
    """Inside, a run's critic is what ``make`` makes of its learner; it is told each rollout."""
    made: list[Any] = []
    begin, plain = ppo.Training.__init__, update.update

    def init(self: ppo.Training, *given: Any) -> None:
        begin(self, *given)
        made.append(make(self.learner))
        self.learner.critic = made[-1]

    def told(learner: Learner, settings: Any, rollout: Rollout, *more: Any) -> Any:
        made[-1].rollout = rollout
        return plain(learner, settings, rollout, *more)

    with mock.patch.object(ppo.Training, "__init__", init), mock.patch.object(update, "update", told):
        yield made


def own_adapter(reward: Path) -> contextlib.AbstractContextManager[Any]:
    return _with_critic(lambda learner: OwnAdapter(learner, reward))


@contextlib.contextmanager
def on_the_trunk(reward: Path) -> Generator[None]:
    with (
        _with_critic(OnTheTrunk) as made,
        mock.patch.object(update, "_summed", lambda *given: made[-1].summed(*given)),
    ):
        yield


def none(reward: Path) -> contextlib.AbstractContextManager[Any]:
    return _with_critic(lambda learner: Nothing())
