"""PPO by TRL 1.12.0, a step at a time: its own ``train()`` on the prompts that it is given.

Runs in TRL's environment, started by ppo_speed.py: ``python speed_in_trl.py WORK.json``. Only its loader of prompts is
replaced, by one that waits; so ``train()`` does each step as ever, and the loader's own padding is TRL's collator.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from stepping import Gate
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32
VERSIONS = {p: version(p) for p in ("trl", "torch", "transformers", "peft", "bitsandbytes")}


class Prompts:
    """The loader: a batch whenever the next step is asked for."""

    def __init__(self, collate: Any) -> None:
        self._gate, self._collate = Gate(), collate
        self.told: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self._collate([{"input_ids": ids} for ids in self._gate.wait(**self.told)])


class Counting(PPOTrainer):
    """TRL's trainer; when it logs a step, its answers' tokens are counted, each answer up to its end."""

    prompts: Prompts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        last = sys._getframe(1).f_locals["sequence_lengths"]  # index of each answer's last token
        self.prompts.told = {"tokens": int((last + 1).sum()), "versions": VERSIONS}
        super().log(logs, start_time)


def main(work: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    policy = loaded(AutoModelForCausalLM, work, tokenizer.pad_token_id)
    value, reward = (
        loaded(AutoModelForSequenceClassification, work, tokenizer.pad_token_id, num_labels=1)
        for _ in range(2)
    )
    value = get_peft_model(value, lora(work, "SEQ_CLS"))
    reward.requires_grad_(False)
    unused = Dataset.from_list([{"input_ids": [0]}] * work["episodes"])  # what the real loader would read
    trainer = Counting(
        config(work), tokenizer, policy, None, reward, unused, value, eval_dataset=unused,
        peft_config=lora(work, "CAUSAL_LM"),
    )  # fmt: skip
    trainer.dataloader = trainer.prompts = Prompts(trainer.data_collator)
    trainer.train()


def loaded(kind: Any, work: dict[str, Any], pad: int, **options: Any) -> Any:
    """One of TRL's three backbones, in fp32 or with 4-bit layers that compute in fp32."""
    if work["weights"] == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPE,
        )  # fmt: skip
    model = kind.from_pretrained(work["model"], dtype=DTYPE, **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # repacks in place, after which gradients are wrong
            module.support_avx512bf16_for_cpu = False
    model.config.pad_token_id = pad
    return model


def lora(work: dict[str, Any], task: str) -> LoraConfig:
    return LoraConfig(
        r=work["rank"],
        lora_alpha=work["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=task,
    )


def config(work: dict[str, Any]) -> PPOConfig:
    """TRL's settings that say what ours say; steps without end."""
    return PPOConfig(
        output_dir=work["folder"], total_episodes=10**9, num_ppo_epochs=work["epochs"], num_mini_batches=1,
        per_device_train_batch_size=work["micro_batch"],
        gradient_accumulation_steps=work["episodes"] // work["micro_batch"],
        local_rollout_forward_batch_size=work["episodes"], response_length=work["max_new_tokens"],
        stop_token="eos", temperature=1.0, missing_eos_penalty=1.0, learning_rate=work["learning_rate"],
        lr_scheduler_type="constant", num_sample_generations=0, report_to="none",
        use_cpu=not torch.cuda.is_available(), bf16=torch.cuda.is_available(),
        gradient_checkpointing=work["checkpointing"], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
