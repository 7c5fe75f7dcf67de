"""Tensors and settings of a tuned model as a GGUF file in floats: F16, BF16, or F32 where files are compared.

What differs between architectures is in ``architectures.py`` and ``positions.py``; names come from the ``gguf``
package. Norms and other vectors stay F32, matrices are rounded once, from fp32. One tensor is in memory at a time,
and of the embedding, the largest, a block of rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, Keys, LlamaFileType

from rlhf_lite.engine.export.architectures import (
    Architecture,
    Config,
    Settings,
    architecture_of,
    head_width,
    read_config,
)
from rlhf_lite.engine.export.merge import MergedWeights
from rlhf_lite.engine.export.positions import factor_tensors, position_settings
from rlhf_lite.engine.export.vocab import Vocabulary
from rlhf_lite.errors import DataError, UserError

Report = Callable[[str, int, int], None]
FloatType = Literal["f32", "f16", "bf16"]
_TYPES = {
    "f32": (torch.float32, GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (torch.float16, GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (torch.bfloat16, GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}


@dataclass(frozen=True)
class GgufPlan:
    """Everything about the file but the weights. ``names``: GGUF tensor name -> name in the base model."""

    architecture: Architecture
    config: Config
    vocabulary: Vocabulary
    names: dict[str, str]
    weights: MergedWeights


def plan_gguf(raw: dict[str, Any], vocabulary: Vocabulary, weights: MergedWeights) -> GgufPlan:
    """Match every tensor of the base to its GGUF name; ``raw`` is what config.json holds.

    Raises DataError (unknown or missing tensors), UserError (an architecture or setting that cannot be written).
    """
    row, config = architecture_of(raw), read_config(raw)
    blocks = config.num_hidden_layers
    mapping = gguf.get_tensor_name_map(row.gguf, blocks)
    needed = {"token_embd.weight", "output_norm.weight"}
    needed |= {f"blk.{i}.{part}.weight" for i in range(blocks) for part in row.block}
    allowed = {"output.weight"} | {f"blk.{i}.{part}.bias" for i in range(blocks) for part in row.biases}
    names: dict[str, str] = {}
    for name in weights.shapes:
        if name.endswith("rotary_emb.inv_freq"):  # a buffer that old checkpoints carry
            continue
        place = mapping.get_name(name, try_suffixes=(".weight", ".bias"))
        target = "output.weight" if name == "lm_head.weight" else place  # of Gemma 2 the package knows none
        if target not in needed | allowed or target in names:
            raise DataError(f"the base model has a tensor this version cannot place: {name}")
        names[target] = name
    if missing := sorted(needed - names.keys()):
        raise DataError(f"the base model lacks {missing[0]}", why="its weights are incomplete")
    _settle_output(row, config, weights, names)
    return GgufPlan(row, config, vocabulary, names, weights)


def _settle_output(row: Architecture, config: Config, weights: MergedWeights, names: dict[str, str]) -> None:
    """Leave out an output matrix that only repeats the embedding, unless llama.cpp wants it all the same."""
    output, embedding = names.get("output.weight"), names["token_embd.weight"]
    if output is None and not config.tie_word_embeddings:
        raise DataError("the base model has no lm_head.weight", why="and its config says it is not tied")
    if output is not None and config.tie_word_embeddings:
        pairs = zip(weights.blocks(output), weights.blocks(embedding), strict=True)
        if all(torch.equal(a, b) for a, b in pairs):
            output = None
    if output is None and row.output == "always":
        names["output.weight"] = embedding
    elif output is None:
        names.pop("output.weight", None)
    elif row.output == "never":
        raise UserError(
            "the model has an output matrix that differs from its embedding",
            why="llama.cpp has no place for one in this architecture",
            hint="train with LoRA on linear layers alone",
        )


def write_gguf(plan: GgufPlan, floats: FloatType, target: Path, name: str, report: Report) -> None:
    """Write the file, its matrices in this type, and force it to disk. Leaves a partial one on failure.

    Raises DataError where a value is not finite or beyond the type's range, OSError where the disk is full.
    """
    dtype, matrix, file_type = _TYPES[floats]
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[plan.architecture.gguf])
    writer.add_file_type(file_type)
    _write_settings(writer, plan, name)
    factors = factor_tensors(plan.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in factors.items()}
    shapes |= {name: plan.weights.shapes[source] for name, source in plan.names.items()}
    for tensor, shape in shapes.items():
        kind, size = (matrix, dtype.itemsize) if len(shape) > 1 else (GGMLQuantizationType.F32, 4)
        writer.add_tensor_info(tensor, shape, np.dtype(np.float32), math.prod(shape) * size, kind)
    try:
        writer.write_header_to_file(target)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        for done, tensor in enumerate(shapes):
            report("merge", done, len(shapes))
            writer.write_padding(file, file.tell())
            source = plan.names.get(tensor)
            for block in _stored(plan, tensor, source) if source else [factors[tensor]]:
                file.write(_rounded(block, dtype, source).view(torch.uint8).numpy().data)
        writer.write_padding(file, file.tell())
        report("merge", len(shapes), len(shapes))
        file.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()


def _stored(plan: GgufPlan, tensor: str, source: str) -> Iterator[torch.Tensor]:
    """A tensor of the base as GGUF has it, fp32, in blocks of rows."""
    row, config = plan.architecture, plan.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    part = tensor.split(".")[-2]
    for block in plan.weights.blocks(source):
        if row.reorder_qk and part in heads:
            yield interleaved(block, heads[part])
        else:
            yield block + 1 if row.norms_from_one and part.endswith("norm") else block


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Interleave the two halves of each head's rows: (heads, 2, d/2, ...) -> (heads, d/2, 2, ...)."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def _rounded(block: torch.Tensor, dtype: torch.dtype, source: str | None) -> torch.Tensor:
    if block.ndim == 1:
        return block
    largest = max(abs(x.item()) for x in block.aminmax())
    if largest > torch.finfo(dtype).max:
        raise DataError(
            f"{source} does not fit into 16-bit floats", why=f"its largest value is {largest:.3g}"
        )
    return block.to(dtype).contiguous()


def _write_settings(writer: GGUFWriter, plan: GgufPlan, name: str) -> None:
    row, config = plan.architecture, plan.config
    writer.add_type("model")
    writer.add_name(plan.vocabulary.model_name(name))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    settings: Settings = {
        Keys.LLM.BLOCK_COUNT: config.num_hidden_layers,
        Keys.LLM.EMBEDDING_LENGTH: config.hidden_size,
        Keys.LLM.FEED_FORWARD_LENGTH: config.intermediate_size,
        Keys.LLM.VOCAB_SIZE: len(plan.vocabulary.tokens),
        Keys.Attention.HEAD_COUNT: config.num_attention_heads,
        Keys.Attention.HEAD_COUNT_KV: config.num_key_value_heads,
        Keys.Attention.KEY_LENGTH: head_width(config),
        Keys.Attention.VALUE_LENGTH: head_width(config),
        Keys.Attention.LAYERNORM_RMS_EPS: float(config.rms_norm_eps),
        **position_settings(row, config),
        **row.settings(config),
    }
    for key, value in settings.items():
        key = key.format(arch=writer.arch)
        match value:
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    plan.vocabulary.write(writer)
