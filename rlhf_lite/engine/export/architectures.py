"""What each architecture needs to become a GGUF file: one row of :data:`ARCHITECTURES` by its ``model_type``.

config.json is read by transformers' own class for it, which fills in what a file leaves out and understands the
older spellings, so that the file is of the model that was trained. Facts about llama.cpp are those of the one that
llama-cpp-python ships: what it computes for these architectures, and which tensors it loads.

Refused before any work: what GGUF or llama.cpp cannot express. Gemma 3 models that see are written without the part
that sees. Left out: mixtures of experts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gguf import MODEL_ARCH, Keys
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from rlhf_lite.errors import DataError, UserError

Config = Any
"""A transformers config of a language model, complete."""
Settings = dict[str, float | int | str | list[bool]]
"""Metadata by the ``gguf`` package's names of keys."""

_SEPARATE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_FUSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
_NORMS = ("attn_norm", "ffn_norm")
_POST_NORMS = ("post_attention_norm", "post_ffw_norm")
_QK_NORMS = ("attn_q_norm", "attn_k_norm")
_GELU = "gelu_pytorch_tanh"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one kind of model is written.

    Attributes:
        gguf: GGUF's name for it.
        block: the tensors of a block, by GGUF's names; all have a weight.
        biases: those of them that may have a bias.
        reorder_qk: query and key rows are interleaved: llama.cpp rotates neighbouring pairs of a head where
            transformers rotates its two halves (Su et al. 2021, RoPE).
        norms_from_one: norms hold what is added to 1; GGUF has the sum.
        scalings: position scalings that it computes.
        partly_rotated: heads may be rotated in part.
        windows: it computes sliding windows; elsewhere the context is cut to the window.
        head_width: heads may have a width of their own; elsewhere it is the hidden size over the heads.
        output: an output matrix apart from the embedding may be there, always is, or never.
        settings: further metadata.
        beyond: further things it cannot express, by what they are called, with whether a config has them.
    """

    gguf: MODEL_ARCH
    block: tuple[str, ...] = _NORMS + _SEPARATE
    biases: tuple[str, ...] = ()
    reorder_qk: bool = False
    norms_from_one: bool = False
    activation: str = "silu"
    scalings: tuple[str, ...] = ("linear", "yarn")
    partly_rotated: bool = False
    windows: bool = False
    head_width: bool = True
    output: Literal["maybe", "always", "never"] = "maybe"
    settings: Callable[[Config], Settings] = lambda config: {}
    beyond: Callable[[Config], dict[str, bool]] = lambda config: {}


def _granite(config: Config) -> Settings:
    return {
        Keys.Attention.SCALE: float(config.attention_multiplier),
        Keys.LLM.EMBEDDING_SCALE: float(config.embedding_multiplier),
        Keys.LLM.RESIDUAL_SCALE: float(config.residual_multiplier),
        Keys.LLM.LOGIT_SCALE: float(config.logits_scaling),  # logits are divided by it
    }


def _gemma2(config: Config) -> Settings:
    return {
        Keys.LLM.ATTN_LOGIT_SOFTCAPPING: config.attn_logit_softcapping,
        Keys.LLM.FINAL_LOGIT_SOFTCAPPING: config.final_logit_softcapping,
    }


def _gemma3(config: Config) -> Settings:
    cap = config.final_logit_softcapping
    return {Keys.LLM.FINAL_LOGIT_SOFTCAPPING: cap} if cap else {}


def _scales_otherwise(config: Config, large: int) -> dict[str, bool]:
    """llama.cpp knows the attention scale of Gemma's largest model by its number of blocks, and no other exception."""
    is_large = config.num_hidden_layers == large
    width = config.hidden_size // config.num_attention_heads if is_large else config.head_dim
    return {
        f"query_pre_attn_scalar {config.query_pre_attn_scalar}": config.query_pre_attn_scalar != width,
        "attention in both directions": bool(config.use_bidirectional_attention),
    }


def _beyond_gemma2(config: Config) -> dict[str, bool]:
    return {
        "uncapped logits": not (config.attn_logit_softcapping and config.final_logit_softcapping),
        "no sliding window": not config.sliding_window or "sliding_attention" not in config.layer_types,
        **_scales_otherwise(config, large=46),
    }


def _beyond_gemma3(config: Config) -> dict[str, bool]:
    sliding = config.rope_parameters.get("sliding_attention", {})
    return {
        "capped attention logits": bool(config.attn_logit_softcapping),
        "scaled positions inside windows": sliding.get("rope_type", "default") != "default",
        **_scales_otherwise(config, large=62),
    }


def _beyond_smollm3(config: Config) -> dict[str, bool]:
    every_fourth = [int((i + 1) % 4 != 0) for i in range(config.num_hidden_layers)]
    return {"rotation in other blocks than three of four": config.no_rope_layers != every_fourth}


