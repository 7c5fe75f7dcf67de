"""The proof of an export: a right file passes, and each way to break one is caught by the step that should."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from export_models import demo_model, lora, silent, write
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lite import report
from rlhf_lite.engine import text
from rlhf_lite.engine.export.quantize import find_quant
from rlhf_lite.engine.export.reference import Answered, Reference
from rlhf_lite.engine.export.verify import (
    Parity,
    Positions,
    flip_cost,
    follows,
    kept_share,
    kl_per_position,
    measure,
    require,
)
from rlhf_lite.engine.export.worker import LlamaWorker
from rlhf_lite.errors import JobError

PROMPT = [{"role": "user", "content": "How do I boil an egg?"}]
TEMPLATE, EOS = "tokenizer.chat_template", "tokenizer.ggml.eos_token_id"
ADD_BOS, BOS = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"
F16 = find_quant("f16")


class Remembered(Reference):
    """The tuned model, asked once for what several files are measured against."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._known: dict[Any, Any] = {}

    def _once(self, key: Any, ask: Any) -> Any:
        if key not in self._known:
            self._known[key] = ask()
        return self._known[key]

    def answer(self, messages: Any) -> Answered:
        template = self.tokenizer.chat_template
        return self._once(
            ("answer", str(template), str(messages)), lambda: super(Remembered, self).answer(messages)
        )

    def log_probs(self, ids: list[int]) -> np.ndarray:
        return self._once(("tuned", *ids), lambda: super(Remembered, self).log_probs(ids))

    def base_log_probs(self, ids: list[int]) -> np.ndarray:
        with self.model.disable_adapter():  # type: ignore[operator]
            return self._once(("base", *ids), lambda: super(Remembered, self).log_probs(ids))


