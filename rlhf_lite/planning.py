"""The memory plan: what each stage needs of a GPU's memory or of the RAM, itemised, and the nearest change that fits.

A stage has moments, of which it needs the worst: sampling, say, and the update on what was sampled are not alive at
once. Lengths are the preset's, every prompt and answer as long as it may be, and PPO's reference is taken to be an
adapter of its own, as it is after SFT. A stage that trains keeps the activations of all its layers where they fit;
else each layer is computed again for its gradients (checkpointing), which takes a third more time and changes nothing
else. A CPU computes in 32 bits, whatever the weights are held in. It is computed, not measured;
:mod:`rlhf_lite.needs` says what of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from msgspec import structs

from rlhf_lite import catalog
from rlhf_lite.moments import Device, Items, Moments
from rlhf_lite.needs import FP32
from rlhf_lite.settings import Preset, Quantization
from rlhf_lite.shapes import Model

# Shares of what is free; the rest is for fragments, the desktop and the plan's own error.
FITS, TIGHT = 0.75, 0.95

CUDA_CONTEXT = 3 * 2**30 // 4  # kernels and libraries; differs between drivers, and torch does not count it
_LIBRARIES = 2**30 // 2  # torch, transformers and TRL as a process holds them in RAM
# What each stage's need is brought down by: batches, and lengths in tokens.
_SAMPLING = ("sampling.batch_size", "sampling.max_new_tokens", "sampling.max_prompt_tokens")
_KNOBS = {
    "generate": _SAMPLING,
    "sft": ("sft.batch_size", "sft.max_tokens"),
    "reward": ("reward.batch_size", "reward.max_tokens", *_SAMPLING),
    "ppo": ("ppo.micro_batch", *_SAMPLING),
    "dpo": ("dpo.batch_size", "dpo.max_tokens", *_SAMPLING),
    "merge": _SAMPLING[-1:],
}
_SHORTEST = 64  # tokens: below, there is no answer worth learning from


class StagePlan(msgspec.Struct, frozen=True):
    """One stage's need in bytes; ``bytes`` is the sum of ``items``.

    ``checkpointing``: whether layers are computed again for their gradients; None where nothing is trained.
    """

    bytes: int
    items: Items
    checkpointing: bool | None = None


class Plan(msgspec.Struct, frozen=True):
    """What each stage needs. ``fits`` is None where no size was given; ``hint`` is the nearest change that fits."""

    model: str
    stages: dict[str, StagePlan]
    fits: bool | None
    hint: str = ""


def plan(
    model: Model, preset: Preset, quantization: Quantization, free: int | None = None, device: Device = "gpu",
    *, stage: str = "",
) -> Plan:  # fmt: skip
    """The memory plan of a model under a preset, of one stage or of all.

    Without ``free`` bytes to hold it against, it is the least that each stage needs: everything is computed again. With
    them a stage keeps its activations where it then still fits comfortably.
    """
    case = _Case(model, preset, quantization, device, free, stage)
    if free is None:
        return Plan(model.id, case.stages(), None)
    fits = not case.too_large()
    return Plan(model.id, case.stages(), fits, "" if fits else _nearest_that_fits(case))


@dataclass(frozen=True)
class _Case:
    """What a plan is made of, and for."""

    model: Model
    preset: Preset
    quantization: Quantization
    device: Device
    free: int | None = None
    only: str = ""

    def stages(self) -> dict[str, StagePlan]:
        wide = self.quantization == "32bit" or self.device == "cpu"
        has = Moments(self.model, self.preset, FP32 if wide else 2, self.device)
        proven = replace(has, width=FP32)  # the export, but for 4-bit weights
        base, sft, reward, dpo = self._base(has), self.preset.sft, self.preset.reward, self.preset.dpo
        generate = {**base, **has.adapters(1)}
        trained = {**base, **has.adapters(1, trained=True)}
        judged = {
            **base,
            **has.adapters(2, trained=True, heads=2),
        }  # the trained one, and as PPO will read it
        ppo = {**base, **has.adapters(3, trained=True, heads=1), **has.critic()}  # policy, reward, reference
        compared = {**base, **has.adapters(2, trained=True)}
        found = {
            "generate": lambda: _worst(generate, has.sampling()),
            "sft": lambda: self._trained(
                trained, lambda again: has.supervised(sft.batch_size, sft.max_tokens, 1, again, tile=True)
            ),
            "reward": lambda: self._trained(
                judged,
                lambda again: has.supervised(reward.batch_size, reward.max_tokens, 2, again),
                has.sampling(),
                has.scoring(),
                has.judging(reward.max_tokens),
            ),
            "ppo": lambda: self._trained(ppo, has.update, has.sampling(), has.scoring()),
            "dpo": lambda: self._trained(
                compared,
                lambda again: has.supervised(dpo.batch_size, dpo.max_tokens, 2, again, tile=True),
                has.sampling(),
                has.judging(dpo.max_tokens, logits=True),
            ),
            "merge": lambda: _worst({**self._base(proven), **has.adapters(1)}, proven.proof()),
            "chat": lambda: _worst(generate, has.conversation()),
        }
        return {name: needed() for name, needed in found.items() if self.only in ("", name)}

    def too_large(self) -> list[str]:
        """Stages that do not fit."""
        room = TIGHT * (self.free or 0)
        return [name for name, stage in self.stages().items() if stage.bytes > room]

    def least(self, stage: str) -> int:
        """Bytes that a stage needs with everything computed again."""
        return replace(self, free=None, only=stage).stages()[stage].bytes

    def changed(self, change: tuple[str, int]) -> _Case:
        """With one setting another."""
        knob, size = change
        name, _, key = knob.partition(".")
        section = structs.replace(getattr(self.preset, name), **{key: size})
        return replace(self, preset=structs.replace(self.preset, **{name: section}))

    def _base(self, has: Moments) -> Items:
        beside = {"cuda_context": CUDA_CONTEXT} if self.device == "gpu" else {"libraries": _LIBRARIES}
        return {**has.weights(self.quantization), **beside}

    def _trained(
        self, always: Items, passes: Callable[[bool], list[Items]], *stretches: list[Items]
    ) -> StagePlan:
        """A stage that trains, whose passes keep activations or compute them again."""
        kept = structs.replace(_worst(always, passes(False), *stretches), checkpointing=False)
        if kept.bytes <= FITS * (self.free or 0):
            return kept
        return structs.replace(_worst(always, passes(True), *stretches), checkpointing=True)


def _worst(always: Items, *stretches: list[Items]) -> StagePlan:
    """What is held all the time with the moment that adds most to it."""
    moment = max((m for moments in stretches for m in moments), key=lambda m: sum(m.values()))
    items = {**always, **moment}
    return StagePlan(sum(items.values()), items)


def _nearest_that_fits(case: _Case) -> str:
    """4-bit weights first, then batches halved where it hurts, then the texts whose halving saves most, then the
    largest known model that fits as it is. Checkpointing, which costs nothing but time, is on by then."""
    advice = [] if case.quantization == "nf4" else ['quantization = "nf4" in project.toml']
    case, changes = replace(case, quantization="nf4"), dict[str, int]()
    asked = case
    while too_large := case.too_large():
        stage = too_large[0]
        helping = [h for k in _KNOBS.get(stage, ()) if (h := _halved(case, stage, k))]
        if not helping:
            return _smaller_model(asked)
        step = min(helping, key=lambda h: (_is_length(h[0]), case.changed(h).least(stage)))
        case = case.changed(step)
        changes |= dict([step])
    return " and ".join([*advice, *(f"--set {knob}={size}" for knob, size in changes.items())])


def _halved(case: _Case, stage: str, knob: str) -> tuple[str, int] | None:
    """A knob, halved until its stage needs less: supervised training fills a pass with as many rows as go into it. None
    where it would be too little by then."""
    section, _, key = knob.partition(".")
    size, need = getattr(getattr(case.preset, section), key) // 2, case.least(stage)
    while size >= (_SHORTEST if _is_length(knob) else 1):
        if case.changed((knob, size)).least(stage) < need:
            return knob, size
        size //= 2
    return None


def _is_length(knob: str) -> bool:
    return knob.endswith("_tokens")


def _smaller_model(case: _Case) -> str:
    smaller = [m for m in catalog.MODELS if m.parameters < case.model.parameters]
    fitting = [m for m in smaller if not replace(case, model=m).too_large()]
    best = max(fitting, key=lambda m: m.parameters, default=None)
    return (
        f"a smaller model: {best.id}" if best else "no known model fits; the demo model does (--model demo)"
    )
