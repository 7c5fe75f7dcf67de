"""The other formats, as other programs load them: plain transformers, plain PEFT, llama.cpp with a LoRA."""

from __future__ import annotations

import ctypes
import dataclasses
import json
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
import torch
from export_models import CHATS, lora, silent, tiny_model, write
from peft import PeftModel
from test_export import PROMPTS, request
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lite.engine import text
from rlhf_lite.engine.base import load_causal_lm
from rlhf_lite.engine.export import folders
from rlhf_lite.engine.export.formats import export_adapter, export_safetensors
from rlhf_lite.engine.export.verify import kl_per_position, log_softmax
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.exports import ADAPTER_FILE

IDS = np.random.default_rng(0).integers(8, 300, 100).tolist()


def asked(output: Path, kind: str, **options: object):
    adapter = lora(kind, **options)
    return dataclasses.replace(request(output, adapter=adapter), model=tiny_model(kind), prompts=PROMPTS[:2])


@torch.no_grad()
def log_probs(model: Any) -> np.ndarray:
    return torch.log_softmax(model.eval()(torch.tensor([IDS])).logits[0].double(), -1).numpy()


def plain(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    assert np.isfinite(q).all()
    return float(kl_per_position(p, q).mean())


def test_merged_safetensors_are_the_tuned_model_to_plain_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SHARD", 200_000)
    (made,) = export_safetensors(asked(tmp_path, "qwen2"), silent)
    assert made.path == tmp_path / "tuned-safetensors"
    assert made.parity
    assert made.parity.passed
    index = json.loads((made.path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert {p.suffix for p in made.path.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
    base = tiny_model("qwen2")
    trained = load_causal_lm(str(base), "nf4", torch.device("cpu"))
    tuned = log_probs(PeftModel.from_pretrained(trained, str(lora("qwen2"))))
    assert kl(tuned, log_probs(plain(made.path))) < 1e-4  # F16's rounding
    assert kl(tuned, log_probs(plain(base))) > 0.01
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (made.path, base))
    for chat in CHATS:
        rendered = ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert rendered == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ours(rendered).input_ids == theirs(rendered).input_ids
    assert text.stop_ids(str(made.path), ours) == text.stop_ids(str(base), theirs)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({}, torch.float16),
    ],
)
def test_the_base_says_which_16_bits(config: dict[str, str], dtype: torch.dtype) -> None:
    assert folders.stored_dtype(config) is dtype


def test_weights_beyond_16_bits_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.MergedWeights, "blocks", lambda self, name: iter([torch.full((2, 2), 1e6)]))
    (tmp_path / "tuned-safetensors").mkdir()
    (tmp_path / "tuned-safetensors" / "older").touch()
    with pytest.raises(DataError, match="16-bit"):
        export_safetensors(asked(tmp_path, "qwen2"), silent)
    assert [p.name for p in tmp_path.rglob("*")] == ["tuned-safetensors", "older"]


def test_the_adapter_alone_is_the_same_to_plain_peft(tmp_path: Path) -> None:
    (made,) = export_adapter(asked(tmp_path, "qwen3"), silent)
    assert made.parity is None
    base = tiny_model("qwen3")
    assert json.loads((made.path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    theirs, ours = (
        log_probs(PeftModel.from_pretrained(plain(base), str(f))) for f in (lora("qwen3"), made.path)
    )
    assert np.array_equal(theirs, ours)
    assert AutoTokenizer.from_pretrained(made.path).chat_template


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {}), ("llama", {"use_rslora": True}), ("llama-sentencepiece", {}), ("qwen2", {})],
)
def test_llama_cpp_adds_the_adapter_to_a_gguf_of_the_base(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    (made,) = export_adapter(asked(tmp_path, kind, **options), silent)
    base = write(tmp_path / "base.gguf", tiny_model(kind), floats="f32")
    with LlamaModel(base, kv="f32", n_threads=1) as model:
        without = log_softmax(model.logits(IDS).astype(np.float64))
        adapter: Any = lib.llama_adapter_lora_init(model._model, str(made.path / ADAPTER_FILE).encode())
        assert adapter, "llama.cpp cannot load it"
        scale = (ctypes.c_float * 1)(1.0)
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        assert lib.llama_set_adapters_lora(model._ctx, adapters, 1, scale) == 0
        found = log_softmax(model.logits(IDS).astype(np.float64))
    tuned = log_probs(PeftModel.from_pretrained(plain(tiny_model(kind)), str(lora(kind, **options))))
    assert kl(tuned, found) < 1e-6
    assert kl(tuned, without) > 0.01


def test_an_architecture_that_gguf_has_not_keeps_its_peft_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise UserError("a model of type gpt2 cannot be exported")

    monkeypatch.setattr(folders, "write_lora", unknown)
    (made,) = export_adapter(asked(tmp_path, "qwen3"), silent)
    assert (made.path / "adapter_model.safetensors").is_file()
    assert not (made.path / ADAPTER_FILE).exists()
    assert ADAPTER_FILE not in (made.path / "README.md").read_text()
