"""The wrapper of llama.cpp: exact bytes, exact sampling, a cache that changes nothing, errors that say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_models import CHAT, LONG_TOKEN, demo_gguf, demo_model, tiny_gguf, tiny_model, write

from rlhf_lite.engine.chat_template import compile_template, render_template
from rlhf_lite.engine.drawing import draw
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.offload import Place
from rlhf_lite.errors import DataError, UserError

QUESTION = [{"role": "user", "content": "How do I boil an egg?"}]


@pytest.fixture(scope="module")
def demo():
    with LlamaModel(demo_gguf(), n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def tiny():
    with LlamaModel(tiny_gguf("qwen2"), n_threads=1) as model:
        yield model


def test_pieces_are_exact_bytes_however_long(tiny: LlamaModel) -> None:
    ids = tiny.tokenize(LONG_TOKEN)
    assert len(ids) == 1
    assert tiny.piece(ids[0]) == LONG_TOKEN.encode()


@pytest.mark.parametrize("text", ["plain", "日本 🙂 é\n", f" {LONG_TOKEN}\t{LONG_TOKEN}", "<|im_start|>x"])
def test_tokenizing_loses_nothing(tiny: LlamaModel, text: str) -> None:
    assert b"".join(tiny.piece(t) for t in tiny.tokenize(text)).decode() == text


def test_control_tokens_in_plain_text(tiny: LlamaModel) -> None:
    assert len(tiny.tokenize("<|im_end|>")) == 1
    assert len(tiny.tokenize("<|im_end|>", special=False)) > 1


def test_a_character_split_over_tokens_arrives_whole(tiny: LlamaModel) -> None:
    ids = tiny.tokenize("a🙂b")
    assert len(ids) > 3  # the emoji takes several tokens
    pieces = list(tiny.stream_text(ids))
    assert "".join(pieces) == "a🙂b"
    assert "🙂" in pieces


def test_control_tokens_are_not_shown(tiny: LlamaModel) -> None:
    assert "".join(tiny.stream_text(tiny.tokenize("hi<|im_end|>"))) == "hi"


def test_half_a_character_at_the_end_is_marked(tiny: LlamaModel) -> None:
    ids = tiny.tokenize("🙂")
    assert "".join(tiny.stream_text(ids[:1])) == "\ufffd"


def test_sampling_at_temperature_one_is_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    rng = np.random.default_rng(0)
    drawn = np.bincount([draw(logits, 1.0, 1.0, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert drawn == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.012)  # 3.4 standard errors


def test_temperature_sharpens() -> None:
    logits = np.log(np.array([0.6, 0.4], dtype=np.float32))
    rng = np.random.default_rng(0)
    share = np.mean([draw(logits, 0.5, 1.0, rng) == 0 for _ in range(10_000)])
    assert share == pytest.approx(0.36 / 0.52, abs=0.016)  # p squared, renormalised


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = np.log(np.array([0.05, 0.3, 0.15, 0.5], dtype=np.float32))
    rng = np.random.default_rng(0)
    assert {draw(logits, 1.0, 0.7, rng) for _ in range(500)} == {1, 3}
    assert {draw(logits, 1.0, 0.01, rng) for _ in range(50)} == {3}


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
def test_a_large_vocabulary_is_drawn_from_as_the_definition_says(top_p: float) -> None:
    logits = np.random.default_rng(3).normal(0, 3, 5000).astype(np.float32)
    share = np.exp(logits.astype(np.float64) / 0.8)
    share /= share.sum()
    order = np.argsort(-share)
    outside = order[
        np.searchsorted(np.cumsum(share[order]), top_p) + 1 :
    ]  # beyond the smallest set that reaches it
    share[outside] = 0
    share /= share.sum()
    rng = np.random.default_rng(0)
    drawn = np.bincount([draw(logits, 0.8, top_p, rng) for _ in range(20_000)], minlength=5000) / 20_000
    assert drawn[share == 0].sum() == 0
    error = np.sqrt(share * (1 - share) / 20_000)
    assert np.all(np.abs(drawn - share) < 5 * error + 2 / 20_000)


def test_greedy_takes_the_likeliest() -> None:
    assert draw(np.array([0.0, 3.0, 1.0], dtype=np.float32), 0.0, 1.0, np.random.default_rng()) == 1


def test_nan_logits_are_an_error() -> None:
    with pytest.raises(DataError, match="number"):
        draw(np.array([0.0, np.nan], dtype=np.float32), 1.0, 1.0, np.random.default_rng())


def test_a_seed_repeats_and_another_differs(demo: LlamaModel) -> None:
    ids = demo.tokenize(demo.render(QUESTION))
    one, same, other = (list(demo.generate(ids, max_tokens=24, seed=s)) for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_an_answer_ends_with_its_stop_token(demo: LlamaModel) -> None:
    answer = list(demo.generate(demo.tokenize(demo.render(QUESTION)), max_tokens=300, temperature=0))
    assert demo.is_eog(answer[-1])
    assert not any(demo.is_eog(t) for t in answer[:-1])


def test_max_tokens(demo: LlamaModel) -> None:
    ids = demo.tokenize(demo.render(QUESTION))
    assert len(list(demo.generate(ids, max_tokens=3, temperature=0))) == 3
    assert list(demo.generate(ids, max_tokens=0)) == []


def test_reusing_the_cache_changes_nothing(demo: LlamaModel) -> None:
    first = demo.tokenize(demo.render(QUESTION))
    answer = list(demo.generate(first, max_tokens=20, temperature=0))
    longer = first + answer + demo.tokenize("\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n")
    reused = list(demo.generate(longer, max_tokens=20, temperature=0))
    with LlamaModel(demo_gguf(), n_threads=1) as fresh:
        assert list(fresh.generate(longer, max_tokens=20, temperature=0)) == reused
    assert list(demo.generate(first, max_tokens=20, temperature=0)) == answer


def test_a_stop_is_heard_inside_the_prompt_and_what_was_evaluated_stays(demo: LlamaModel) -> None:
    ids = demo.tokenize(demo.render([{"role": "user", "content": "word " * 300}]))
    expected = list(demo.generate(ids, max_tokens=4, temperature=0))
    for patience in (0, 1, 5, 50):
        demo.generate([7, 8], max_tokens=1).__next__()  # nothing of the prompt is in the cache any more
        asked = 0

        def cancelled(patience: int = patience) -> bool:
            nonlocal asked
            asked += 1
            return asked > patience

        assert len(list(demo.generate(ids, max_tokens=4, temperature=0, cancelled=cancelled))) <= 1
        assert asked <= patience + 2
        assert list(demo.generate(ids, max_tokens=4, temperature=0)) == expected


def test_any_whole_number_is_a_seed(demo: LlamaModel) -> None:
    ids = demo.tokenize(demo.render(QUESTION))
    one, same = (list(demo.generate(ids, max_tokens=8, seed=s)) for s in (-5, -5))
    assert one == same
    assert list(demo.generate(ids, max_tokens=2, seed=2**80))


def test_generation_follows_the_logits(demo: LlamaModel) -> None:
    ids = demo.tokenize(demo.render(QUESTION))
    answer = list(demo.generate(ids, max_tokens=12, temperature=0))
    rows = demo.logits(ids + answer)
    assert rows.shape == (len(ids) + len(answer), demo.n_vocab)
    assert rows[len(ids) - 1 : -1].argmax(-1).tolist() == answer


def test_a_full_context_ends_the_answer() -> None:
    with LlamaModel(tiny_gguf("qwen2"), place=lambda _: Place(256), n_threads=1) as model:
        ids = [5 + i % 200 for i in range(250)]
        assert len(list(model.generate(ids, max_tokens=100, temperature=0))) <= 6
        with pytest.raises(UserError, match="context holds 256"):
            next(model.generate(ids * 2, max_tokens=1))
        with pytest.raises(UserError):
            model.logits([])


def test_cancelling_stops_before_the_next_token(demo: LlamaModel) -> None:
    ids = demo.tokenize(demo.render(QUESTION))
    seen: list[int] = []
    for token in demo.generate(ids, max_tokens=50, cancelled=lambda: len(seen) >= 2):
        seen.append(token)
    assert len(seen) <= 3
    assert list(demo.generate(ids, max_tokens=50, cancelled=lambda: True)) == []


def test_context_is_capped_at_what_the_model_was_trained_on(tiny: LlamaModel) -> None:
    assert tiny.n_ctx == 512


def test_a_template_that_refuses_a_conversation() -> None:
    template = compile_template("{{ raise_exception('system is not for me') }}")
    with pytest.raises(UserError, match="refuses") as caught:
        render_template(template, CHAT, {})
    assert "system is not for me" in caught.value.why


@pytest.mark.parametrize(
    "source", ["{{ messages.__class__.__mro__ }}", "{% for i in range(100000000) %}{% endfor %}"]
)
def test_a_hostile_template_is_stopped(source: str) -> None:
    with pytest.raises(UserError):
        render_template(compile_template(source), CHAT, {})


def test_tojson_does_not_escape_for_html() -> None:
    template = compile_template("{{ messages[0]['content'] | tojson }}")
    assert render_template(template, [{"role": "user", "content": "a<b é"}], {}) == '"a<b é"'


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        LlamaModel(tmp_path / "none.gguf")


@pytest.mark.parametrize("content", [b"", b"GGU", b"hello, this is text"])
def test_a_file_that_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(DataError, match="not a GGUF"):
        LlamaModel(tmp_path / "x.gguf")


@pytest.mark.parametrize("keep", [4, 24, 5000, -1])
def test_a_truncated_file_says_what_is_wrong(tmp_path: Path, keep: int) -> None:
    (tmp_path / "x.gguf").write_bytes(tiny_gguf("qwen2").read_bytes()[:keep])
    with pytest.raises(DataError, match="cannot load") as caught:
        LlamaModel(tmp_path / "x.gguf")
    assert len(caught.value.why) > 10


def test_damaged_weights_do_not_answer(tmp_path: Path) -> None:
    raw = bytearray(tiny_gguf("qwen2").read_bytes())
    raw[len(raw) // 2 :] = b"\xff" * (len(raw) - len(raw) // 2)
    (tmp_path / "x.gguf").write_bytes(raw)
    with LlamaModel(tmp_path / "x.gguf", n_threads=1) as model, pytest.raises(DataError, match="number"):
        next(model.generate([5, 6, 7], max_tokens=1))


def test_the_model_has_a_name(tmp_path: Path) -> None:
    assert demo_model().is_dir()
    with LlamaModel(write(tmp_path / "m.gguf", tiny_model("qwen3")), n_threads=1) as model:
        assert model.name == "test"
