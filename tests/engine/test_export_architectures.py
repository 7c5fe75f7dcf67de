"""Every architecture that is exported, against transformers: the same model, and a wrong conversion is noticed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from architecture_models import KINDS, LONGROPE, MODELS, SHAPE, adapter_folder, make_config, model_folder
from export_models import ROOT, plan, silent, whole, write
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlhf_lite.engine.base import load_causal_lm
from rlhf_lite.engine.export import gguf as converter
from rlhf_lite.engine.export import merge, positions
from rlhf_lite.engine.export.architectures import ARCHITECTURES, architecture_of, read_config
from rlhf_lite.engine.export.gguf import FloatType, GgufPlan, write_gguf
from rlhf_lite.engine.export.merge import LoraAdapter, MergedWeights, SafetensorsFolder, text_name
from rlhf_lite.engine.export.positions import position_settings
from rlhf_lite.engine.export.verify import kl_per_position, log_softmax
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.offload import Place
from rlhf_lite.errors import DataError, UserError

# Mean KL that an F32 and an F16 file may cost; a random model costs more than a trained one.
EXACT, ROUNDED = 1e-6, 1e-4
WRONG = 100 * ROUNDED
LONGEST = (
    300  # tokens: beyond the windows that llama.cpp computes and the lengths that positions are scaled from
)


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


def differs(kind: str, file: Path, length: int = LONGEST, context: int = 512) -> Differs:
    with LlamaModel(file, kv="f32", n_threads=1, place=lambda _: Place(context)) as model:
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
    beyond = differs("phi3-longrope", exported("phi3-longrope"), length=600, context=1024)
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
    "caps left at their defaults": ("gemma2-caps", row("gemma2", settings=lambda c: {})),
    "no windows, Gemma 3": ("gemma3", row("gemma3_text", windows=False)),
    "no windows, OLMo 3": ("olmo3", row("olmo3", windows=False)),
    "windows in other blocks": ("gemma3", _without("sliding_window_pattern")),
    "window of another size": ("gemma2", _without("sliding_window")),
    "no theta inside windows": ("gemma3", _without("freq_base_swa")),
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


def test_an_unsupported_architecture_names_the_supported_ones() -> None:
    with pytest.raises(UserError) as caught:
        architecture_of({"architectures": ["GemmaForCausalLM"], "model_type": "gemma"})
    assert "type gemma " in caught.value.message
    assert all(kind in caught.value.hint for kind in ARCHITECTURES)


@pytest.mark.parametrize(
    ("kind", "setting", "said"),
    [
        ("llama-yarn", {"quantization_config": {"load_in_4bit": True}}, "quantized"),
        ("llama-yarn", {"hidden_act": "gelu"}, "gelu"),
        ("llama-yarn", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ("llama-yarn", {"rope_parameters": {**MODELS["qwen2"]["rope_parameters"], "truncate": False}}, "truncated"),
        ("llama-yarn", {"partial_rotary_factor": 0.5}, "partly"),
        ("qwen2", {"rope_parameters": MODELS["granite-llama3"]["rope_parameters"]}, "llama3"),
        ("qwen2", {"head_dim": 64}, "width 64"),
        ("qwen3", {"attention_bias": True}, "attention biases"),
        ("smollm3", {"mlp_bias": True}, "MLP biases"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 1]}, "three of four"),
        ("gemma2", {"query_pre_attn_scalar": 32}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": None}, "uncapped"),
        ("gemma2", {"layer_types": ["full_attention"] * 4}, "window"),
        ("gemma2", {"tie_word_embeddings": False}, "output matrix"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "capped"),
        ("gemma3", {"use_bidirectional_attention": True}, "both directions"),
        ("phi3", {"hidden_act": "gelu"}, "gelu"),
        ("olmo2", {"attention_bias": True}, "attention biases"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(kind: str, setting: dict[str, Any], said: str) -> None:
    whole = {**SHAPE, **MODELS[kind]}
    architecture_of(whole)
    with pytest.raises(UserError, match=said):
        architecture_of({**whole, **setting})


def test_the_largest_gemma_scales_attention_by_another_width() -> None:
    large = {**SHAPE, **MODELS["gemma2"], "num_hidden_layers": 46}
    architecture_of({**large, "query_pre_attn_scalar": 32})
    with pytest.raises(UserError, match="query_pre_attn_scalar"):
        architecture_of(large)


def test_a_config_that_is_damaged() -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        architecture_of({**SHAPE, "model_type": "llama", "hidden_size": "many"})


def settings(raw: dict[str, Any]) -> dict[str, Any]:
    return position_settings(architecture_of(raw), read_config(raw))


@pytest.mark.parametrize(
    ("kind", "change", "context"),
    [
        ("mistral", {}, 384),
        ("mistral", {"sliding_window": None}, 512),
        ("qwen2", {"sliding_window": 128}, 512),  # as most Qwen2 configs have it: named, and not used
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 1}, 128),
        ("smollm3", {"sliding_window": 128, "use_sliding_window": True}, 128),
        ("phi3", {}, 384),
        ("phi3-longrope", {}, 512),
        ("gemma3", {}, 512),  # llama.cpp computes its windows
    ],
)
def test_the_context_is_what_llama_cpp_computes_alike(
    kind: str, change: dict[str, Any], context: int
) -> None:
    found = settings({**SHAPE, **MODELS[kind], **change})
    assert found["{arch}.context_length"] == context


def without_type(rope: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in rope.items() if k != "rope_type"}


@pytest.mark.parametrize(
    ("kind", "older"),
    [
        ("llama-yarn", {"rope_theta": 1e4, "rope_scaling": MODELS["llama-yarn"]["rope_parameters"]}),
        ("llama-llama3", {"rope_theta": 5e5, "rope_scaling": MODELS["llama-llama3"]["rope_parameters"]}),
        (
            "gemma3",
            {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        ("phi3-longrope", {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", **without_type(LONGROPE)}}),
    ],
)  # fmt: skip
def test_older_spellings_of_a_config(kind: str, older: dict[str, Any]) -> None:
    new = {**SHAPE, **MODELS[kind]}
    old = {k: v for k, v in new.items() if k != "rope_parameters"} | older
    assert settings(old) == settings(new)


def test_llama_3_divides_long_waves_only() -> None:
    config = read_config({**SHAPE, **MODELS["llama-llama3"]})
    factors = positions.factor_tensors(config)["rope_freqs.weight"]
    assert factors.shape == (16,)
    assert factors[0] == 1  # the shortest wave is kept, the longest divided by the factor
    assert factors[-1] == pytest.approx(8)


def changed(tmp_path: Path, kind: str, tensors: dict[str, torch.Tensor]) -> Path:
    """A copy of a model with tensors replaced or added."""
    folder = tmp_path / kind
    shutil.copytree(model_folder(kind), folder)
    save_file({**load_file(folder / "model.safetensors"), **tensors}, folder / "model.safetensors")
    return folder


def test_an_output_matrix_of_a_tied_model_is_written_where_it_differs(tmp_path: Path) -> None:
    embedding = load_file(model_folder("qwen3") / "model.safetensors")["model.embed_tokens.weight"]
    assert "output.weight" not in plan(model_folder("qwen3")).names
    same = changed(tmp_path / "same", "qwen3", {"lm_head.weight": embedding.clone()})
    assert "output.weight" not in plan(same).names
    other = changed(tmp_path / "other", "qwen3", {"lm_head.weight": embedding.flip(0).contiguous()})
    assert plan(other).names["output.weight"] == "lm_head.weight"


def test_gemma_2_has_no_place_for_an_output_matrix(tmp_path: Path) -> None:
    embedding = load_file(model_folder("gemma2") / "model.safetensors")["model.embed_tokens.weight"]
    with pytest.raises(UserError, match="output matrix"):
        plan(changed(tmp_path, "gemma2", {"lm_head.weight": embedding.flip(0).contiguous()}))


def test_a_bias_where_llama_cpp_loads_none(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.o_proj.bias"
    with pytest.raises(DataError, match="o_proj"):
        plan(changed(tmp_path, "qwen2", {name: torch.zeros(128)}))


def test_names_of_a_model_that_sees_in_either_layout(tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(model_folder("gemma3-seeing"), folder)
    older = load_file(folder / "model.safetensors")
    newer = {"model." + k.replace("language_model.model.", "language_model."): v for k, v in older.items()}
    assert older.keys() & newer.keys() == set()
    save_file(newer, folder / "model.safetensors")
    assert SafetensorsFolder(folder).shapes == SafetensorsFolder(model_folder("gemma3-seeing")).shapes


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_the_one_that_was_trained_on(kind: str) -> None:
    """Bit for bit what a 4-bit model holds in memory, loaded as training loads it."""
    ours = MergedWeights(SafetensorsFolder(model_folder(kind)), "nf4", torch.float32, None)
    held = set()
    for name, parameter in load_causal_lm(
        str(model_folder(kind)), "nf4", torch.device("cpu")
    ).named_parameters():
        if text := text_name(name):
            state = getattr(parameter, "quant_state", None)
            weight = parameter.data if state is None else bnb.dequantize_4bit(parameter.data, state)
            assert torch.equal(whole(ours, text), weight.float()), name
            held.add(text)
    assert held == set(ours.shapes)


@pytest.mark.parametrize("kind", ["phi3", "gemma3-seeing"])
def test_merges_what_peft_merges(kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32)
    theirs: Any = PeftModel.from_pretrained(model, str(adapter_folder(kind))).merge_and_unload()
    adapter = LoraAdapter.load(adapter_folder(kind))
    linear = {n for n in SafetensorsFolder(model_folder(kind)).shapes if n.endswith("proj.weight")}
    assert adapter.pairs.keys() == linear
    ours = MergedWeights(SafetensorsFolder(model_folder(kind)), "32bit", torch.float32, adapter)
    for name, weight in theirs.named_parameters():
        if text := text_name(name):
            assert torch.allclose(whole(ours, text), weight, rtol=0, atol=1e-6), name


def test_an_adapter_that_changed_how_the_model_sees(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folder("gemma3-seeing"), folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(n for n in tensors if "vision_tower" in n and "lora_B" in n)
    save_file({**tensors, name: torch.ones_like(tensors[name])}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="sees"):
        LoraAdapter.load(folder)


@pytest.mark.parametrize("kind", ["llama-linear", "gemma3", "olmo2"])
@pytest.mark.parametrize("floats", ["f16", "bf16"])
def test_blocks_of_rows_make_the_same_file(
    kind: str, floats: FloatType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adapter = LoraAdapter.load(adapter_folder(kind))
    stored = SafetensorsFolder(model_folder(kind))
    made = dataclasses.replace(
        plan(model_folder(kind)), weights=MergedWeights(stored, "nf4", torch.float32, adapter)
    )
    write_gguf(made, floats, tmp_path / "whole.gguf", "x", silent)
    monkeypatch.setattr(merge, "_BLOCK", 7 * 128)  # 640 rows are 92 blocks, the last of them shorter
    assert max(b.numel() for b in made.weights.blocks("model.embed_tokens.weight")) == 7 * 128
    write_gguf(made, floats, tmp_path / "blocks.gguf", "x", silent)
    assert (tmp_path / "blocks.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def test_an_embedding_is_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    large = torch.randn(2**17, 128, dtype=torch.bfloat16)
    made = plan(changed(tmp_path, "llama-llama3", {"model.embed_tokens.weight": large}))
    monkeypatch.setattr(merge, "_BLOCK", 2**18)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    write_gguf(made, "f16", tmp_path / "large.gguf", "x", silent)
    assert _resident("VmHWM") - before < large.numel() * 4 / 2


def test_vectors_stay_f32_and_matrices_are_of_the_type_asked_for() -> None:
    types = {t.name: t.tensor_type.name for t in GGUFReader(exported("granite-llama3", "f16")).tensors}
    assert (
        types["rope_freqs.weight"] == types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    )
    assert {kind for name, kind in types.items() if types[name] != "F32"} == {"F16"}
    assert types["token_embd.weight"] == types["blk.0.attn_q.weight"] == "F16"
