"""The memory plan: what each stage needs of a GPU, itemised, and the nearest change that fits.

A stage has moments, of which it needs the worst: sampling, say, and the update on what was sampled are not alive at
once. Lengths are the preset's, every prompt and answer as long as it may be, and PPO's reference is taken to be an
adapter of its own, as it is after SFT. Layers are computed again for their gradients (checkpointing), as the engine
does on a GPU. It is computed, not measured; :mod:`rlhf_lite.needs` says what of it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import structs

from rlhf_lite import catalog, needs
from rlhf_lite.needs import FP32
from rlhf_lite.settings import Preset, Quantization
from rlhf_lite.shapes import Model

Items = dict[str, int]
"""Bytes by name."""

_CUDA_CONTEXT = 3 * 2**30 // 4  # kernels and libraries; differs between drivers, and torch does not count it
_SCORED = 32  # answers that the reward model reads at once
# TRL's fused output layer holds one tile of the logits at a time, at most so many tokens by always so many columns.
_TILE_TOKENS, _TILE_COLUMNS = 4096, 32768
_CHECKED_TOKENS = 64  # the export's proof answers with so many
_CHAT_TOKENS, _CHAT_CHUNK = 4096, 256  # of a conversation, and of its prompt that are read at once
# What each stage's need is brought down by: batches, and lengths in tokens.
_SAMPLING = ("sampling.batch_size", "sampling.max_new_tokens", "sampling.max_prompt_tokens")
_KNOBS = {
    "generate": _SAMPLING,
    "sft": ("sft.batch_size", "sft.max_tokens"),
    "reward": ("reward.batch_size", "reward.max_tokens", *_SAMPLING),
    "ppo": ("ppo.micro_batch", *_SAMPLING),
    "dpo": ("dpo.batch_size", "dpo.max_tokens"),
    "merge": _SAMPLING[-1:],
}
_SHORTEST = 64  # tokens: below, there is no answer worth learning from


class StagePlan(msgspec.Struct, frozen=True):
    """One stage's need in bytes; ``bytes`` is the sum of ``items``."""

    bytes: int
    items: Items


class Plan(msgspec.Struct, frozen=True):
    """What each stage needs of a GPU's memory. ``fits`` is None where no size was given; ``hint`` is the nearest
    change that fits."""

    model: str
    stages: dict[str, StagePlan]
    fits: bool | None
    hint: str = ""


def plan(model: Model, preset: Preset, quantization: Quantization, vram: int | None = None) -> Plan:
    """The memory plan of a model under a preset, held against ``vram`` bytes."""
    stages = _stages(model, preset, quantization)
    if vram is None:
        return Plan(model.id, stages, None)
    fits = not _too_large(model, preset, quantization, vram)
    return Plan(model.id, stages, fits, "" if fits else _nearest_that_fits(model, preset, quantization, vram))


def _stages(model: Model, preset: Preset, quantization: Quantization) -> dict[str, StagePlan]:
    width = FP32 if quantization == "32bit" else 2
    has = _Has(model, preset, width)
    base = has.weights(quantization)
    sft, reward, dpo = preset.sft, preset.reward, preset.dpo
    generate = {**base, **has.adapters(1)}
    trained = {**base, **has.adapters(1, trained=1)}
    judged = {**base, **has.adapters(2, trained=1, heads=2)}  # the trained one, and as PPO will read it
    ppo = {**base, **has.adapters(4, trained=2, heads=2)}  # policy, value, reward, reference
    compared = {**base, **has.adapters(2, trained=1)}
    proven = {
        **_Has(model, preset, FP32).weights(quantization),
        **has.adapters(1),
    }  # in fp32 but for 4-bit weights
    return {
        "generate": _worst(generate, has.sampling()),
        "sft": _worst(trained, has.supervised(sft.batch_size, sft.max_tokens, 1, tile=True)),
        "reward": _worst(judged, has.supervised(reward.batch_size, reward.max_tokens, 2), has.sampling()),
        "ppo": _worst(ppo, has.sampling(), has.scoring(), has.update()),
        "dpo": _worst(compared, has.supervised(dpo.batch_size, dpo.max_tokens, 2, tile=True)),
        "merge": _worst(proven, has.proof()),
        "chat": _worst(generate, has.conversation()),
    }


