"""The plan's exact items against what is allocated on the CPU, byte for byte, for every architecture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from rlhf_lite import needs, paths, shapes
from rlhf_lite.engine import base as engine_base
from rlhf_lite.engine import heads, text
from rlhf_lite.engine.base import SharedBase, load_causal_lm
from rlhf_lite.engine.critic import Critic
from rlhf_lite.engine.decoder import Decoder
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.rollout import response_logprobs
from rlhf_lite.engine.sampling import RolloutCache
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.settings import Lora, Ppo, Quantization

RANK, ROWS, PROMPT, ANSWER, WINDOW = 5, 3, 20, 9, 16
SHAPE: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 32, "patch_size": 8, "vision_use_head": False}  # fmt: skip
# Each family with what it may ask for beyond the plainest.
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "llama-biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, head_dim=24, tie_word_embeddings=True),
    "mistral": MistralConfig(**SHAPE, head_dim=24, sliding_window=None),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2-window": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=3),
    "qwen3": Qwen3Config(**SHAPE, head_dim=24, tie_word_embeddings=True),
    "qwen3-biases": Qwen3Config(**SHAPE, head_dim=24, attention_bias=True),
    "gemma2": Gemma2Config(**SHAPE, head_dim=24, sliding_window=WINDOW),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=24, sliding_window=WINDOW),
    "gemma3-near": Gemma3TextConfig(**{**SHAPE, "num_hidden_layers": 3}, head_dim=24, sliding_window=WINDOW),
    "phi3": Phi3Config(**{**SHAPE, "hidden_size": 64}),
    "phi3-window": Phi3Config(**SHAPE, sliding_window=WINDOW, rope_parameters={
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}),
    "smollm3": SmolLM3Config(**SHAPE),
    "smollm3-all": SmolLM3Config(**SHAPE, attention_bias=True, mlp_bias=True, use_sliding_window=True,
                                 sliding_window=WINDOW, tie_word_embeddings=False),
    "granite": GraniteConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "olmo2": Olmo2Config(**SHAPE, attention_bias=True),
}  # fmt: skip


def saved(config: PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes held by some tensors, shared ones counted once."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def held(module: torch.nn.Module) -> list[torch.Tensor]:
    """A module's tensors, those in which bitsandbytes keeps scales among them."""
    found = [*module.parameters(), *module.buffers()]
    for parameter in module.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            found += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return found


CPU = torch.device("cpu")


