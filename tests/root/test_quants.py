"""What a file will take on disk, by config alone, against files that llama.cpp wrote."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from rlhf_lite import catalog, quants

QWEN = catalog.find_model("Qwen2.5-0.5B-Instruct")


# MB of files of this shape that were made with llama.cpp; its rows of 896 are no multiple of 256.
@pytest.mark.parametrize(
    ("quant", "written"), [("f16", 994), ("q8_0", 531), ("q5_k_m", 420), ("q4_k_m", 398)]
)
def test_sizes_of_files_that_were_written(quant: str, written: float) -> None:
    told = quants.file_bytes(quants.tensors(QWEN), quant, quants.vocabulary_bytes(QWEN, None))
    assert told == pytest.approx(written * 1e6, rel=0.01)


def test_every_offered_type_has_a_size_and_a_finer_one_is_larger() -> None:
    shapes = quants.tensors(catalog.find_model("Llama-3.2-1B-Instruct"))
    sizes = [quants.file_bytes(shapes, quant, 0) for quant in catalog.QUANTS]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("name", "coarse"),
    [("Qwen2.5-0.5B-Instruct", True), ("SmolLM2-135M-Instruct", True), ("Llama-3.2-1B-Instruct", False)],
)
def test_types_that_save_little_for_a_shape_are_told(name: str, coarse: bool) -> None:
    shapes = quants.tensors(catalog.find_model(name))
    told = {quant for quant in catalog.QUANTS if quants.saves_little(shapes, quant)}
    assert told == ({"q6_k", "q5_k_m", "q4_k_m"} if coarse else set())


def test_rows_that_fit_nothing_stay_in_16_bits() -> None:
    """llama.cpp falls back twice: to blocks of 32, then to F16."""
    odd = msgspec.structs.replace(QWEN, hidden_size=100)
    shapes = {n: s for n, s in quants.tensors(odd).items() if s[-1] == 100 and len(s) > 1}
    assert quants.weight_bytes(shapes, "q4_k_m") == quants.weight_bytes(shapes, "f16")


def test_a_tokenizer_at_hand_is_counted_word_for_word(tmp_path: Path) -> None:
    model = msgspec.structs.replace(QWEN, vocab_size=3)
    spec = {"vocab": {"a": 0, "é": 1}, "merges": ["a é"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": spec}))
    # GGUF: a text is its length in 8 bytes and itself; a token has a type of 4 bytes; the third is padding.
    tokens, merge, padding = (8 + 1 + 4) + (8 + 2 + 4), 8 + 4, 8 + len("[PAD99999]") + 4
    assert quants.vocabulary_bytes(model, tmp_path) == tokens + merge + padding


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"model": {"type": "WordPiece"}}'])
def test_a_tokenizer_that_cannot_be_read_is_guessed(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert quants.vocabulary_bytes(QWEN, tmp_path) == quants.vocabulary_bytes(QWEN, None) > 0
