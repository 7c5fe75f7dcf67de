"""Training sees the log-probabilities that sampling sees, whatever a family does to its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
)

from rlhf_lite import paths
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.rollout import logprobs_of, make_rollout
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.errors import JobError
from rlhf_lite.settings import Inputs, Lora

SHAPE: dict[str, Any] = {
    "vocab_size": 8192, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "granite": GraniteConfig(**SHAPE, logits_scaling=8.0, embedding_multiplier=3.0),
    "gemma2": Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=5.0),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, final_logit_softcapping=5.0),
}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]


def load(config: PretrainedConfig, folder: Path) -> SharedBase:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(paths.demo_model()).save_pretrained(folder)
    return SharedBase.load(Inputs(stage="ppo", project="", model=str(folder), quantization="32bit", seed=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_sampled_has_the_same_log_probability_in_training(family: str, tmp_path: Path) -> None:
    base = load(FAMILIES[family], tmp_path)
    with base.view(None):
        found = sample(base, PROMPTS, max_new_tokens=12, batch_size=2, generator=seeded(base.device, 0, 1))
    trained = logprobs_of(base, None, PROMPTS, found.completions, 2)
    for sampled, expected in zip(found.logprobs, trained, strict=True):
        assert torch.allclose(torch.tensor(sampled), expected, atol=1e-3)


def test_a_family_whose_logits_are_not_understood_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than trained with a ratio that is 1 and wrong."""
    base = load(FAMILIES["llama"], tmp_path)
    base.add("policy", Lora(), trainable=True)
    plain = base.logits
    monkeypatch.setattr(base, "logits", lambda hidden: 3 * plain(hidden))
    with pytest.raises(JobError, match="nats a token apart"):
        make_rollout(
            base, PROMPTS, reference=None, score=lambda _, answers, rows: [0.0] * len(answers),
            trust_sampled=True, no_eos_penalty=0.0, max_new_tokens=12, sampling_batch=2,
            micro_batch=2, generator=seeded(base.device, 0, 1), on_batch=lambda _: None,
        )  # fmt: skip
