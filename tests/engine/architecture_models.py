"""A tiny random model of each architecture that is exported, with the options its family uses.

Norms are not 1 and biases not 0, where a mix-up would not show, and weights are large enough for logits to differ.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from export_models import ROOT, make_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA = {"head_dim": 48, "query_pre_attn_scalar": 48, "sliding_window": 64, "tie_word_embeddings": True}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
    "short_factor": [1 + i / 8 for i in range(12)], "long_factor": [2 + i for i in range(12)],
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama-linear": {
        "model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 48, "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
    },
    "llama-yarn": {"model_type": "llama", "rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 16}},
    "llama-llama3": {"model_type": "llama", "rope_parameters": LLAMA3, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "head_dim": 48, "sliding_window": 384, "rope_theta": 1e6},
    "smollm3": {
        "model_type": "smollm3", "num_hidden_layers": 5, "tie_word_embeddings": True,
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    },
    "qwen2": {"model_type": "qwen2", "rope_parameters": YARN},
    "qwen3": {"model_type": "qwen3", "head_dim": 64, "tie_word_embeddings": True, "rope_parameters": YARN},
    "gemma2": {**GEMMA, "model_type": "gemma2", "num_hidden_layers": 4},
    "gemma2-caps": {
        **GEMMA, "model_type": "gemma2", "attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    },
    "gemma3": {
        **GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    },
    "phi3": {"model_type": "phi3", "sliding_window": 384},
    "phi3-longrope": {
        "model_type": "phi3", "rope_parameters": LONGROPE, "original_max_position_embeddings": 512,
        "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "granite": {
        "model_type": "granite", "attention_bias": True, "mlp_bias": True, "rope_theta": 1e6,
        "attention_multiplier": 0.1, "embedding_multiplier": 6.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
    },
    "granite-llama3": {"model_type": "granite", "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    "olmo2": {"model_type": "olmo2", "tie_word_embeddings": True},
    "olmo3": {
        "model_type": "olmo3", "sliding_window": 64, "num_hidden_layers": 4,
        "rope_parameters": {
            "full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}
        },
    },
}  # fmt: skip
KINDS = (*MODELS, "gemma3-seeing")
SHAPE = {
    "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.12, "vocab_size": 640,
    "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 4,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14, "vision_use_head": False,
}  # fmt: skip


def make_config(kind: str) -> Any:
    if kind == "gemma3-seeing":
        text = {**SHAPE, **MODELS["gemma3"]}
        return AutoConfig.for_model(
            "gemma3", text_config=text, vision_config=VISION, mm_tokens_per_image=1, boi_token_index=5,
            eoi_token_index=6, image_token_index=7, initializer_range=0.12,
        )  # fmt: skip
    return AutoConfig.for_model(**{**SHAPE, **MODELS[kind]})


@cache
def model_folder(kind: str) -> Path:
    """A model folder: bf16 weights, as models are published."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(make_config(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = ROOT / f"architecture-{kind}"
    model.bfloat16().save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@cache
def adapter_folder(kind: str) -> Path:
    """A LoRA on every linear layer, as training puts it there, with a B that is not zero where text reaches it."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32)
    torch.manual_seed(1)
    tuned = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name and "vision_tower" not in name:
                parameter.normal_(0, 0.05)
    folder = ROOT / f"architecture-{kind}-lora"
    tuned.save_pretrained(str(folder))
    return folder


@cache
def _tokenizer() -> Any:
    return make_tokenizer("qwen2")
