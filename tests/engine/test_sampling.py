"""What the sampler returns is what was sampled, with the probability it had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from rlhf_lite import catalog, paths
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.rollout import logprobs_of
from rlhf_lite.engine.sampling import Samples, sample, seeded
from rlhf_lite.settings import Inputs

QUESTIONS = [
    "How do I sleep better?",
    "What should I cook tonight for two friends?",
    "Tea?",
    "How can I learn to swim?",
]


@pytest.fixture(scope="module")
def base() -> SharedBase:
    return SharedBase.load(
        Inputs(stage="eval", project="", model=str(paths.demo_model()), quantization="nf4", seed=0)
    )


@pytest.fixture(scope="module")
def prompts(base: SharedBase) -> list[list[int]]:
    return [text.prompt_ids(base.tokenizer, [{"role": "user", "content": q}]) for q in QUESTIONS]


def draw(
    base: SharedBase, prompts: list[list[int]], *, limit: int = 96, batch: int = 64, greedy: bool = False
) -> Samples:
    with base.view(None):
        return sample(
            base,
            prompts,
            max_new_tokens=limit,
            batch_size=batch,
            generator=seeded(base.device, 0, 1),
            greedy=greedy,
        )


def test_logprobs_are_those_of_a_plain_forward_pass(base: SharedBase, prompts: list[list[int]]) -> None:
    found = draw(base, prompts * 4)
    forced = logprobs_of(base, None, prompts * 4, found.completions, 16)
    for sampled, expected in zip(found.logprobs, forced, strict=True):
        assert torch.allclose(torch.tensor(sampled), expected, atol=2e-4)


def test_greedy_is_what_transformers_generates(base: SharedBase, prompts: list[list[int]]) -> None:
    found = draw(base, prompts, greedy=True)
    for prompt, completion in zip(prompts, found.completions, strict=True):
        ids = torch.tensor([prompt])
        theirs = base.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=96,
            eos_token_id=sorted(base.stops),
        )
        assert completion == theirs[0, len(prompt) :].tolist()


def test_sampling_follows_the_softmax(base: SharedBase, prompts: list[list[int]]) -> None:
    """Pearson's χ² of 2,000 first tokens against the model's own distribution, rare tokens pooled."""
    n = 2000
    found = draw(base, [prompts[0]] * n, limit=1, batch=500)
    ids = torch.tensor([prompts[0]])
    with torch.no_grad(), base.view(None):
        probabilities = torch.softmax(base.model(ids).logits[0, -1].double(), -1)
    seen = torch.bincount(
        torch.tensor([c[0] for c in found.completions]), minlength=len(probabilities)
    ).double()
    common = probabilities * n >= 5
    observed = torch.cat([seen[common], seen[~common].sum()[None]])
    expected = torch.cat([probabilities[common], probabilities[~common].sum()[None]]) * n
    statistic = float(((observed - expected) ** 2 / expected).sum())
    degrees = len(observed) - 1
    assert degrees >= 5
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations of χ²


def test_rows_that_have_ended_say_nothing_more_and_order_is_kept(
    base: SharedBase, prompts: list[list[int]]
) -> None:
    together = draw(base, prompts, greedy=True)
    alone = [draw(base, [p], greedy=True).completions[0] for p in prompts]
    assert together.completions == alone
    assert len({len(c) for c in together.completions}) > 1


def test_nothing_is_longer_than_asked(base: SharedBase, prompts: list[list[int]]) -> None:
    found = draw(base, prompts, limit=5)
    assert all(len(c) <= 5 for c in found.completions)
    assert found.ended == [c[-1] in base.stops for c in found.completions]


def test_the_same_seed_samples_the_same(base: SharedBase, prompts: list[list[int]]) -> None:
    assert draw(base, prompts).completions == draw(base, prompts).completions


def test_a_row_that_has_ended_costs_nothing_more(
    base: SharedBase, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is asked as often as the longest answer has tokens, whenever the others ended."""
    asked: list[int] = []
    handle = base.model.register_forward_hook(lambda *_: asked.append(1))
    try:
        found = draw(base, prompts * 6)
    finally:
        handle.remove()
    lengths = sorted(len(c) for c in found.completions)
    assert lengths[0] < lengths[-1] < 96
    assert len(asked) == lengths[-1]


@pytest.mark.parametrize("tokens", [1, 12, 40])
def test_answers_are_the_same_in_however_many_parts_prompts_are_read(
    tokens: int, base: SharedBase, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "PROMPT_TOKENS_AT_ONCE", 10**9)
    whole = draw(base, prompts)
    monkeypatch.setattr(catalog, "PROMPT_TOKENS_AT_ONCE", tokens)
    asked: list[int] = []
    handle = base.backbone.register_forward_pre_hook(
        lambda module, args, named: asked.append(named["input_ids"].numel()), with_kwargs=True
    )
    try:
        parts = draw(base, prompts)
    finally:
        handle.remove()
    assert max(asked) <= max(tokens, len(prompts))
    assert parts.completions == whole.completions
    for found, expected in zip(parts.logprobs, whole.logprobs, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("tokens", [4096, 20])
def test_a_sliding_window_slides(
    tokens: int, tmp_path: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy answers of a model whose layers see 8 tokens back, prompts of unequal length, as transformers has them."""
    monkeypatch.setattr(catalog, "PROMPT_TOKENS_AT_ONCE", tokens)  # in one pass, and in parts
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=8192, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(paths.demo_model()).save_pretrained(tmp_path)
    inputs = Inputs(stage="eval", project="", model=str(tmp_path), quantization="32bit", seed=0)
    windowed = SharedBase.load(inputs)
    found = draw(windowed, prompts, limit=24, greedy=True)
    for prompt, completion in zip(prompts, found.completions, strict=True):
        ids = torch.tensor([prompt])
        theirs = windowed.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24,
            eos_token_id=sorted(windowed.stops),
        )  # fmt: skip
        assert completion == theirs[0, len(prompt) :].tolist()