def _beyond_olmo3(config: Config) -> dict[str, bool]:
    full, sliding = (config.rope_parameters.get(k, {}) for k in ("full_attention", "sliding_attention"))
    return {
        "scaled positions inside windows": sliding.get("rope_type", "default") != "default",
        "another rope_theta inside windows": full.get("rope_theta") != sliding.get("rope_theta"),
    }


_LLAMA = Architecture(
    gguf=MODEL_ARCH.LLAMA, biases=_SEPARATE, reorder_qk=True, scalings=("linear", "yarn", "llama3")
)
_GEMMA3 = Architecture(
    gguf=MODEL_ARCH.GEMMA3, block=_NORMS + _POST_NORMS + _QK_NORMS + _SEPARATE, norms_from_one=True,
    activation=_GELU, scalings=("linear",), windows=True, settings=_gemma3, beyond=_beyond_gemma3,
)  # fmt: skip
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "smollm3": Architecture(gguf=MODEL_ARCH.SMOLLM3, reorder_qk=True, beyond=_beyond_smollm3),
    "qwen2": Architecture(gguf=MODEL_ARCH.QWEN2, biases=("attn_q", "attn_k", "attn_v"), head_width=False),
    "qwen3": Architecture(gguf=MODEL_ARCH.QWEN3, block=_NORMS + _QK_NORMS + _SEPARATE),
    "gemma2": Architecture(
        gguf=MODEL_ARCH.GEMMA2, block=_NORMS + _POST_NORMS + _SEPARATE, norms_from_one=True, activation=_GELU,
        scalings=("linear",), windows=True, output="never", settings=_gemma2, beyond=_beyond_gemma2,
    ),
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "phi3": Architecture(
        gguf=MODEL_ARCH.PHI3, block=_NORMS + _FUSED, scalings=("longrope",), partly_rotated=True,
        head_width=False,
    ),
    "granite": Architecture(
        gguf=MODEL_ARCH.GRANITE, biases=_SEPARATE, reorder_qk=True, scalings=_LLAMA.scalings, settings=_granite
    ),
    "olmo2": Architecture(
        gguf=MODEL_ARCH.OLMO2, block=_POST_NORMS + _QK_NORMS + _SEPARATE, head_width=False, output="always"
    ),
    "olmo3": Architecture(
        gguf=MODEL_ARCH.OLMO2, block=_POST_NORMS + _QK_NORMS + _SEPARATE, head_width=False, output="always",
        windows=True, beyond=_beyond_olmo3,
    ),
}  # fmt: skip


def read_config(raw: dict[str, Any]) -> Config:
    """What config.json means, of a model that also sees the part that writes. Raises DataError where it is damaged."""
    try:
        return AutoConfig.for_model(**copy.deepcopy(raw)).get_text_config()  # it changes what it is given
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "config.json cannot be read",
            why=str(error).strip().splitlines()[0],
            hint="download the model again",
        ) from error


def head_width(config: Config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def full_rope(config: Config) -> dict[str, Any]:
    """Position settings of the blocks that see everything."""
    return config.rope_parameters.get("full_attention") or config.rope_parameters


def architecture_of(raw: dict[str, Any]) -> Architecture:
    """The row for what config.json holds. Raises UserError where there is none, or a setting it does not cover."""
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"a model of type {kind} cannot be exported",
            why="its layers are not among those this version writes",
            hint=f"it writes {', '.join(ARCHITECTURES)}",
        )
    row, config = ARCHITECTURES[kind], read_config(raw)
    quantized = {"already quantized weights": "quantization_config" in raw}
    for what, present in (quantized | _cannot(row, config)).items():
        if present:
            raise UserError(
                f"a {kind} model with {what} cannot be exported",
                why="GGUF has no place for it, or llama.cpp would compute something else",
                hint="start from the published 16-bit model",
            )
    return row


def _cannot(row: Architecture, config: Config) -> dict[str, bool]:
    rope, width = full_rope(config), head_width(config)
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    return {
        f"{activation} activations": activation != row.activation,
        f"{rope['rope_type']} position scaling": rope["rope_type"] not in ("default", *row.scalings),
        "yarn scaling that is not truncated": rope.get("truncate") is False,
        "partly rotated heads": rope.get("partial_rotary_factor", 1.0) != 1.0 and not row.partly_rotated,
        f"heads of width {width}": width * config.num_attention_heads != config.hidden_size and not row.head_width,
        "attention biases": bool(getattr(config, "attention_bias", False)) and "attn_output" not in row.biases,
        "MLP biases": bool(getattr(config, "mlp_bias", False)) and "ffn_up" not in row.biases,
        "an output matrix of its own": row.output == "never" and not config.tie_word_embeddings,
        **row.beyond(config),
    }  # fmt: skip