def load(folder: Path, quantization: Quantization, device: torch.device = CPU) -> SharedBase:
    tokenizer = text.load_tokenizer(str(paths.demo_model()), trust_remote_code=False, plain_template=False)
    base = SharedBase(load_causal_lm(str(folder), quantization, device), tokenizer, frozenset({2}))
    base.pad = 0
    return base


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("16bit", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_ppo_holds_is_what_the_plan_says_to_the_byte(
    name: str, quantization: Quantization, tmp_path: Path
) -> None:
    folder, lora = saved(CONFIGS[name], tmp_path / "model"), Lora(rank=RANK)
    model = shapes.read(folder, name)
    base = load(folder, quantization)
    assert size(held(base.model)) == needs.linear_weights(model, quantization, 4) + needs.other_weights(
        model, 4
    )

    earlier = load(folder, quantization)  # leaves what PPO starts from
    for adapter in ("sft", "reward"):
        earlier.add(adapter, lora, trainable=False)
        earlier.save_adapter(adapter, tmp_path / adapter, {heads.SCORE_KEY: torch.zeros(1, base.width)})
        heads.save_scale(tmp_path / adapter, heads.RewardScale())
    weights = size(held(base.model))
    learner = Learner(base, Ppo(), lora, start=tmp_path / "sft")
    reward = RewardModel(base, tmp_path / "reward")
    assert size(held(base.model)) - weights == 3 * needs.adapter(model, RANK)
    assert size(reward.head.parameters()) == needs.head(model)
    learner.critic.save(tmp_path / "critic.safetensors")
    assert size(load_file(str(tmp_path / "critic.safetensors")).values()) == needs.critic(model)

    for parameter in learner.parameters:
        parameter.grad = torch.ones_like(parameter)
    gradients = size(p.grad for p in learner.parameters if p.grad is not None)
    assert gradients == needs.adapter(model, RANK)
    learner.step()
    states = list(learner.optimizer.state.values())
    steps = sum(s["step"].nbytes for s in states)
    assert steps == 4 * len(states)
    assert size(t for s in states for k, t in s.items() if k != "step") == needs.adam(model, RANK, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_is_what_the_plan_says_to_the_byte(name: str, tmp_path: Path) -> None:
    folder = saved(CONFIGS[name], tmp_path)
    causal_lm = load_causal_lm(str(folder), "32bit", CPU)
    cache = RolloutCache(PROMPT + ANSWER)
    with torch.no_grad():
        causal_lm(input_ids=torch.ones(ROWS, PROMPT, dtype=torch.long), past_key_values=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    allocated = size(t for layer in layers for t in (layer.keys, layer.values))
    assert allocated == needs.kv_cache(shapes.read(folder, name), ROWS, PROMPT + ANSWER, 4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_conversation_keeps_every_position_whatever_window_a_layer_has(name: str, tmp_path: Path) -> None:
    base = load(saved(CONFIGS[name], tmp_path), "32bit")
    decoder = Decoder(base)
    told = decoder.generate(
        None,
        [5] * (WINDOW + 3),
        max_tokens=ANSWER,
        temperature=1.0,
        top_p=1.0,
        seed=0,
        cancelled=lambda: False,
    )
    base.stops = frozenset()
    length = WINDOW + 3 + len(list(told)) - 1  # what the last token would be is not asked
    layers: list[Any] = list(decoder._seen[None].cache.layers)  # pyright: ignore[reportPrivateUsage]
    allocated = size(t for layer in layers for t in (layer.keys, layer.values))
    assert allocated == needs.kv_cache(shapes.read(tmp_path, name), 1, length, 4)


def test_gemma_3_that_sees_is_counted_with_what_it_sees_with(tmp_path: Path) -> None:
    text_config = {**SHAPE, "head_dim": 24, "sliding_window": WINDOW}
    folder = saved(Gemma3Config(text_config=text_config, vision_config=VISION), tmp_path)
    model = shapes.read(folder, "gemma3")
    for quantization in ("nf4", "32bit"):
        found = load_causal_lm(str(folder), quantization, CPU)
        assert size(held(found)) == needs.linear_weights(model, quantization, 4) + needs.other_weights(
            model, 4
        )
    config = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(found, config)
    assert size(p for n, p in adapted.named_parameters() if "lora_" in n) == needs.adapter(model, RANK)


WIDE = {**SHAPE, "vocab_size": 512, "hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 4}
PADDED = [37, 40, 33]  # tokens of each prompt
DTYPES = {2: torch.bfloat16, 4: torch.float32}  # by their bytes: as a GPU computes, and a CPU
PASSES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**{**WIDE, "num_key_value_heads": 4}),
    "mistral": MistralConfig(**WIDE, sliding_window=None),
    "qwen2": Qwen2Config(**WIDE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**WIDE, head_dim=64),
    "gemma2": Gemma2Config(**WIDE, head_dim=64),
    "gemma3": Gemma3TextConfig(**WIDE, head_dim=64, sliding_window=WINDOW),
    "phi3": Phi3Config(**WIDE),
    "smollm3": SmolLM3Config(**WIDE),
    "granite": GraniteConfig(**WIDE),
    "olmo2": Olmo2Config(**WIDE),
    "many-words": LlamaConfig(**{**WIDE, "vocab_size": 20000}),
}


@pytest.mark.parametrize("width", [2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_takes_what_the_plan_says_within_a_tenth(
    name: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_base, "compute_dtype", lambda device: DTYPES[width])
    folder, lora = saved(PASSES[name], tmp_path), Lora(rank=RANK)
    model, base = shapes.read(folder, name), load(folder, "nf4")
    learner = Learner(base, Ppo(), lora, start=None)
    padded = text.pad([[5] * n for n in PADDED], [[7] * 96] * len(PADDED), 0, base.device)
    length = padded.ids.shape[1]
    tokens = len(PADDED) * length

    base.model.eval()
    with LiveBytes(held(base.model)) as scoring, torch.no_grad(), base.view("policy"):
        base.hidden(padded)
    assert scoring.peak == pytest.approx(tokens * needs.forward_pass(model, width, length), rel=0.1)

    base.model.train()
    logits = needs.completion_logits(model, len(PADDED) * 96, width)
    one_layer = tokens * needs.layer(model, RANK, width, length, masked=False)
    every_layer = tokens * model.layers * needs.activations(model, RANK, width, length, masked=False)
    last_layer = one_layer - every_layer / model.layers
    assert _backbone_pass(learner, padded) == pytest.approx(every_layer + last_layer, rel=0.1)
    assert _policy_pass(learner, padded) == pytest.approx(every_layer + max(last_layer, logits), rel=0.1)

    base.model.gradient_checkpointing_enable({"use_reentrant": False})
    layer_inputs = tokens * needs.layer_inputs(model, width)
    gradients = needs.adapter(model, RANK) / model.layers
    assert _backbone_pass(learner, padded) == pytest.approx(layer_inputs + one_layer + gradients, rel=0.1)
    assert _policy_pass(learner, padded) == pytest.approx(
        layer_inputs + max(one_layer + gradients, logits), rel=0.1
    )


@pytest.mark.parametrize(("rows", "answer"), [(2, 3), (40, 50)])
@pytest.mark.parametrize("width", [2, 4])
def test_the_critic_takes_what_the_plan_says_to_learn(width: int, rows: int, answer: int) -> None:
    model = shapes.of_config(LlamaConfig(**WIDE).to_dict(), "llama")
    states = torch.randn(rows, answer, model.hidden_size).to(DTYPES[width])
    returns, mask = torch.randn(rows, answer), torch.ones(rows, answer, dtype=torch.bool)
    with LiveBytes([states, returns, mask]) as learning:
        Critic(model.hidden_size, CPU).learn(states, returns, mask)
    planned = needs.critic(model) + needs.regression(model, rows, answer, width)
    assert learning.peak == pytest.approx(planned, rel=0.1)


def _backbone_pass(learner: Learner, padded: text.Padded) -> int:
    """The most bytes that are alive at once in a forward and a backward pass without logits."""
    with LiveBytes(held(learner.base.model)) as alive, learner.base.view("policy"):
        learner.base.hidden(padded)[padded.own].sum().backward()
    learner.optimizer.zero_grad(set_to_none=True)
    return alive.peak


def _policy_pass(learner: Learner, padded: text.Padded) -> int:
    with LiveBytes(held(learner.base.model)) as alive, learner.base.view("policy"):
        response_logprobs(learner.base, padded).sum().backward()
    learner.optimizer.zero_grad(set_to_none=True)
    return alive.peak