def _worst(always: Items, *stretches: list[Items]) -> StagePlan:
    """What is held all the time with the moment that adds most to it."""
    moment = max((m for moments in stretches for m in moments), key=lambda m: sum(m.values()))
    items = {**always, **moment}
    return StagePlan(sum(items.values()), items)


@dataclass(frozen=True)
class _Has:
    """What a stage holds of a model under a preset; each stretch of work is a list of its moments."""

    model: Model
    preset: Preset
    width: int

    def weights(self, quantization: Quantization) -> Items:
        return {
            "linear_weights": needs.linear_weights(self.model, quantization, self.width),
            "embeddings_and_norms": needs.other_weights(self.model, self.width),
            "cuda_context": _CUDA_CONTEXT,
        }

    def adapters(self, count: int, *, trained: int = 0, heads: int = 0) -> Items:
        """So many adapters, some of them trained, and heads, one of them trained where there are any."""
        found = {"adapters": count * needs.adapter(self.model, self._rank)}
        if heads:
            found["heads"] = heads * needs.head(self.model)
        if trained:
            found["optimizer"] = needs.adam(self.model, self._rank, trained, min(heads, 1))
        return found

    def sampling(self) -> list[Items]:
        """A batch of prompts is read, then answered to the last token."""
        sampling, rows = self.preset.sampling, self.preset.sampling.batch_size
        prompt = min(sampling.max_prompt_tokens, self.model.context)
        cache = {"kv_cache": self._cache(rows, self._length)}  # with room for the answers from the start
        next_token = (
            rows * self.model.vocab_size * (self.width + 3 * FP32)
        )  # logits, probabilities, fp64 sums
        return [{**cache, "forward_pass": self._forward(rows, prompt)}, {**cache, "next_token": next_token}]

    def scoring(self) -> list[Items]:
        """The reward model reads the answers."""
        return [{"forward_pass": self._forward(_SCORED, self._length)}]

    def update(self) -> list[Items]:
        """A micro-batch of PPO: its logits, then its layers one by one, last to first."""
        rows, answer = (
            self.preset.ppo.micro_batch,
            min(self.preset.sampling.max_new_tokens, self.model.context),
        )
        kept = self._kept(rows * self._length)
        logits = needs.completion_logits(self.model, rows, answer)
        return [
            {**kept, "logits": logits},
            {**kept, "one_layer": self._layer(rows * self._length, self._length)},
        ]

    def supervised(self, batch: int, longest: int, sides: int, *, tile: bool = False) -> list[Items]:
        """A micro-batch of SFT, or of pairs with both their sides; TRL's loss on logits holds a tile of them."""
        length = min(longest, self.model.context)
        fitting = (n for n in range(batch, 0, -1) if batch % n == 0)
        rows = sides * next((n for n in fitting if n * sides * length <= catalog.TOKENS_AT_ONCE), 1)
        tokens = rows * length
        kept, one_layer = self._kept(tokens), {"one_layer": self._layer(tokens, length)}
        if not tile:
            return [{**kept, **one_layer}]
        logits = min(tokens, _TILE_TOKENS) * _TILE_COLUMNS * self.width
        gradient = tokens * self.model.hidden_size * FP32  # of what comes in, summed over tiles
        return [{**kept, **one_layer}, {**kept, "logits": logits + gradient}]

    def proof(self) -> list[Items]:
        """Matrices are merged one by one, with the base not loaded yet; then the file is held against the model."""
        tokens = min(self.preset.sampling.max_prompt_tokens + _CHECKED_TOKENS, self.model.context)
        return [{"logits": 2 * FP32 * tokens * self.model.vocab_size}]

    def conversation(self) -> list[Items]:
        """With the tuned model and, by its side, the base: each has keys and values of its own."""
        tokens = min(_CHAT_TOKENS, self.model.context)
        cache = 2 * self._cache(1, tokens)
        chunk = _CHAT_CHUNK * needs.forward_pass(self.model, self.width, tokens)
        return [{"kv_cache": cache, "forward_pass": chunk}]

    @property
    def _rank(self) -> int:
        return self.preset.lora.rank

    @property
    def _length(self) -> int:
        """Tokens of a prompt and its answer."""
        sampling = self.preset.sampling
        return min(sampling.max_prompt_tokens + sampling.max_new_tokens, self.model.context)

    def _cache(self, rows: int, length: int) -> int:
        return needs.kv_cache(self.model, rows, length, self.width)

    def _forward(self, rows: int, length: int) -> int:
        return rows * length * needs.forward_pass(self.model, self.width, length)

    def _kept(self, tokens: int) -> Items:
        """One adapter's gradients, which micro-batches add up, and what the backward pass starts its layers from."""
        return {
            "gradients": needs.adapter(self.model, self._rank),
            "layer_inputs": tokens * needs.layer_inputs(self.model, self.width),
        }

    def _layer(self, tokens: int, length: int) -> int:
        return tokens * needs.layer(self.model, self._rank, self.width, length)


