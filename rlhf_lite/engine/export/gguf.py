"""Tensors and settings of a tuned model as a GGUF file in F16.

An architecture is one row of :data:`ARCHITECTURES`; names come from the ``gguf`` package. Norms and other vectors
stay F32, matrices become F16 (rounded once, from fp32). Llama's query and key rows are reordered: llama.cpp
rotates neighbouring pairs of a head where transformers rotates its two halves (Su et al. 2021, RoPE).

Refused: what GGUF or llama.cpp cannot express for these architectures. Sliding-window attention of Qwen2 and
Qwen3 is such a thing, and there the file's context is cut to the window, inside which both compute the same.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from rlhf_lite.engine.export.merge import MergedWeights
from rlhf_lite.engine.export.vocab import Vocabulary
from rlhf_lite.errors import DataError, UserError

Report = Callable[[str, int, int], None]
_F16_MAX = 65504.0
_K_QUANT_ROW = 256  # K-quants take rows of a multiple of this
# llama.cpp guesses a tokenizer's habits from these words in the model's name.
_MISREAD_NAMES = re.compile(r"phi-?3|modern-?bert", re.IGNORECASE)


@dataclass(frozen=True)
class Architecture:
    """How one transformers class is written: GGUF's name for it, and whether q and k rows are reordered."""

    gguf: gguf.MODEL_ARCH
    reorder_qk: bool


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture(gguf.MODEL_ARCH.LLAMA, reorder_qk=True),
    "Qwen2ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN2, reorder_qk=False),
    "Qwen3ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN3, reorder_qk=False),
}


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The row for a model's config.json. Raises UserError where there is none, or a setting it does not cover."""
    name = (config.get("architectures") or ["none named"])[0]
    if name not in ARCHITECTURES:
        raise UserError(
            f"{name} cannot be exported yet",
            why="its layers are not among those this version writes",
            hint=f"it writes {', '.join(ARCHITECTURES)}",
        )
    scaling = _rope(config)["rope_type"]
    refused = {
        "already quantized weights": "quantization_config" in config,
        f"{config.get('hidden_act')} activations": config.get("hidden_act", "silu") != "silu",
        f"{scaling} position scaling": scaling not in ("default", "llama3"),
        "partly rotated heads": {**config, **_rope(config)}.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for what, present in refused.items():
        if present:
            raise UserError(
                f"a {name} with {what} cannot be exported", hint="start from the published 16-bit model"
            )
    return ARCHITECTURES[name]


@dataclass(frozen=True)
class GgufPlan:
    """Everything about the file but the weights. ``names``: GGUF tensor name -> name in the base model."""

    architecture: Architecture
    config: dict[str, Any]
    vocabulary: Vocabulary
    names: dict[str, str]
    weights: MergedWeights

    @property
    def parameters(self) -> int:
        return sum(math.prod(self.weights.shapes[name]) for name in self.names.values())

    @property
    def rows_fit_k_quants(self) -> bool:
        """Whether every matrix can take a K-quant; else llama.cpp falls back to larger types."""
        shapes = (self.weights.shapes[name] for name in self.names.values())
        return all(shape[-1] % _K_QUANT_ROW == 0 for shape in shapes if len(shape) == 2)


def plan_gguf(config: dict[str, Any], vocabulary: Vocabulary, weights: MergedWeights) -> GgufPlan:
    """Match every tensor of the base to its GGUF name. Raises DataError (unknown or missing tensors), UserError."""
    architecture = architecture_of(config)
    mapping = gguf.get_tensor_name_map(architecture.gguf, config["num_hidden_layers"])
    names: dict[str, str] = {}
    for name in weights.shapes:
        if name.endswith("rotary_emb.inv_freq"):  # a buffer that old checkpoints carry
            continue
        target = mapping.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None or target in names:
            raise DataError(f"the base model has a tensor this version cannot place: {name}")
        names[target] = name
    _settle_output(config, weights, names)
    for i in range(config["num_hidden_layers"]):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            if f"blk.{i}.{part}.weight" not in names:
                raise DataError(f"the base model lacks blk.{i}.{part}", why="its weights are incomplete")
    return GgufPlan(architecture, config, vocabulary, names, weights)


def _settle_output(config: dict[str, Any], weights: MergedWeights, names: dict[str, str]) -> None:
    """Leave out an output matrix that only repeats the embedding; insist on one that does not exist but should."""
    tied = config.get("tie_word_embeddings", False)
    if "output.weight" not in names:
        if not tied:
            raise DataError("the base model has no lm_head.weight", why="and its config says it is not tied")
    elif tied and torch.equal(
        weights.tensor(names["output.weight"]), weights.tensor(names["token_embd.weight"])
    ):
        del names["output.weight"]


def write_f16(plan: GgufPlan, target: Path, name: str, report: Report) -> None:
    """Write the file, one tensor in memory at a time, and force it to disk. Leaves a partial one on failure.

    Raises DataError where a value is not finite or beyond F16's range, OSError where the disk is full.
    """
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[plan.architecture.gguf])
    _write_settings(writer, plan, name)
    factors = _llama3_factors(plan.config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for gguf_name, source in plan.names.items():
        shape, kind = plan.weights.shapes[source], _stored_type(gguf_name, plan.weights.shapes[source])
        writer.add_tensor_info(gguf_name, shape, kind, math.prod(shape) * kind.itemsize)
    try:
        writer.write_header_to_file(target)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for done, (gguf_name, source) in enumerate(plan.names.items()):
            report("merge", done, len(plan.names))
            writer.write_tensor_data(_stored(plan, gguf_name, source))
        report("merge", len(plan.names), len(plan.names))
        assert writer.fout is not None
        writer.fout[0].flush()
        os.fsync(writer.fout[0].fileno())
    finally:
        writer.close()


def _stored_type(gguf_name: str, shape: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype(np.float32 if len(shape) == 1 or gguf_name.endswith("_norm.weight") else np.float16)


def _stored(plan: GgufPlan, gguf_name: str, source: str) -> np.ndarray:
    weight = plan.weights.tensor(source).numpy()
    if plan.architecture.reorder_qk and ".attn_q." in gguf_name:
        weight = _reorder(weight, plan.config["num_attention_heads"])
    elif plan.architecture.reorder_qk and ".attn_k." in gguf_name:
        weight = _reorder(weight, _kv_heads(plan.config))
    kind = _stored_type(gguf_name, weight.shape)
    if kind == np.float16 and np.abs(weight).max() > _F16_MAX:
        raise DataError(
            f"{source} does not fit into 16-bit floats",
            why=f"its largest value is {np.abs(weight).max():.3g}",
        )
    return np.ascontiguousarray(weight, dtype=kind)


def _reorder(weight: np.ndarray, heads: int) -> np.ndarray:
    """Interleave the two halves of each head's rows: (heads, 2, d/2, ...) -> (heads, d/2, 2, ...)."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def _kv_heads(config: dict[str, Any]) -> int:
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def _head_width(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Position settings from either spelling of config.json: ``rope_parameters``, or ``rope_theta`` and scaling."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = found.get("rope_theta", config.get("rope_theta", 10000.0))
    return {**found, "rope_theta": theta, "rope_type": found.get("rope_type", found.get("type", "default"))}


def _context(config: dict[str, Any]) -> int:
    longest = config["max_position_embeddings"]
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return min(longest, window) if window else longest


def _llama3_factors(config: dict[str, Any]) -> np.ndarray | None:
    """Llama 3.1's per-frequency divisors, (head width / 2,) float32, or None where positions are not scaled.

    Long waves are divided by ``factor``, short ones not, those between interpolated (Llama 3.1 model code).
    """
    rope, width = _rope(config), _head_width(config)
    if rope["rope_type"] != "llama3":
        return None
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    blend = np.clip((rope["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def _write_settings(writer: gguf.GGUFWriter, plan: GgufPlan, name: str) -> None:
    config, width = plan.config, _head_width(plan.config)
    writer.add_type("model")
    writer.add_name(_MISREAD_NAMES.sub("model", name))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(_context(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(_kv_heads(config))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_vocab_size(len(plan.vocabulary.tokens))
    plan.vocabulary.write(writer)
