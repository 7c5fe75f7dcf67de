"""One base, every role a view of it; and the traps that would spoil it silently."""

from __future__ import annotations

import gc
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from peft import PeftModel

from rlhf_lite import paths
from rlhf_lite.engine import rollout, text
from rlhf_lite.engine.base import SharedBase, load_causal_lm, pick_device
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.errors import CheckpointMismatch, DataError
from rlhf_lite.settings import Inputs, Lora, Ppo

MODEL = str(paths.demo_model())


def load_base() -> SharedBase:
    return SharedBase.load(Inputs(stage="ppo", project="", model=MODEL, quantization="nf4", seed=0))


@pytest.fixture
def base() -> SharedBase:
    return load_base()


def batch(base: SharedBase) -> text.Padded:
    prompts = [
        text.prompt_ids(base.tokenizer, [{"role": "user", "content": q}]) for q in ("How do I sleep?", "Tea?")
    ]
    completions = [text.completion_ids(base.tokenizer, a) for a in ("Open a window and rest.", "Yes, do.")]
    return text.pad(prompts, completions, base.pad, base.device)


def randomise(base: SharedBase, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in base.parameters(name):
            p.copy_(0.05 * torch.randn(p.shape, generator=generator))


def policy_gradient(base: SharedBase) -> torch.Tensor:
    with base.view("policy"):
        rollout.response_logprobs(base, batch(base)).sum().backward()
    found = torch.cat([p.grad.flatten().clone() for p in base.parameters("policy") if p.grad is not None])
    for p in base.parameters("policy"):
        p.grad = None
    return found


def four_bit_bytes() -> int:
    return sum(o.numel() for o in gc.get_objects() if isinstance(o, bnb.nn.Params4bit))


def test_policy_value_reward_and_reference_hold_one_copy_of_the_base() -> None:
    gc.collect()
    before = four_bit_bytes()
    base = load_base()
    alone = four_bit_bytes() - before
    for name in ("sft", "policy", "value", "reward"):
        base.add(name, Lora(), trainable=name in ("policy", "value"))
        with base.view(name), torch.no_grad():
            base.hidden(batch(base))
    gc.collect()
    assert alone > 0
    assert four_bit_bytes() - before == alone


def test_a_fresh_policy_is_the_reference_bit_for_bit(base: SharedBase) -> None:
    base.add("policy", Lora(), trainable=True)
    with torch.no_grad():
        with base.view(None):
            reference = base.hidden(batch(base))
        with base.view("policy"):
            policy = base.hidden(batch(base))
    assert torch.equal(reference, policy)


def test_a_policy_that_starts_from_sft_is_the_frozen_sft_bit_for_bit(
    base: SharedBase, tmp_path: Path
) -> None:
    base.add("first", Lora(), trainable=False)
    randomise(base, "first", 1)
    base.save_adapter("first", tmp_path / "sft")
    learner = Learner(load_base(), Ppo(), Lora(), start=tmp_path / "sft")
    with torch.no_grad():
        with learner.base.view(learner.reference):
            reference = learner.base.hidden(batch(base))
        with learner.base.view("policy"):
            policy = learner.base.hidden(batch(base))
        with learner.base.view(None):
            bare = learner.base.hidden(batch(base))
    assert torch.equal(reference, policy)
    assert not torch.allclose(bare, policy, atol=1e-3)


def test_switching_views_leaves_exactly_the_declared_parameters_trainable(base: SharedBase) -> None:
    base.add("sft", Lora(), trainable=False)
    base.add("policy", Lora(), trainable=True)
    base.add("value", Lora(), trainable=True)
    expected = {id(p) for name in ("policy", "value") for p in base.parameters(name)}
    for view in ("policy", None, "sft", "value", None, "policy"):
        with base.view(view):
            assert {id(p) for p in base.model.parameters() if p.requires_grad} == expected
        assert {id(p) for p in base.model.parameters() if p.requires_grad} == expected


def test_learner_trains_exactly_its_adapter_in_fp32(base: SharedBase) -> None:
    learner = Learner(base, Ppo(), Lora(), start=None)
    learner.check_trainable()
    base.parameters("policy")[0].requires_grad_(False)
    with pytest.raises(AssertionError):
        learner.check_trainable()


def test_views_do_not_nest(base: SharedBase) -> None:
    base.add("policy", Lora(), trainable=True)
    with base.view("policy"), pytest.raises(RuntimeError, match="nest"), base.view(None):
        pass


def test_gradients_are_the_same_before_and_after_a_rollout(base: SharedBase) -> None:
    """On CPUs with AVX512-BF16 an evaluation repacks 4-bit weights; later gradients would be wrong without an error."""
    base.add("policy", Lora(), trainable=True)
    randomise(base, "policy", 2)
    before = policy_gradient(base)
    prompt = text.prompt_ids(base.tokenizer, [{"role": "user", "content": "How do I sleep?"}])
    with base.view("policy"):
        sample(base, [prompt] * 4, max_new_tokens=8, batch_size=4, generator=seeded(base.device, 0, 0))
    assert torch.allclose(policy_gradient(base), before, rtol=1e-5, atol=1e-7)
    assert float(before.norm()) > 0


def test_checkpointed_gradients_survive_the_next_view(base: SharedBase) -> None:
    """Recomputation uses the adapter active at backward; the policy's backward runs before the value's view."""
    base.add("policy", Lora(), trainable=True)
    base.add("value", Lora(), trainable=True)
    randomise(base, "policy", 3)
    randomise(base, "value", 4)
    plain = policy_gradient(base)
    base.model.gradient_checkpointing_enable({"use_reentrant": False})
    base.model.train()
    checkpointed = policy_gradient(base)
    with base.view("value"):
        base.hidden(batch(base)).sum().backward()
    assert torch.allclose(checkpointed, plain, rtol=1e-4, atol=1e-6)


def test_a_saved_adapter_loads_with_plain_peft(base: SharedBase, tmp_path: Path) -> None:
    base.add("policy", Lora(), trainable=True)
    randomise(base, "policy", 5)
    base.save_adapter("policy", tmp_path / "adapter")
    padded = batch(base)
    with base.view("policy"), torch.no_grad():
        ours = base.hidden(padded)
    plain = PeftModel.from_pretrained(load_causal_lm(MODEL, "nf4", pick_device()), str(tmp_path / "adapter"))
    with torch.no_grad():
        theirs = plain.base_model.model.model(input_ids=padded.ids).last_hidden_state
    assert torch.equal(ours, theirs)


def test_an_adapter_for_another_model_is_refused(base: SharedBase, tmp_path: Path) -> None:
    base.add("policy", Lora(rank=4), trainable=True)
    base.save_adapter("policy", tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    with pytest.raises(CheckpointMismatch):
        base.load_adapter("other", tmp_path / "adapter", trainable=False)
    with pytest.raises(CheckpointMismatch):
        base.load_adapter("missing", tmp_path / "nowhere", trainable=False)


def test_pickle_only_checkpoints_are_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((paths.demo_model() / name).read_bytes())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError):
        load_causal_lm(str(tmp_path), "nf4", pick_device())


@pytest.mark.parametrize("quantization", ["nf4", "16bit", "32bit"])
def test_every_quantization_computes_nearly_the_same(quantization: str) -> None:
    inputs = Inputs(stage="ppo", project="", model=MODEL, quantization=quantization, seed=0)  # pyright: ignore
    base = SharedBase.load(inputs)
    with base.view(None), torch.no_grad():
        found = rollout.response_logprobs(base, batch(base))
        exact = rollout.response_logprobs(load_base(), batch(base))
    assert float((found - exact).abs().mean()) < 0.2


def test_padding_does_not_change_hidden_states(
    base: SharedBase,
) -> None:
    prompt = text.prompt_ids(base.tokenizer, [{"role": "user", "content": "Tea?"}])
    completion = text.completion_ids(base.tokenizer, "Yes, do.")
    alone = text.pad([prompt], [completion], base.pad, base.device)
    longer = text.pad([prompt, prompt * 2], [completion, completion * 3], base.pad, base.device)
    with base.view(None), torch.no_grad():
        one = base.hidden(alone)[0]
        other = base.hidden(longer)[0, : len(prompt) + len(completion)]
    assert torch.allclose(one, other, atol=1e-4)


def test_a_completion_ends_with_the_stop_token_and_nothing_after(base: SharedBase) -> None:
    """ChatML's newline after the stop token is what reward training must never see."""
    assert text.completion_ids(base.tokenizer, "Yes.")[-1] in base.stops
    prompt = text.prompt_ids(base.tokenizer, [{"role": "user", "content": "Tea?"}])
    with base.view(None):
        found = sample(
            base, [prompt] * 8, max_new_tokens=96, batch_size=8, generator=seeded(base.device, 0, 0)
        )
    assert any(found.ended)
    for ids, ended in zip(found.completions, found.ended, strict=True):
        assert (ids[-1] in base.stops) == ended
        assert not any(i in base.stops for i in ids[:-1])