def _too_large(model: Model, preset: Preset, quantization: Quantization, vram: int) -> dict[str, StagePlan]:
    return {k: s for k, s in _stages(model, preset, quantization).items() if s.bytes > vram}


def _nearest_that_fits(model: Model, preset: Preset, quantization: Quantization, vram: int) -> str:
    """4-bit weights first, then batches halved where it hurts, then the texts whose halving saves most, then the
    largest known model that fits as it is."""
    advice = [] if quantization == "nf4" else ['quantization = "nf4" in project.toml']
    changes: dict[str, int] = {}
    changed = preset
    while too_large := _too_large(model, changed, "nf4", vram):
        stage = next(iter(too_large))
        helping = [h for k in _KNOBS.get(stage, ()) if (h := _halved(model, changed, stage, k))]
        if not helping:
            return _smaller_model(model, preset, vram)
        step = min(helping, key=lambda h: (_is_length(h[0]), _needed(model, _with(changed, h), stage)))
        changed = _with(changed, step)
        changes |= dict([step])
    return " and ".join([*advice, *(f"--set {knob}={size}" for knob, size in changes.items())])


def _halved(model: Model, preset: Preset, stage: str, knob: str) -> tuple[str, int] | None:
    """A knob, halved until its stage needs less: supervised training fills a pass with as many rows as go into it. None
    where it would be too little by then."""
    section, _, key = knob.partition(".")
    size, need = getattr(getattr(preset, section), key) // 2, _needed(model, preset, stage)
    while size >= (_SHORTEST if _is_length(knob) else 1):
        if _needed(model, _with(preset, (knob, size)), stage) < need:
            return knob, size
        size //= 2
    return None


def _is_length(knob: str) -> bool:
    return knob.endswith("_tokens")


def _needed(model: Model, preset: Preset, stage: str) -> int:
    return _stages(model, preset, "nf4")[stage].bytes


def _with(preset: Preset, change: tuple[str, int]) -> Preset:
    knob, size = change
    name, _, key = knob.partition(".")
    section = structs.replace(getattr(preset, name), **{key: size})
    return structs.replace(preset, **{name: section})


def _smaller_model(model: Model, preset: Preset, vram: int) -> str:
    smaller = [m for m in catalog.MODELS if m.parameters < model.parameters]
    fitting = [m for m in smaller if not _too_large(m, preset, "nf4", vram)]
    best = max(fitting, key=lambda m: m.parameters, default=None)
    return (
        f"a smaller model: {best.id}" if best else "no known model fits; the demo model does (--model demo)"
    )
