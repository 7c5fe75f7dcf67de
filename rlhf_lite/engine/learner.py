"""What PPO trains and what a resume needs: the policy's adapter, its optimizer, the critic, and a few numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.critic import Critic
from rlhf_lite.engine.processes import Team
from rlhf_lite.errors import CheckpointMismatch
from rlhf_lite.settings import Lora, Ppo

MAX_GRAD_NORM = 1.0
OPTIMIZER, CRITIC = "policy_optimizer.safetensors", "critic.safetensors"  # in a checkpoint


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


@dataclass(frozen=True)
class Candidate:
    """A checkpoint as it did on held-out prompts: its mean score, that mean's standard error, KL in nats a sequence."""

    step: int
    score: float
    error: float
    kl: float


@dataclass
class Counters:
    """The numbers a resume goes on from."""

    step: int = 0
    kl_coef: float = 0.0
    learning_rate: float = 0.0
    rollbacks: int = 0
    score_first: float = 0.0
    scores: RunningStd = field(default_factory=RunningStd)
    candidates: list[Candidate] = field(default_factory=list[Candidate])

    @property
    def best(self) -> Candidate:
        """The candidate that has moved least from the reference."""
        return min(self.candidates, key=lambda c: c.kl)

    def consider(self, new: Candidate) -> None:
        """Candidates are those that score within a standard error of the highest: what is not better than noise is not
        worth its KL (the one-standard-error rule, Breiman et al. 1984, section 3.4.3)."""
        found = [*self.candidates, new]
        top = max(found, key=lambda c: c.score)
        self.candidates = [c for c in found if c.score >= top.score - top.error]


class Learner:
    """The policy's adapter on the base with its AdamW (no weight decay: a LoRA starts at 0 anyway), and the critic."""

    def __init__(
        self, base: SharedBase, settings: Ppo, lora: Lora, *, start: Path | None, team: Team | None = None
    ) -> None:
        self.base = base
        self.team = team or Team()
        self.reference: str | None = None
        if start:
            base.load_adapter("sft", start, trainable=False)
            base.copy("sft", "policy", trainable=True)
            self.reference = "sft"
        else:
            base.add("policy", lora, trainable=True)
        self.critic = Critic(base.width, base.device)
        self.parameters = base.parameters("policy")
        self.optimizer = torch.optim.AdamW(self.parameters, settings.learning_rate, weight_decay=0.0)
        self.counters = Counters(kl_coef=settings.kl_coef, learning_rate=settings.learning_rate)

    def check_trainable(self) -> None:
        """Exactly the policy's adapter requires grad, and the optimizer holds exactly that.

        Raises:
            AssertionError: a switch of adapters left something else behind; going on would train the wrong thing.
        """
        expected = {id(p) for p in self.parameters}
        found = {id(p) for p in self.base.model.parameters() if p.requires_grad}
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        assert found == expected == held, "trainable parameters are not exactly the policy's"
        assert all(p.dtype == torch.float32 for p in self.parameters), "adapters are kept in fp32"

    def set_learning_rate(self, value: float) -> None:
        """Set the policy's learning rate."""
        self.counters.learning_rate = value
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def step(self) -> None:
        """One optimizer step on the gradients, their norm held to :data:`MAX_GRAD_NORM`.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        if not torch.isfinite(norm):
            raise FloatingPointError("the gradient is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Fill a checkpoint folder: adapter in PEFT's format, optimizer and critic as tensors, counters."""
        self.base.save_adapter("policy", folder / "policy")
        save_file(_flatten(self.optimizer), str(folder / OPTIMIZER))
        self.critic.save(folder / CRITIC)
        (folder / "counters.json").write_text(json.dumps(asdict(self.counters)))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint folder.

        Raises:
            CheckpointMismatch: it is not one of this run's.
        """
        try:
            raw = json.loads((folder / "counters.json").read_text())
            candidates = [Candidate(**c) for c in raw["candidates"]]
            self.counters = Counters(
                **{**raw, "scores": RunningStd(**raw["scores"]), "candidates": candidates}
            )
            self.base.load_state("policy", load_file(str(folder / "policy" / "adapter_model.safetensors")))
            _unflatten(self.optimizer, load_file(str(folder / OPTIMIZER), str(self.base.device)))
            self.critic.load(folder / CRITIC)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise CheckpointMismatch(
                f"cannot go on from {folder}", why=str(error), hint="start the stage again without --resume"
            ) from error
        self.set_learning_rate(self.counters.learning_rate)
        self.optimizer.zero_grad(set_to_none=True)  # what a step that was given up has left


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
