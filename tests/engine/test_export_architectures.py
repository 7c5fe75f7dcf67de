"""Every architecture that is exported, against transformers: the same model, and a wrong conversion is noticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architecture_models import KINDS, MODELS, SHAPE, make_config, model_folder
from export_models import ROOT, plan, silent, write
from transformers import AutoModelForCausalLM

from rlhf_lite.engine.export import architectures, positions
from rlhf_lite.engine.export import gguf as converter
from rlhf_lite.engine.export.architectures import ARCHITECTURES, architecture_of
from rlhf_lite.engine.export.gguf import FloatType, GgufPlan, write_gguf
from rlhf_lite.engine.export.verify import kl_per_position, log_softmax
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.errors import DataError, UserError

EXACT, ROUNDED = 1e-6, 1e-4  # mean KL that an F32 and an F16 file may cost; a random model costs more than a trained
WRONG = 100 * ROUNDED
LONGEST = 300  # tokens, beyond the windows that llama.cpp computes and the lengths that positions are scaled from


def token_ids(length: int = LONGEST) -> list[int]:
    return np.random.default_rng(0).integers(8, 600, length).tolist()


@cache
def reference(kind: str, length: int = LONGEST) -> np.ndarray:
    """Log-probabilities of transformers, fp32 arithmetic."""
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([token_ids(length)])).logits[0]
    return torch.log_softmax(logits.double(), -1).numpy()


@dataclasses.dataclass(frozen=True)
class Differs:
    kl: float
    top1: float


def differs(kind: str, file: Path, length: int = LONGEST, n_ctx: int = 0) -> Differs:
    with LlamaModel(file, kv="f32", n_threads=1, n_ctx=n_ctx) as model:
        found = log_softmax(model.logits(token_ids(length)).astype(np.float64))
    assert np.isfinite(found).all()
    expected = reference(kind, length)
    agree = found.argmax(-1) == expected.argmax(-1)
    return Differs(float(kl_per_position(expected, found).mean()), float(agree.mean()))


@cache
def exported(kind: str, floats: FloatType = "f32") -> Path:
    return write(ROOT / f"architecture-{kind}-{floats}.gguf", model_folder(kind), floats=floats)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_the_model(kind: str) -> None:
    exact, rounded = differs(kind, exported(kind)), differs(kind, exported(kind, "f16"))
    assert abs(exact.kl) < EXACT
    assert exact.top1 >= 0.999
    assert rounded.kl < ROUNDED


def test_every_architecture_has_a_model() -> None:
    assert {make_config(kind).model_type for kind in KINDS} == set(ARCHITECTURES)


def test_a_text_beyond_the_length_that_was_trained_first() -> None:
    """LongRoPE has other factors there; llama.cpp takes them where the context that is opened is longer."""
    beyond = differs("phi3-longrope", exported("phi3-longrope"), length=600, n_ctx=1024)
    assert abs(beyond.kl) < EXACT


def test_bf16_is_coarser_than_f16_and_far_from_wrong() -> None:
    assert ROUNDED / 100 < differs("llama-llama3", exported("llama-llama3", "bf16")).kl < 10 * ROUNDED


Patch = Callable[[pytest.MonkeyPatch], None]


def row(kind: str, **change: Any) -> Patch:
    wrong = dataclasses.replace(ARCHITECTURES[kind], **change)
    return lambda patch: patch.setitem(ARCHITECTURES, kind, wrong)


def _without(key: str) -> Patch:
    right = converter.position_settings
    return lambda patch: patch.setattr(
        converter, "position_settings", lambda *a: {k: v for k, v in right(*a).items() if not k.endswith(key)}
    )


def _other_theta(patch: pytest.MonkeyPatch) -> None:
    right = positions.full_rope
    patch.setattr(positions, "full_rope", lambda c: {**right(c), "rope_theta": right(c)["rope_theta"] * 3})


def _no_factors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(converter, "factor_tensors", lambda config: {})


def _swapped(patch: pytest.MonkeyPatch) -> None:
    right: Any = converter._stored

    def stored(plan: GgufPlan, tensor: str, source: str) -> Any:
        return right(plan, tensor, source.replace("up_proj", "gate_proj"))

    patch.setattr(converter, "_stored", stored)


def _halves_swapped(patch: pytest.MonkeyPatch) -> None:
    right: Any = converter._stored

    def stored(plan: GgufPlan, tensor: str, source: str) -> Any:
        for block in right(plan, tensor, source):
            yield block.roll(block.shape[0] // 2, 0) if "gate_up" in source else block

    patch.setattr(converter, "_stored", stored)


CONTROLS: dict[str, tuple[str, Patch]] = {
    "rows left in place": ("llama-linear", row("llama", reorder_qk=False)),
    "rows left in place, Mistral": ("mistral", row("mistral", reorder_qk=False)),
    "rows left in place, SmolLM3": ("smollm3", row("smollm3", reorder_qk=False)),
    "rows left in place, Granite": ("granite", row("granite", reorder_qk=False)),
    "rows reordered for nothing": ("qwen2", row("qwen2", reorder_qk=True)),
    "norms without the 1, Gemma 2": ("gemma2", row("gemma2", norms_from_one=False)),
    "norms without the 1, Gemma 3": ("gemma3", row("gemma3_text", norms_from_one=False)),
    "no multipliers": ("granite", row("granite", settings=lambda c: {"{arch}.logit_scale": 1.0})),
    "caps left at their defaults": ("gemma2", row("gemma2", settings=lambda c: {"{arch}.attn_logit_softcapping": 1.0})),
    "no windows, Gemma 3": ("gemma3", row("gemma3_text", windows=False)),
    "no windows, OLMo 3": ("olmo3", row("olmo3", windows=False)),
    "windows in other blocks": ("gemma3", _without("sliding_window_pattern")),
    "window of another size": ("gemma2", _without("sliding_window")),
    "no theta inside windows": ("gemma3", _without("freq_base")),
    "no scaling, linear": ("llama-linear", _without("scaling.factor")),
    "no scaling, YaRN": ("llama-yarn", _without("scaling.type")),
    "no attention factor, YaRN": ("llama-yarn", _without("attn_factor")),
    "no attention factor, LongRoPE": ("phi3-longrope", _without("attn_factor")),
    "another theta": ("qwen3", _other_theta),
    "another theta, OLMo 2": ("olmo2", _other_theta),
    "no factors, Llama 3": ("llama-llama3", _no_factors),
    "no factors, LongRoPE": ("phi3-longrope", _no_factors),
    "a swapped tensor": ("qwen3", _swapped),
    "halves of a fused tensor swapped": ("phi3", _halves_swapped),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_conversion_is_noticed(control: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind, spoil = CONTROLS[control]
    model_folder(kind)
    spoil(monkeypatch)
    assert differs(kind, write(tmp_path / "wrong.gguf", model_folder(kind), floats="f32")).kl > WRONG