@pytest.fixture(scope="module")
def reference() -> Reference:
    model = demo_model()
    tokenizer = text.load_tokenizer(str(model), trust_remote_code=False, plain_template=False)
    return Remembered.load(model, "32bit", lora("demo"), tokenizer, text.stop_ids(str(model), tokenizer))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tuned model in a file, its adapter merged by PEFT."""
    folder = tmp_path_factory.mktemp("proof")
    base = AutoModelForCausalLM.from_pretrained(demo_model(), dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(base, str(lora("demo"))).merge_and_unload()
    merged.save_pretrained(folder / "tuned")
    AutoTokenizer.from_pretrained(demo_model()).save_pretrained(folder / "tuned")
    return write(folder / "good.gguf", folder / "tuned")


def altered(source: Path, target: Path, change: dict[str, Any], swap: tuple[str, str] | None = None) -> Path:
    """The file again with metadata changed, or left out where None, and two tensors in each other's place."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    fields = {k: v for k, v in reader.fields.items() if not k.startswith(("GGUF.", "general.architecture"))}
    for key, field in fields.items():
        value = change.get(key, field.contents())
        if value is not None:
            sub = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value, field.types[0], sub)
    for key in change.keys() - fields.keys():
        writer.add_uint32(key, change[key])
    names = dict(zip(swap, swap[::-1], strict=True)) if swap else {}
    for tensor in reader.tensors:
        writer.add_tensor(names.get(tensor.name, tensor.name), tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.fixture(scope="module")
def worker() -> Iterator[LlamaWorker]:
    with LlamaWorker(1) as child:
        yield child


def proof(reference: Reference, worker: LlamaWorker, file: Path, quant: str = "f16") -> Parity:
    worker.open(file)
    return measure(reference, worker, [PROMPT], find_quant(quant), silent)


def failing(parity: Parity) -> str:
    """The steps that the proof names."""
    with pytest.raises(JobError) as caught:
        require(parity, F16, "f16")
    return "; ".join(step.split(":")[0] for step in caught.value.why.split("; "))


def test_a_right_file_passes(reference: Reference, worker: LlamaWorker, good: Path) -> None:
    parity = proof(reference, worker, good)
    require(parity, F16, "f16")
    assert parity.greedy_identical == 1
    assert parity.kept == pytest.approx(1, abs=0.01)


def test_the_base_without_its_tune_keeps_nothing(
    reference: Reference, worker: LlamaWorker, tmp_path: Path
) -> None:
    parity = proof(reference, worker, write(tmp_path / "base.gguf", demo_model()))
    assert parity.kept == pytest.approx(0, abs=0.01)
    assert "logits" in failing(parity)


def test_quantizing_keeps_a_part(
    reference: Reference, worker: LlamaWorker, good: Path, tmp_path: Path
) -> None:
    kept = []
    for name in ("q8_0", "q6_k", "q4_0"):
        worker.quantize(good, tmp_path / name, find_quant(name).ftype)
        parity = proof(reference, worker, tmp_path / name, name)
        require(parity, find_quant(name), name)
        assert parity.kept is not None
        kept.append(parity.kept)
    assert 1 > kept[0] > kept[1] > kept[2] >= 0


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "another template": ("chat template", {TEMPLATE: text.CHATML.replace("assistant\n", "assistant: ")}),
    "no template": ("chat template", {TEMPLATE: None}),
    "a broken template": ("chat template", {TEMPLATE: "{% for m in messages %}"}),
    "a BOS that was never there": ("BOS", {ADD_BOS: True, BOS: 5}),
    "an EOS behind the prompt": ("BOS", {"tokenizer.ggml.add_eos_token": True}),
    "another end token": ("end tokens", {EOS: 200}),
    "no end token named": ("end tokens", {EOS: None}),
    "rope turning slower": ("logits", {"llama.rope.freq_base": 500000.0}),
    "another norm": ("logits", {"llama.attention.layer_norm_rms_epsilon": 0.5}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_named(
    how: str, reference: Reference, worker: LlamaWorker, good: Path, tmp_path: Path
) -> None:
    step, change = BROKEN[how]
    parity = proof(reference, worker, altered(good, tmp_path / "broken.gguf", change))
    assert failing(parity).startswith(step)


@pytest.mark.parametrize(
    "swap",
    [
        ("blk.0.attn_q.weight", "blk.1.attn_q.weight"),
        ("blk.2.ffn_up.weight", "blk.2.ffn_gate.weight"),
        ("blk.1.attn_norm.weight", "blk.1.ffn_norm.weight"),
    ],
)
def test_a_swapped_tensor_is_named(
    swap: tuple[str, str], reference: Reference, worker: LlamaWorker, good: Path, tmp_path: Path
) -> None:
    parity = proof(reference, worker, altered(good, tmp_path / "broken.gguf", {}, swap))
    assert failing(parity).startswith("logits")


def test_a_swapped_token_is_named(
    reference: Reference, worker: LlamaWorker, good: Path, tmp_path: Path
) -> None:
    tokens = gguf.GGUFReader(good).fields["tokenizer.ggml.tokens"].contents()
    one, two = (reference.tokenizer.convert_tokens_to_ids(token) for token in ("Ġ", "Ċ"))
    tokens[one], tokens[two] = tokens[two], tokens[one]
    parity = proof(reference, worker, altered(good, tmp_path / "x.gguf", {"tokenizer.ggml.tokens": tokens}))
    assert failing(parity).startswith("token ids")


def test_an_end_in_the_middle_of_an_answer_is_named(
    reference: Reference, worker: LlamaWorker, good: Path, tmp_path: Path
) -> None:
    """Scores of a given text cannot show it: only answering does."""
    word = reference.answer(PROMPT).answer_ids[2]
    parity = proof(
        reference, worker, altered(good, tmp_path / "x.gguf", {"tokenizer.ggml.eom_token_id": word})
    )
    assert failing(parity) == "greedy text"
    assert parity.greedy_identical == 0


def test_a_lost_bos_is_named(reference: Reference, worker: LlamaWorker, good: Path, tmp_path: Path) -> None:
    """A model whose chats begin with a BOS, as Llama's and Gemma's do."""
    tokenizer = copy.deepcopy(reference.tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.get_chat_template()
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)
    begins = Remembered(reference.model, tokenizer, reference.stops)
    change = {TEMPLATE: tokenizer.chat_template, BOS: 0, ADD_BOS: True}
    require(proof(begins, worker, altered(good, tmp_path / "right.gguf", change)), F16, "f16")
    broken = altered(good, tmp_path / "broken.gguf", {**change, ADD_BOS: False})
    assert failing(proof(begins, worker, broken)) == "BOS"
    other = altered(good, tmp_path / "other.gguf", {**change, BOS: 7})
    assert failing(proof(begins, worker, other)).startswith("chat template; BOS")


def even(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities))


def test_the_cost_of_a_flip_is_the_least_kl_that_can_bring_it() -> None:
    p = even(0.5, 0.3, 0.2)
    cost = flip_cost(p, 0, 1)
    shares = np.linspace(0.01, 0.99, 197)
    others = np.array([[s * (1 - r), (1 - s) * (1 - r), r] for s in shares[shares <= 0.5] for r in shares])
    assert cost == pytest.approx(kl_per_position(p, np.log(others)).min(), rel=1e-2)
    assert flip_cost(p, 1, 0) == 0
    assert flip_cost(even(0.5, 0.5, 1e-9), 0, 1) == 0


def parted(
    tuned: np.ndarray, file: np.ndarray, found: list[int], quant: str, own: tuple[int, ...] = (0, 2)
) -> bool:
    answer = Answered("", [1, 1], [1, 1, *own], ended=True)
    rows = np.tile(even(0.2, 0.2, 0.6), (4, 1))
    one, two = rows.copy(), rows.copy()
    one[1], two[1] = tuned, file  # what is foretold behind the prompt
    return follows(answer, found, one, two, find_quant(quant))


def test_a_greedy_answer_may_part_at_a_near_tie() -> None:
    tied, other = even(0.4001, 0.3999, 0.2), even(0.3999, 0.4001, 0.2)
    assert parted(tied, tied, [0, 2], "f16")
    assert parted(tied, other, [1, 0, 0, 1], "f16")


def test_a_16_bit_file_may_not_turn_a_clear_choice_and_a_quantized_one_may() -> None:
    clear, turned = even(0.5, 0.3, 0.2), even(0.35, 0.45, 0.2)
    assert not parted(clear, turned, [1, 2], "f16")
    assert parted(clear, turned, [1, 2], "q4_0")


def test_a_file_that_says_what_it_does_not_prefer_fails_whatever_its_type() -> None:
    clear = even(0.5, 0.3, 0.2)
    assert not parted(clear, clear, [1, 2], "q4_0")


@pytest.mark.parametrize("found", [[0], [0, 2, 2]])
def test_an_answer_may_not_end_early_or_go_on(found: list[int]) -> None:
    tied = even(0.4, 0.4, 0.2)
    assert not parted(tied, tied, found, "q4_0")


def positions(kl: float, tune: float, own: int = 10) -> Positions:
    """Twenty positions, of which the last ``own`` are the answer's; the prompt's must not count."""
    answer = np.arange(20) >= 20 - own
    return Positions(
        np.where(answer, kl, 9.0), np.ones(20, bool), np.where(answer, tune, 9.0 * bool(tune)), answer
    )


def test_how_much_of_the_tune_is_kept() -> None:
    assert kept_share(positions(0.006, 0.2)) == pytest.approx(0.97)
    assert kept_share(positions(0.3, 0.2)) == 0
    assert kept_share(positions(0.0, 0.0)) is None


def test_what_is_kept_is_the_gain_in_log_likelihood() -> None:
    """On the tuned model's own words: E[log file - log base] of E[log tuned - log base]."""
    rng = np.random.default_rng(0)
    tuned, file, base = np.log(rng.dirichlet(np.ones(5), (3, 20)) + 0.05)
    tuned, file, base = (
        p - np.log(np.exp(p).sum(-1, keepdims=True)) for p in (tuned, 0.9 * tuned + 0.1 * file, base)
    )
    gain = (np.exp(tuned) * (file - base)).sum() / (np.exp(tuned) * (tuned - base)).sum()
    measured = Positions(
        kl_per_position(tuned, file), np.ones(20, bool), kl_per_position(tuned, base), np.ones(20, bool)
    )
    assert kept_share(measured) == pytest.approx(gain)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.99999, "keeps more than 99.9 % of the change"),
        (0.9978, "keeps 99.7 % of the change"),
        (0.9799, "keeps 97 % of the change"),
        (0.2, "keeps 20 % of the change: a larger type keeps more"),
        (None, ""),
    ],
)
def test_what_is_kept_in_one_sentence(share: float | None, said: str) -> None:
    assert report.kept({"kept": share}) == said
