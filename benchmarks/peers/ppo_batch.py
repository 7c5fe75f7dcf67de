"""The batch that ppo.py compares on, and our learner held still on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rlhf_lite import paths
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.rollout import Rollout, make_rollout
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.settings import Inputs, Lora, Ppo

SETTINGS = Ppo(kl_coef=0.2, clip=0.05)
LORA = Lora(rank=8)
CASES = {
    "gamma-lambda-1": {"gamma": 1.0, "lam": 1.0, "micro_batch": 16},
    "discounted": {"gamma": 0.97, "lam": 0.9, "micro_batch": 16},
    "micro-batches": {"gamma": 0.97, "lam": 0.9, "micro_batch": 4},
}
Tensors = dict[str, torch.Tensor]


class Still(Learner):
    """Keeps the gradients it is asked to step with, by the names they have in TRL."""

    gradients: Tensors

    def step(self) -> None:
        self.gradients = {
            f"gradient.{name.replace('.policy.', '.default.')}": p.grad.clone()
            for name, p in self.base.peft.named_parameters()
            if p.grad is not None
        }
        self.optimizer.zero_grad(set_to_none=True)


@dataclass
class Batch:
    """One rollout; the same with one more token after each answer that has room for it; values of both, (B, T); the
    learner, moved since."""

    learner: Still
    rollout: Rollout
    longer: Rollout
    values: torch.Tensor


def make_batch(folder: Path) -> Batch:
    """Sample, draw values, move the policy on, and write down all that TRL needs."""
    model, random = str(paths.demo_model()), torch.Generator().manual_seed(0)
    base = SharedBase.load(Inputs(stage="ppo", project="", model=model, quantization="32bit", seed=0))
    learner = Still(base, SETTINGS, LORA, start=None)

    def move(size: float) -> None:
        with torch.no_grad():
            for p in learner.parameters:
                p.add_(size * torch.randn(p.shape, generator=random))

    move(0.05)
    base.save_adapter("policy", folder / "old_policy")
    questions = (paths.examples() / "prompts.txt").read_text().splitlines()[:16]
    prompts = [text.prompt_ids(base.tokenizer, [{"role": "user", "content": q}]) for q in questions]
    scores = torch.randn(len(prompts), generator=random).tolist()
    rollout = make_rollout(
        base, prompts, reference=None, score=lambda *_: scores, trust_sampled=True, no_eos_penalty=0.0,
        max_new_tokens=40, sampling_batch=16, micro_batch=16, generator=seeded(base.device, 0, 0),
        on_batch=lambda _: None,
    )  # fmt: skip
    values = torch.randn(rollout.response_mask.shape, generator=random)
    move(0.03)
    base.save_adapter("policy", folder / "policy")
    told = {
        "model": model, "prompts": prompts, "answers": rollout.completions, "scores": scores,
        "values": values.tolist(), "cases": CASES, "kl_coef": SETTINGS.kl_coef, "clip": SETTINGS.clip,
    }  # fmt: skip
    (folder / "batch.json").write_text(json.dumps(told))
    return Batch(learner, rollout, one_token_more(rollout), values)


def one_token_more(rollout: Rollout) -> Rollout:
    """TRL's place for the score: a token after the answer, where there is room, with a value and without a KL."""
    real = rollout.response_mask
    longer = torch.arange(real.shape[1]) <= rollout.lengths[:, None]
    old, reference = (torch.where(real, x, 0) for x in (rollout.logprobs, rollout.reference))
    return replace(rollout, response_mask=longer, logprobs=old, reference=reference)
