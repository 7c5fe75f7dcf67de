"""A model's shape from what its publisher wrote into config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lite import shapes
from rlhf_lite.errors import DataError

LLAMA = {"model_type": "llama", "vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024,
         "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 2048}  # fmt: skip


def config(kind: str, *numbers: int, **more: Any) -> dict[str, Any]:
    """Vocabulary, hidden, intermediate, layers, heads, key-value heads, context."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings")  # fmt: skip
    return {"model_type": kind, **dict(zip(names, numbers, strict=True)), **more}


# Published configs, without the keys that no shape depends on, and the parameters as their publishers count them.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Mistral-7B-Instruct-v0.3": (
        config("mistral", 32768, 4096, 14336, 32, 32, 8, 32768, sliding_window=None), 7_248_023_552),
    "gemma-2-2b-it": (
        config("gemma2", 256000, 2304, 9216, 26, 8, 4, 8192, head_dim=256, sliding_window=4096), 2_614_341_888),
    "gemma-3-1b-it": (
        config("gemma3_text", 262144, 1152, 6912, 26, 4, 1, 32768, head_dim=256, sliding_window=512,
               sliding_window_pattern=6), 999_885_952),
    "gemma-3-4b-it": (
        {"model_type": "gemma3", "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "sliding_window": 1024},
         "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_attention_heads": 16,
                           "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}}, 4_300_079_472),
    "Phi-3-mini-4k-instruct": (
        config("phi3", 32064, 3072, 8192, 32, 32, 32, 4096, sliding_window=2047), 3_821_079_552),
    "SmolLM3-3B": (config("smollm3", 128256, 2048, 11008, 36, 16, 4, 65536, use_sliding_window=False), 3_075_098_624),
    "granite-3.3-2b-instruct": (
        config("granite", 49159, 2048, 8192, 40, 32, 8, 131072, tie_word_embeddings=True), 2_533_539_840),
    "OLMo-2-0425-1B-Instruct": (config("olmo2", 100352, 2048, 8192, 16, 16, 16, 4096), 1_484_916_736),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_published_number_of_parameters(name: str) -> None:
    raw, parameters = PUBLISHED[name]
    assert shapes.of_config(raw, name).parameters == parameters


def test_a_config_that_leaves_out_what_follows_from_the_rest() -> None:
    model = shapes.of_config(LLAMA, "llama")
    assert (model.kv_heads, model.head_dim, model.tied) == (8, 64, False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read"),
        ("{", "truncated"),
        ("[]", "object"),
        ('{"model_type": "t5", "d_model": 512}', "architecture t5"),
        ('{"vocab_size": 5}', "model_type"),
        (json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}), "hidden_size"),
        (json.dumps({**LLAMA, "num_hidden_layers": "two"}), "num_hidden_layers"),
        ('{"model_type": "gemma3", "vision_config": {}}', "hidden_size"),
        ('{"model_type": "gemma3", "text_config": 5}', "text_config"),
        (json.dumps({**LLAMA, "num_attention_heads": 0}), "num_attention_heads"),
    ],
)
def test_a_folder_that_cannot_be_planned_with_is_refused_with_the_reason(
    tmp_path: Path, text: str | None, why: str
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError) as caught:
        shapes.read(tmp_path, "some/model")
    assert why in caught.value.message + caught.value.why
    assert caught.value.hint
