"""Models known to work, by the numbers of their configs; quantizations that can be exported; what trains at once."""

from __future__ import annotations

import difflib
from pathlib import Path

from rlhf_lite import paths, shapes
from rlhf_lite.errors import UserError
from rlhf_lite.shapes import Model

TOKENS_AT_ONCE = 8192  # of supervised training, in one forward and backward pass; larger batches accumulate
PROMPT_TOKENS_AT_ONCE = 4096  # of a batch that is to be answered, in one forward pass
LOGITS_AT_ONCE = 256  # tokens whose logits are there together when log-probabilities are read
PAIRS_AT_ONCE = 4  # at most, of those held out: logits of short texts are not held in check by their tokens
QUANTS: tuple[str, ...] = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")

# vocabulary, hidden, intermediate, layers, heads, key-value heads, head width, tied, context: from each config.json
MODELS: tuple[Model, ...] = (
    Model("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 49152, 576, 1536, 30, 9, 3, 64, True, 8192),
    Model("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 49152, 960, 2560, 32, 15, 5, 64, True, 8192),
    Model("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 151936, 896, 4864, 24, 14, 2, 64, True, 32768),
    Model("Qwen/Qwen3-0.6B", "qwen3", 151936, 1024, 3072, 28, 16, 8, 128, True, 40960),
    Model("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama", 32000, 2048, 5632, 22, 32, 4, 64, False, 2048),
    Model("meta-llama/Llama-3.2-1B-Instruct", "llama", 128256, 2048, 8192, 16, 32, 8, 64, True, 131072),
    Model("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 151936, 1536, 8960, 28, 12, 2, 128, True, 32768),
    Model("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 49152, 2048, 8192, 24, 32, 32, 64, True, 8192),
    Model("Qwen/Qwen3-1.7B", "qwen3", 151936, 2048, 6144, 28, 16, 8, 128, True, 40960),
    Model("Qwen/Qwen2.5-3B-Instruct", "qwen2", 151936, 2048, 11008, 36, 16, 2, 128, True, 32768),
    Model("meta-llama/Llama-3.2-3B-Instruct", "llama", 128256, 3072, 8192, 28, 24, 8, 128, True, 131072),
    Model("Qwen/Qwen3-4B", "qwen3", 151936, 2560, 9728, 36, 32, 8, 128, True, 40960),
    Model("Qwen/Qwen2.5-7B-Instruct", "qwen2", 152064, 3584, 18944, 28, 28, 4, 128, False, 32768),
)


def micro_batch(batch_size: int, longest: int) -> int:
    """The largest divisor of the batch size whose rows, padded to the longest, stay within :data:`TOKENS_AT_ONCE`."""
    divisors = (n for n in range(batch_size, 0, -1) if batch_size % n == 0)
    return next((n for n in divisors if n * longest <= TOKENS_AT_ONCE), 1)


def prompt_columns(rows: int) -> int:
    """How much of so many prompts is read at once, in tokens of each."""
    return max(1, PROMPT_TOKENS_AT_ONCE // rows)


def find_model(name: str) -> Model:
    """A model by ``"demo"``, by its folder, or by its hub id or the last part of one.

    Raises:
        UserError: no such folder, and no id that is known here; the nearest one is named.
        DataError: as :func:`rlhf_lite.shapes.read`.
    """
    folder = paths.demo_model() if name == "demo" else Path(name).expanduser()
    if folder.is_dir():
        return shapes.read(folder, name)
    for model in MODELS:
        if name.lower() in (model.id.lower(), model.id.split("/")[1].lower()):
            return model
    near = difflib.get_close_matches(
        name, [i for m in MODELS for i in (m.id, m.id.split("/")[1])], 1, cutoff=0.5
    )
    raise UserError(
        f"no model {name}", why="it is no folder, and its size is not among those known here",
        hint=f"did you mean {near[0]}?" if near else "see `rlhf-lite models`, or name a downloaded model's folder",
    )  # fmt: skip
