"""Models that the export and chat tests share: tiny ones of each architecture, and the demo model as GGUF.

Built once per test run. Their weights are random but not small, so that a wrong conversion changes every logit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from rlhf_lite import paths
from rlhf_lite.engine import text
from rlhf_lite.engine.export.gguf import FloatType, GgufPlan, plan_gguf, write_gguf
from rlhf_lite.engine.export.merge import LoraAdapter, MergedWeights, SafetensorsFolder, read_json
from rlhf_lite.engine.export.vocab import read_vocabulary
from rlhf_lite.settings import Quantization

_KEEP = tempfile.TemporaryDirectory(prefix="rlhf-lite-tests-")
ROOT = Path(_KEEP.name)
LONG_TOKEN = "=" * 100
SECOND_STOP = "<|halt|>"  # a text llama.cpp does not take for a stop token by itself
KINDS = ("llama", "llama-sentencepiece", "qwen2", "qwen3")
SENTENCES = [
    f"{who} {does} {what} {where}, and it's {how} 12{i} times.\n"
    for i, who in enumerate(("The cat", "A bird", "My neighbour", "Someone"))
    for does in ("sees", "eats", "paints", "forgets")
    for what in ("a house", "the café", "two apples", "nothing")
    for where in ("at night", "in winter", "under the bridge")
    for how in ("good", "strange", "never seen")
]
CHAT = [{"role": "user", "content": "The cat sees a house?"}]
CHATS = [
    CHAT,
    [{"role": "system", "content": "Be short."}, *CHAT],
    [{"role": "user", "content": "café 日本 🙂 e\u0301"}],
]
# Published regexes of the two tokenizers.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def _byte_level(split: str, *, nfc: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=not nfc))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    specials = ["<unk>", "<s>", "<|im_start|>", "<|im_end|>", SECOND_STOP]
    if kind == "llama-sentencepiece":
        tokenizer, alphabet = _sentencepiece(), [f"<0x{i:02X}>" for i in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials + alphabet, show_progress=False)
        # A word boundary keeps SentencePiece-style merges inside words while training only.
        words = [("▁" + w) for s in SENTENCES for w in s.split()]
        tokenizer.normalizer, kept = None, tokenizer.normalizer  # type: ignore[assignment]
        tokenizer.train_from_iterator(words, trainer)
        tokenizer.normalizer = kept
        spec = json.loads(tokenizer.to_str())  # byte pieces are ordinary vocabulary, not added tokens
        spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in specials]
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    else:
        tokenizer = _byte_level(QWEN2_SPLIT if "qwen" in kind else LLAMA3_SPLIT, nfc="qwen" in kind)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens([AddedToken(LONG_TOKEN, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token=SECOND_STOP,
        unk_token="<unk>",
        chat_template=text.CHATML,
    )


def make_config(kind: str, rows: int) -> PretrainedConfig:
    shape = {
        "vocab_size": rows,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.12,
        "eos_token_id": [3, 4],
        "bos_token_id": 1,
        "pad_token_id": 4,
    }
    if kind == "qwen2":
        return Qwen2Config(**shape, tie_word_embeddings=False)
    if kind == "qwen3":
        return Qwen3Config(**shape, head_dim=64, tie_word_embeddings=True)
    if kind == "llama-sentencepiece":
        return LlamaConfig(**shape, attention_bias=True)
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaConfig(**shape, rope_parameters=scaling, tie_word_embeddings=True)


@cache
def tiny_model(kind: str) -> Path:
    """A model folder: "llama" (scaled positions, tied), "llama-sentencepiece", "qwen2" (sharded), "qwen3" (tied).

    The embedding has more rows than the tokenizer has tokens, as published models do.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer(kind)
    model = AutoModelForCausalLM.from_config(make_config(kind, (len(tokenizer) + 63) // 64 * 64))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms start at 1 and biases at 0, where a mix-up would not show
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = ROOT / kind
    model.save_pretrained(folder, max_shard_size="200KB" if kind == "qwen2" else "1GB")
    tokenizer.save_pretrained(folder)
    return folder


@cache
def lora(kind: str, **options: Any) -> Path:
    """A PEFT adapter folder for :func:`tiny_model`, or for the demo model, with a B that is not zero."""
    folder = demo_model() if kind == "demo" else tiny_model(kind)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(1)
    tuned = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    out = ROOT / f"{kind}-lora-{'-'.join(options)}"
    tuned.save_pretrained(str(out))
    return out


def demo_model() -> Path:
    return paths.demo_model()


def plan(folder: Path, quantization: Quantization = "32bit", adapter: Path | None = None) -> GgufPlan:
    """What an export on a CPU would write."""
    tokenizer = text.load_tokenizer(str(folder), trust_remote_code=False, plain_template=False)
    stored = SafetensorsFolder(folder)
    lora_adapter = LoraAdapter.load(adapter) if adapter is not None else None
    vocabulary = read_vocabulary(
        tokenizer, text.stop_ids(str(folder), tokenizer), stored.shapes["model.embed_tokens.weight"][0]
    )
    weights = MergedWeights(stored, quantization, torch.float32, lora_adapter)
    return plan_gguf(read_json(folder / "config.json"), vocabulary, weights)


def whole(weights: MergedWeights, name: str) -> torch.Tensor:
    return torch.cat(list(weights.blocks(name)))


def write(
    target: Path, folder: Path, quantization: Quantization = "32bit", *, floats: FloatType = "f16"
) -> Path:
    write_gguf(plan(folder, quantization), floats, target, "test", silent)
    return target


@cache
def demo_gguf() -> Path:
    """The demo model as F16, without an adapter."""
    return write(ROOT / "demo.gguf", demo_model(), "nf4")


@cache
def tiny_gguf(kind: str) -> Path:
    return write(ROOT / f"{kind}.gguf", tiny_model(kind))


silent: Callable[[str, int, int], None] = lambda what, done, total: None  # noqa: E731
