"""The built-in model as it is shipped: what everything else takes for granted about it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

ASSETS = Path(__file__).resolve().parents[2] / "assets"
sys.path.insert(0, str(ASSETS / "demo_model_build"))

import check  # noqa: E402  (a plain script, made importable above)
import corpus  # noqa: E402

FOLDER = ASSETS / "demo-model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def nf4():
    return check.load_nf4(FOLDER)


@pytest.fixture(scope="module")
def said(nf4, tokenizer):
    """One answer to each of 100 held-out prompts."""
    prompts = corpus.held_out_prompts(100, check.CHECK_SEED)
    return prompts, check.answer(nf4, tokenizer, [prompt.text for prompt in prompts], seed=0)


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 8_000_000


def test_its_weights_are_few_in_16_bit_and_of_widths_that_k_quants_take() -> None:
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 3_800_000
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert not [name for name, tensor in tensors.items() if tensor.shape[-1] % 256]


def test_it_reads_a_thousand_tokens(nf4) -> None:
    assert nf4.config.max_position_embeddings >= 1024


def test_padding_is_not_the_end_of_text_and_generation_knows_both(nf4, tokenizer) -> None:
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|im_end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert nf4.generation_config.eos_token_id == nf4.config.eos_token_id == tokenizer.eos_token_id
    assert nf4.generation_config.pad_token_id == nf4.config.pad_token_id == tokenizer.pad_token_id


def test_its_template_is_chatml_without_a_default_system_message(tokenizer) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (
        rendered == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "system" not in tokenizer.apply_chat_template(messages[1:], tokenize=False)


def test_its_tokenizer_holds_any_text_and_reads_control_tokens_whole(tokenizer) -> None:
    text = "Café, 12 €?\n- naïve 🙂  two  spaces"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("<|im_start|><|im_end|><|pad|>")) == 3


def test_its_answers_end_stay_on_topic_and_show_every_manner(said) -> None:
    prompts, answers = said
    found = check.shares(prompts, answers.texts, answers.ended)
    assert not {name: share for name, share in found.items() if share < check.least(name)}


def test_the_same_question_gets_answers_in_different_manners(nf4, tokenizer) -> None:
    answers = check.answer(nf4, tokenizer, ["How do I sleep better?"] * 16, seed=1).texts
    assert len(set(answers)) == 16
    for pole in check.manners.POLES:
        assert 0 < sum(check.judge.has(pole, text) for text in answers) < 16, pole


def test_rounding_the_stored_weights_to_nf4_loses_next_to_nothing(nf4, tokenizer, said) -> None:
    kl = check.kl_between(nf4, check.load_unquantized(FOLDER), tokenizer, said[1])
    assert 0 <= kl < 0.05  # nats an answer
