"""The converter against transformers: same logits, same tokens, same rendered chats; wrong ones are noticed."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import CHATS, KINDS, LONG_TOKEN, plan, silent, tiny_gguf, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lite.engine import text
from rlhf_lite.engine.export.gguf import write_gguf
from rlhf_lite.engine.export.verify import kl_per_position, log_softmax
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.errors import DataError, UserError

MAX_KL = 1e-4  # what an F16 file may cost; a random model costs more than a trained one
TRICKY = [
    "Hello  world, it's 1234567 o'clock!\n\n\tLet's go…",
    "naïve café Ünïcödé 日本語 한국어 Привет مرحبا",
    "👩‍👩‍👧‍👦🏳️‍🌈 \u200b\u00a0 e\u0301",
    f"x{LONG_TOKEN}y {LONG_TOKEN}{LONG_TOKEN} ==",
    "<|im_start|>user\nhi<|im_end|>\n<|halt|>",
    "def f(x):\r\n        return x   # ok\n\n\n",
    " lead",
    "1 22 333 4444 3.14 IT'S we'Ll",
]


def reference(folder: Path, ids: list[int]) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1).numpy()


def mean_kl(folder: Path, file: Path) -> float:
    """Over 200 arbitrary tokens, so that scaled positions matter."""
    ids = np.random.default_rng(0).integers(5, 300, 200).tolist()
    with LlamaModel(file, kv="f32", n_threads=1) as model:
        found = log_softmax(model.logits(ids))
    assert np.isfinite(found).all()
    return float(kl_per_position(reference(folder, ids), found).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_same_logits(kind: str) -> None:
    assert mean_kl(tiny_model(kind), tiny_gguf(kind)) < MAX_KL


@pytest.mark.parametrize("kind", KINDS)
def test_same_tokens(kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(kind))
    strings = [*TRICKY, *(unicodedata.normalize("NFC", s) for s in TRICKY)]
    with LlamaModel(tiny_gguf(kind), n_threads=1) as model:
        found = [model.tokenize(s) for s in strings]
    assert found == [text.encode(tokenizer, s) for s in strings]


@pytest.mark.parametrize("kind", KINDS)
def test_chats_render_the_same(kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(kind))
    with LlamaModel(tiny_gguf(kind), n_threads=1) as model:
        for chat in CHATS:
            assert model.render(chat) == tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True
            )


@pytest.mark.parametrize("kind", KINDS)
def test_every_stop_token_ends_an_answer(kind: str) -> None:
    with LlamaModel(tiny_gguf(kind), n_threads=1) as model:
        assert model.is_eog(3)
        assert model.is_eog(4)  # named in generation_config only
        assert not model.is_eog(200)


def changed(tmp_path: Path, kind: str, **config: object) -> Path:
    """A copy of a tiny model with its config.json changed."""
    folder = tmp_path / "changed"
    shutil.copytree(tiny_model(kind), folder)
    old = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**old, **config}))
    return folder


def test_missing_output_matrix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lm_head"):
        plan(changed(tmp_path, "llama", tie_word_embeddings=False))


def with_weights(tmp_path: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """A copy of the tiny Llama with tensors replaced, or removed where None."""
    folder = tmp_path / "weights"
    shutil.copytree(tiny_model("llama"), folder)
    tensors = {**load_file(folder / "model.safetensors"), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
    return folder


def test_a_missing_layer_part(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ffn_up"):
        plan(with_weights(tmp_path, {"model.layers.1.mlp.up_proj.weight": None}))


def test_an_unknown_tensor(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gizmo"):
        plan(with_weights(tmp_path, {"model.layers.1.mlp.gizmo.weight": torch.ones(2, 2)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_do_not_fit(tmp_path: Path, value: float) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    weight = load_file(tiny_model("llama") / "model.safetensors")[name].clone()
    weight[3, 3] = value
    with pytest.raises(DataError, match="up_proj"):
        write_gguf(plan(with_weights(tmp_path, {name: weight})), "f16", tmp_path / "x.gguf", "x", silent)


def test_more_tokens_than_embedding_rows(tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    short = load_file(tiny_model("llama") / "model.safetensors")[name][:300].clone()
    with pytest.raises(DataError, match="no row"):
        plan(with_weights(tmp_path, {name: short}))


def with_tokenizer(tmp_path: Path, **change: object) -> Path:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_model("llama"), folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**spec, **change}))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}},
    ],
)
def test_a_tokenizer_gguf_cannot_express_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        plan(with_tokenizer(tmp_path, **change))


def test_a_broken_chat_template_is_met_at_export(tmp_path: Path) -> None:
    folder = tmp_path / "template"
    shutil.copytree(tiny_model("llama"), folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}")
    with pytest.raises(DataError, match="template"):
        plan(folder)


@pytest.mark.parametrize("name", ["phi3-tuned", "my-ModernBERT", "plain"])
def test_a_name_llama_cpp_would_misread(tmp_path: Path, name: str) -> None:
    write_gguf(plan(tiny_model("llama")), "f16", tmp_path / "named.gguf", name, silent)
    with LlamaModel(tmp_path / "named.gguf", n_threads=1) as model:
        assert (model.name == name) == (name == "plain")
