"""The batch that ppo.py compares on, and our learner held still on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rlhf_lite import paths
from rlhf_lite.engine import heads, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.rollout import Rollout, make_rollout, response_values
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.settings import Inputs, Lora, Ppo

SETTINGS = Ppo(kl_coef=0.2, clip=0.05, value_clip=0.05)
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

    def step_policy(self) -> None:
        self._keep("policy")

    def step_value(self) -> None:
        self._keep("value")

    def _keep(self, view: str) -> None:
        found: Tensors = {n: p for n, p in self.base.peft.named_parameters() if f".{view}." in n}
        if view == "value":
            found[heads.SCORE_KEY.replace("score.", "score.modules_to_save.default.")] = (
                self.value_head.weight
            )
        self.gradients = {
            f"gradient.{view}.{n.replace(f'.{view}.', '.default.')}": p.grad.clone()
            for n, p in found.items()
            if p.grad is not None
        }
        for p in found.values():
            p.grad = None


@dataclass
class Batch:
    """One rollout; the same with one more token after each answer that has room for it; the learner, moved since."""

    learner: Still
    rollout: Rollout
    longer: Rollout


def make_batch(folder: Path) -> Batch:
    """Sample, move policy and value on, and write down all that TRL needs."""
    model, random = str(paths.demo_model()), torch.Generator().manual_seed(0)
    base = SharedBase.load(Inputs(stage="ppo", project="", model=model, quantization="32bit", seed=0))
    learner = Still(base, SETTINGS, LORA, start=None, reward=None)
    trained = [*learner.policy_parameters, *learner.value_parameters]

    def move(size: float) -> None:
        with torch.no_grad():
            for p in trained:
                p.add_(size * torch.randn(p.shape, generator=random))

    def save(prefix: str) -> None:
        base.save_adapter("policy", folder / f"{prefix}policy")
        base.save_adapter("value", folder / f"{prefix}value", {heads.SCORE_KEY: learner.value_head.weight})

    move(0.05)
    save("old_")
    questions = (paths.examples() / "prompts.txt").read_text().splitlines()[:16]
    prompts = [text.prompt_ids(base.tokenizer, [{"role": "user", "content": q}]) for q in questions]
    scores = torch.randn(len(prompts), generator=random).tolist()
    rollout = make_rollout(
        base, prompts, reference=None, score=lambda *_: scores, value_head=learner.value_head, no_eos_penalty=0.0,
        max_new_tokens=40, sampling_batch=16, micro_batch=16, generator=seeded(base.device, 0, 0),
        on_batch=lambda _: None,
    )  # fmt: skip
    longer = one_token_more(learner, rollout)
    move(0.03)
    save("")
    told = {
        "model": model, "prompts": prompts, "answers": rollout.completions, "scores": scores, "cases": CASES,
        "settings": {n: getattr(SETTINGS, n) for n in ("kl_coef", "clip", "value_clip")},
    }  # fmt: skip
    (folder / "batch.json").write_text(json.dumps(told))
    return Batch(learner, rollout, longer)


def one_token_more(learner: Learner, rollout: Rollout) -> Rollout:
    """TRL's place for the score: a token after the answer, where there is room, with a value and without a KL."""
    base, width = learner.base, rollout.response_mask.shape[1]
    answers = [[*c, base.pad] if len(c) < width else c for c in rollout.completions]
    padded = text.pad(rollout.prompts, answers, base.pad, base.device)
    with torch.no_grad(), base.view("value"):
        values = response_values(base, padded, learner.value_head)
    old, reference = (torch.where(rollout.response_mask, x, 0) for x in (rollout.logprobs, rollout.reference))
    return replace(
        rollout, completions=answers, values=values, response_mask=padded.response_mask, logprobs=old,
        reference=reference,
    )  # fmt: skip
