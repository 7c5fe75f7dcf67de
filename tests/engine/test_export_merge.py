"""Merging: the base as the training process held it, plus exactly what PEFT would add."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from export_models import demo_model, lora, tiny_model, whole
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlhf_lite.engine.base import load_causal_lm
from rlhf_lite.engine.export.merge import LoraAdapter, MergedWeights, SafetensorsFolder
from rlhf_lite.errors import DataError, RlhfLiteError, UserError

PROJECTION = "model.layers.0.self_attn.q_proj"


def merged(folder: Path, quantization: str = "nf4", adapter: Path | None = None) -> MergedWeights:
    loaded = LoraAdapter.load(adapter) if adapter is not None else None
    return MergedWeights(SafetensorsFolder(folder), quantization, torch.float32, loaded)


def dequantized(folder: Path) -> dict[str, torch.Tensor]:
    """What a 4-bit model, loaded as training loads it, holds in memory."""
    model = load_causal_lm(str(folder), "nf4", torch.device("cpu"))
    held = {}
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        held[name] = parameter.data if state is None else bnb.dequantize_4bit(parameter.data, state)
    return held


@pytest.mark.parametrize(
    "folder", [tiny_model("llama"), tiny_model("qwen2"), tiny_model("qwen3"), demo_model()]
)
def test_the_base_is_the_one_that_was_trained_on(folder: Path) -> None:
    ours = merged(folder)
    held = dequantized(folder)
    assert PROJECTION + ".weight" in held
    for name, weight in held.items():
        assert torch.equal(whole(ours, name), weight.float()), name


def test_nf4_changes_matrices_but_not_the_embedding() -> None:
    plain, four_bit = merged(tiny_model("qwen2"), "32bit"), merged(tiny_model("qwen2"))
    changed = {n for n in plain.shapes if not torch.equal(whole(plain, n), whole(four_bit, n))}
    assert PROJECTION + ".weight" in changed
    assert all("proj.weight" in name for name in changed)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_merges_what_peft_merges(options: dict[str, object]) -> None:
    folder = tiny_model("qwen3")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(dequantized(folder), strict=False)
    theirs = PeftModel.from_pretrained(model, str(lora("qwen3", **options))).merge_and_unload()
    ours = merged(folder, adapter=lora("qwen3", **options))
    for name, weight in theirs.named_parameters():
        assert torch.allclose(whole(ours, name), weight, rtol=0, atol=1e-6), name


def test_one_tensor_of_a_sharded_model() -> None:
    assert (tiny_model("qwen2") / "model.safetensors.index.json").is_file()
    model = AutoModelForCausalLM.from_pretrained(tiny_model("qwen2"), dtype=torch.float32)
    ours = merged(tiny_model("qwen2"), "32bit")
    assert torch.equal(whole(ours, "lm_head.weight"), model.lm_head.weight)
    assert set(ours.shapes) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"fan_in_fan_out": True},
        {"trainable_token_indices": [1, 2]},
        {"init_lora_weights": "pissa_niter_4"},
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(lora("qwen3"), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match="cannot be exported"):
        LoraAdapter.load(folder)


def adapter_with(tmp_path: Path, tensors: dict[str, torch.Tensor], *, without: str = "-") -> Path:
    folder = tmp_path / "adapter"
    shutil.copytree(lora("qwen3"), folder)
    kept = {k: v for k, v in load_file(folder / "adapter_model.safetensors").items() if without not in k}
    save_file({**kept, **tensors}, folder / "adapter_model.safetensors")
    return folder


def test_a_reward_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="score"):
        LoraAdapter.load(adapter_with(tmp_path, {"base_model.model.score.weight": torch.ones(1, 128)}))


def test_half_a_pair_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="q_proj"):
        LoraAdapter.load(adapter_with(tmp_path, {}, without=f"base_model.model.{PROJECTION}.lora_A"))


def test_a_rank_that_the_config_does_not_name_is_damage(tmp_path: Path) -> None:
    name = f"base_model.model.{PROJECTION}.lora_A.weight"
    with pytest.raises(DataError, match="q_proj"):
        LoraAdapter.load(adapter_with(tmp_path, {name: torch.ones(5, 128)}))


def test_an_adapter_of_another_base() -> None:
    with pytest.raises(DataError, match="does not fit"):
        merged(tiny_model("llama"), adapter=lora("qwen3"))


def test_not_an_adapter_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="adapter_config"):
        LoraAdapter.load(tmp_path)


def test_a_pickled_checkpoint_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match="safetensors"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_checkpoint(tmp_path: Path, keep: int) -> None:
    whole = (tiny_model("llama") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(DataError, match="cannot read"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "missing.safetensors"])
def test_an_index_that_names_a_file_it_should_not(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(RlhfLiteError) as caught:
        SafetensorsFolder(tmp_path)
    assert isinstance(caught.value, DataError)
