"""What an exported file takes on disk, told before it is written: arithmetic over a model's shape.

llama.cpp gives each matrix of a file its own type. These are its rules for the types that are offered, as its
quantizer has them (``llama-quant.cpp``): the output matrix, or the embedding where both are one, gets Q6_K, a part of
the layers more bits for values and ``ffn_down``, and a row that is no multiple of a type's block another type. Norms
and biases stay F32. Asking llama.cpp itself (its ``dry_run``) wants a whole F16 file and says the same; a test holds
this against files that it wrote. Left out: mixtures of experts and what Falcon has of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from rlhf_lite.shapes import Model

BLOCKS: Mapping[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q6_k": (256, 210), "q5_k": (256, 176),
    "q4_k": (256, 144), "q5_1": (32, 24), "q5_0": (32, 22), "q4_0": (32, 18),
}  # fmt: skip
"""By the type of a matrix: weights in a block, bytes of it."""
_MIXED = {"q5_k_m": "q5_k", "q4_k_m": "q4_k"}  # a type of file that gives some matrices more bits
_FALLBACKS = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}  # for rows that are no multiple of 256
_UNFUSED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_FUSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
_TABLE_ENTRY = 60  # bytes of a tensor's name, shape and place, and what aligns its data
_SETTINGS = 2048  # bytes of all else before the tensors, the chat template with it
_TOKEN = 50  # bytes of a token and the merges it takes, where no tokenizer is at hand: 35 to 61 of known ones

Shape = tuple[int, ...]


def tensors(model: Model) -> dict[str, Shape]:
    """A model's tensors by GGUF's names, rows first; its norms and biases as one vector."""
    d = model.hidden_size
    names = _FUSED if model.family.fused else _UNFUSED
    found: dict[str, Shape] = {"token_embd.weight": (model.vocab_size, d)}
    if not model.tied:
        found["output.weight"] = (model.vocab_size, d)
    for layer in range(model.layers):
        for name, (inputs, outputs) in zip(names, model.block, strict=True):
            found[f"blk.{layer}.{name}.weight"] = (outputs, inputs)
    found["vectors"] = (model.other_parameters - (1 if model.tied else 2) * model.vocab_size * d,)
    return found


def file_bytes(shapes: Mapping[str, Shape], quant: str, vocabulary: int) -> int:
    """A GGUF file of type ``quant`` (one of ``catalog.QUANTS``), in bytes. ``shapes``: each tensor's by its GGUF name;
    ``vocabulary``: what its tokens take, see :func:`vocabulary_bytes`."""
    return weight_bytes(shapes, quant) + vocabulary + _TABLE_ENTRY * len(shapes) + _SETTINGS


def weight_bytes(shapes: Mapping[str, Shape], quant: str) -> int:
    """The tensors alone."""
    layers = sum(name.endswith(".ffn_down.weight") for name in shapes)
    output = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    total = 0
    for name, shape in shapes.items():
        block, size = BLOCKS[_type(quant, name, shape, layers, name == output)]
        total += math.prod(shape) // block * size
    return total


def saves_little(shapes: Mapping[str, Shape], quant: str) -> bool:
    """Whether a type is far from what its name promises: most weights lie in rows that are no multiple of its block,
    and get more bits."""
    block = BLOCKS.get(_MIXED.get(quant, quant), (1, 0))[0]
    if block != BLOCKS["q6_k"][0]:
        return False
    matrices = [shape for shape in shapes.values() if len(shape) > 1]
    misfits = sum(math.prod(shape) for shape in matrices if shape[-1] % block)
    return 2 * misfits > sum(map(math.prod, matrices))


def vocabulary_bytes(model: Model, folder: Path | None) -> int:
    """What the tokens, their types and their scores or merges take: by the tokenizer in ``folder``, else a guess."""
    try:
        spec: Any = msgspec.json.decode((folder / "tokenizer.json").read_bytes())["model"] if folder else {}
        vocabulary: list[str] = list(spec["vocab"])
        scored = bool(spec.get("byte_fallback"))  # SentencePiece's kind has scores, the others have merges
        merges: list[str | list[str]] = [] if scored else spec["merges"]
    except (OSError, msgspec.DecodeError, LookupError, TypeError):
        return _TOKEN * model.vocab_size
    each = 8 + 4 + 4 * scored  # length, type, score
    words = sum(each + len(word.encode()) for word in vocabulary)
    padding = (each + len("[PAD99999]")) * max(0, model.vocab_size - len(vocabulary))
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in merges)
    return words + padding + sum(8 + len(pair.encode()) for pair in pairs)


def _type(quant: str, name: str, shape: Shape, layers: int, is_output: bool) -> str:
    """The type that llama.cpp gives a tensor."""
    if len(shape) == 1 or name.endswith("_norm.weight"):
        return "f32"
    if quant in ("f16", "bf16"):
        return quant
    wanted = _MIXED.get(quant, quant)
    if is_output and wanted != "q8_0":
        wanted = "q8_0" if shape[-1] % BLOCKS[wanted][0] else "q6_k"
    elif quant in _MIXED and (found := re.match(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.", name)):
        wanted = "q6_k" if _more_bits(int(found[1]), layers) else wanted
    if shape[-1] % BLOCKS[wanted][0]:
        wanted = _FALLBACKS.get(wanted, "f16")
    return "f16" if shape[-1] % BLOCKS[wanted][0] else wanted


def _more_bits(layer: int, layers: int) -> bool:
    """Whether a layer's values and ``ffn_down`` get more bits: the first and last eighth, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
