"""One PPO step of TRL 1.12.0 on a batch that is given: its own ``train()`` from rewards to gradients.

Runs in TRL's environment, started by ppo.py: ``python ppo_in_trl.py FOLDER``. Two things are put in the trainer's way,
by the names under which it calls them: the answers are not generated but given, with the logits of the policy that gave
them, and so are their scores and values. The optimizer does not move. What ``train()`` holds when it logs its step, and
the policy's gradients at its optimizer step, go to FOLDER/<case>.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

KEPT = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "scores", "kl", "b_inds")


class Observed(PPOTrainer):
    """TRL's trainer; its local variables are copied when a step is logged."""

    seen: dict[str, Any]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        local = sys._getframe(1).f_locals
        self.seen = {name: torch.as_tensor(local[name]).detach().clone() for name in KEPT}
        self.seen |= {f"metric.{name}": torch.tensor(float(value)) for name, value in logs.items()}
        self.seen["query_ids"] = local["queries"].clone()


class Still(torch.optim.SGD):
    """Adds up the gradients it is asked to step with: accelerate may ask at each micro-batch of a lone batch."""

    kept: list[torch.Tensor] | None = None

    def step(self, closure: Any = None) -> None:
        found = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        self.kept = [a + b for a, b in zip(self.kept, found, strict=True)] if self.kept else found


def main(folder: Path) -> None:
    batch = json.loads((folder / "batch.json").read_text())
    for name, case in batch["cases"].items():
        save_file(run(folder, batch, case), str(folder / f"{name}.safetensors"))


def run(folder: Path, batch: dict[str, Any], case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """One step with the case's settings; everything by row of the given batch."""
    tokenizer = AutoTokenizer.from_pretrained(batch["model"], padding_side="left")
    policy, then_policy = (adapted(batch, folder / name) for name in ("policy", "old_policy"))
    prompts, answers, width = batch["prompts"], batch["answers"], max(map(len, batch["answers"]))
    pad = tokenizer.pad_token_id
    unheard = AutoModelForSequenceClassification.from_pretrained(batch["model"], num_labels=1)
    unheard.requires_grad_(False)  # stands for the value model and for the reward model

    def rows(queries: torch.Tensor) -> list[int]:
        return [prompts.index([i for i in row if i != pad]) for row in queries.tolist()]

    def given_answers(model: Any, queries: torch.Tensor, size: int, pad_id: int, config: Any) -> Any:
        padded = torch.tensor([answers[i] + [pad] * (width - len(answers[i])) for i in rows(queries)])
        both = torch.cat([queries, padded], 1)
        return both, ppo_trainer.forward(then_policy, both, pad).logits[:, queries.shape[1] - 1 : -1]

    def given_numbers(model: Any, both: torch.Tensor, pad_id: int, context: int) -> Any:
        asked = rows(both[:, :context])
        before = torch.zeros(len(asked), both.shape[1], 1)  # a value is that of the token before
        before[:, context - 1 : -1, 0] = torch.tensor(batch["values"])[asked]
        return before, torch.tensor(batch["scores"])[asked], None

    ppo_trainer.batch_generation, ppo_trainer.get_reward = given_answers, given_numbers
    named = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    still = Still(named.values(), lr=0.0)
    prompts_only = Dataset.from_list([{"input_ids": p} for p in prompts])
    trainer = Observed(
        config(folder, batch, case), tokenizer, policy, None, unheard, prompts_only, unheard,
        eval_dataset=prompts_only,
        optimizers=(still, torch.optim.lr_scheduler.LambdaLR(still, lambda _: 1.0)),
    )  # fmt: skip
    np.random.seed(0)  # draws the micro-batches
    trainer.train()
    order = torch.tensor(rows(trainer.seen.pop("query_ids")))
    by_row = {n: t[order.argsort()] for n, t in trainer.seen.items() if n != "b_inds" and t.dim()}
    metrics = {n: t for n, t in trainer.seen.items() if not t.dim()}
    gradients = {f"gradient.{n}": g for n, g in zip(named, still.kept, strict=True)}
    micro_batches = order[trainer.seen["b_inds"]].view(-1, case["micro_batch"])
    found = {**by_row, **metrics, **gradients, "micro_batches": micro_batches}
    return {n: t.contiguous() for n, t in found.items()}


def adapted(batch: dict[str, Any], adapter: Path) -> Any:
    """The base with one of the given adapters, trainable, in float32."""
    base = AutoModelForCausalLM.from_pretrained(batch["model"], dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter), is_trainable=True)


def config(folder: Path, batch: dict[str, Any], case: dict[str, Any]) -> PPOConfig:
    """TRL's settings that say what ours say; its one loss is that of the policy alone."""
    count = len(batch["prompts"])
    return PPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=case["micro_batch"],
        gradient_accumulation_steps=count // case["micro_batch"], num_mini_batches=1, num_ppo_epochs=1,
        total_episodes=count, local_rollout_forward_batch_size=count, gamma=case["gamma"], lam=case["lam"],
        kl_coef=batch["kl_coef"], cliprange=batch["clip"], vf_coef=0.0, temperature=1.0,
        stop_token="eos", response_length=max(map(len, batch["answers"])), num_sample_generations=0,
        report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
