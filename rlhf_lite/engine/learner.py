"""What PPO trains and what a resume needs: the policy and value adapters, their optimizers, and a few numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf_lite.engine import heads
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.processes import Team
from rlhf_lite.errors import CheckpointMismatch
from rlhf_lite.settings import Lora, Ppo

MAX_GRAD_NORM = 1.0


@dataclass
class RunningStd:
    """Standard deviation of all scores so far (Welford, in batches)."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def update(self, scores: torch.Tensor) -> None:
        n, mean = scores.numel(), float(scores.mean())
        delta, total = mean - self.mean, self.count + n
        self.m2 += float(((scores - mean) ** 2).sum()) + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def std(self) -> float:
        return max((self.m2 / self.count) ** 0.5, 1e-6) if self.count else 1.0


@dataclass
class Counters:
    """The numbers a resume goes on from."""

    step: int = 0
    kl_coef: float = 0.0
    learning_rate: float = 0.0
    rollbacks: int = 0
    best_step: int = 0
    best_score: float = float("-inf")
    score_first: float = 0.0
    scores: RunningStd = field(default_factory=RunningStd)


class Learner:
    """Policy and value adapters on one base, each with its AdamW (no weight decay: a LoRA starts at 0 anyway)."""

    def __init__(
        self, base: SharedBase, settings: Ppo, lora: Lora, *, start: Path | None, reward: Path | None,
        team: Team | None = None,
    ) -> None:  # fmt: skip
        self.base = base
        self.team = team or Team()
        self.reference: str | None = None
        if start:
            base.load_adapter("sft", start, trainable=False)
            base.copy("sft", "policy", trainable=True)
            self.reference = "sft"
        else:
            base.add("policy", lora, trainable=True)
        if reward:  # its hidden states know already what the score is about
            base.load_adapter("value", reward, trainable=True)
        else:
            base.add("value", lora, trainable=True)
        # The head starts afresh: a reward is a sum over tokens, a value belongs to one.
        self.value_head = heads.new_head(base.width, base.device)
        self.policy_parameters = base.parameters("policy")
        self.value_parameters = [*base.parameters("value"), *self.value_head.parameters()]
        self.policy_optimizer = torch.optim.AdamW(
            self.policy_parameters, settings.learning_rate, weight_decay=0.0
        )
        self.value_optimizer = torch.optim.AdamW(
            self.value_parameters, settings.value_learning_rate, weight_decay=0.0
        )
        self.counters = Counters(kl_coef=settings.kl_coef, learning_rate=settings.learning_rate)

    def check_trainable(self) -> None:
        """Exactly the policy, the value adapter and its head require grad, and the optimizers hold exactly those.

        Raises:
            AssertionError: a switch of adapters left something else behind; going on would train the wrong thing.
        """
        expected = {id(p) for p in [*self.policy_parameters, *self.value_parameters]}
        found = {
            id(p) for p in [*self.base.model.parameters(), *self.value_head.parameters()] if p.requires_grad
        }
        held = {
            id(p)
            for o in (self.policy_optimizer, self.value_optimizer)
            for g in o.param_groups
            for p in g["params"]
        }
        assert found == expected == held, "trainable parameters are not exactly the policy's and the value's"
        assert all(p.dtype == torch.float32 for p in self.policy_parameters), "adapters are kept in fp32"

    def set_learning_rate(self, value: float) -> None:
        """Set the policy's learning rate."""
        self.counters.learning_rate = value
        for group in self.policy_optimizer.param_groups:
            group["lr"] = value

    def step_policy(self) -> None:
        _step(self.policy_optimizer, self.policy_parameters)

    def step_value(self) -> None:
        _step(self.value_optimizer, self.value_parameters)

    def save(self, folder: Path) -> None:
        """Fill a checkpoint folder: adapters in PEFT's format, optimizer tensors, counters."""
        self.base.save_adapter("policy", folder / "policy")
        self.base.save_adapter("value", folder / "value", {heads.SCORE_KEY: self.value_head.weight})
        for name, optimizer in self._optimizers():
            save_file(_flatten(optimizer), str(folder / f"{name}_optimizer.safetensors"))
        (folder / "counters.json").write_text(json.dumps(asdict(self.counters)))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint folder.

        Raises:
            CheckpointMismatch: it is not one of this run's.
        """
        try:
            raw = json.loads((folder / "counters.json").read_text())
            self.counters = Counters(**{**raw, "scores": RunningStd(**raw["scores"])})
            for name in ("policy", "value"):
                saved = load_file(str(folder / name / "adapter_model.safetensors"))
                self.base.load_state(name, {k: v for k, v in saved.items() if k != heads.SCORE_KEY})
            head = heads.load_head(folder / "value", self.base.width, self.base.device)
            self.value_head.load_state_dict(head.state_dict())
            for name, optimizer in self._optimizers():
                _unflatten(
                    optimizer, load_file(str(folder / f"{name}_optimizer.safetensors"), str(self.base.device))
                )
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise CheckpointMismatch(
                f"cannot go on from {folder}", why=str(error), hint="start the stage again without --resume"
            ) from error
        self.set_learning_rate(self.counters.learning_rate)
        for _, optimizer in self._optimizers():
            optimizer.zero_grad(set_to_none=True)  # what a step that was given up has left

    def _optimizers(self) -> list[tuple[str, torch.optim.AdamW]]:
        return [("policy", self.policy_optimizer), ("value", self.value_optimizer)]


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
    if not torch.isfinite(norm):
        raise FloatingPointError("the gradient is not finite")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's state as named tensors, so that a checkpoint holds no pickle."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v).cpu().contiguous() for i, s in state.items() for k, v in s.items()}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
