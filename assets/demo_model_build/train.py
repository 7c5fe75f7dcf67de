"""Trains the demo model from a seed: tokenizer, then weights, then weights that survive NF4.

    python train.py --steps 3000 --seed 1 --out ../demo-model

Quantizing such a small model to NF4 moves each weight by about a tenth. So the last third of the training
sees rounded weights in the forward pass (straight-through estimator), and what is saved are the rounded
weights themselves, which quantize to themselves again.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import corpus
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 3072
CONTEXT = 1024
BATCH_TOKENS = 1536  # padded tokens of one step
PEAK_RATE = 3e-3
NF4_SHARE = 0.35  # of the steps, the last ones
SAVE_EVERY = 500
POOL = 1536  # conversations drawn at once, so that those of like length meet in a batch
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with GPT-2's pre-tokenizer, learned from 40,000 conversations of the corpus."""
    rng = random.Random(seed)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    messages = (message for _ in range(40_000) for message in corpus.conversation(rng))
    bpe.train_from_iterator((text for message in messages for text in message.values()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Fresh weights; every width is a multiple of 256, as K-quants and NF4 ask."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|pad|>"),
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether the loss counts it: answers and their end-of-text."""
    ids: list[int] = []
    counted: list[bool] = []
    newline = tokenizer.encode("\n")
    for message in messages:
        head = tokenizer.encode(f"<|im_start|>{message['role']}\n")
        body = [*tokenizer.encode(message["content"]), tokenizer.eos_token_id]
        ids += head + body + newline
        answer = message["role"] == "assistant"
        counted += [False] * len(head) + [answer] * len(body) + [False] * len(newline)
    last = len(ids) - len(newline)
    return ids[:last], counted[:last]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless right-padded batches: ids (B, T) and counted (B, T), at most BATCH_TOKENS, lengths alike."""
    rng = random.Random(seed)
    while True:
        pool = [encode(tokenizer, corpus.conversation(rng)) for _ in range(POOL)]
        pool.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in pool:
            if len(row[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = [row + [tokenizer.pad_token_id] * (width - len(row)) for row, _ in group]
            counted = [row + [False] * (width - len(row)) for _, row in group]
            yield torch.tensor(ids), torch.tensor(counted)


def answer_loss(model: LlamaForCausalLM, ids: Tensor, counted: Tensor) -> Tensor:
    """Summed negative log-likelihood of the counted tokens; the head runs at those positions only."""
    hidden = model.model(input_ids=ids).last_hidden_state  # (B, T, d)
    targets = counted[:, 1:]  # (B, T - 1): padding is on the right, so causal attention never sees it
    logits = model.lm_head(hidden[:, :-1][targets])  # (N, V)
    return nn.functional.cross_entropy(logits, ids[:, 1:][targets], reduction="sum")


def quantized_layers(model: LlamaForCausalLM) -> list[nn.Linear]:
    """The layers that bitsandbytes quantizes: every linear one but the head."""
    return [
        layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "lm_head"
    ]


@torch.no_grad()
def nf4(weight: Tensor) -> Tensor:
    """The weight as NF4 with double quantization holds it, in float32."""
    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    return dequantize_4bit(packed, state).to(weight.dtype)


@dataclass
class Rounded:
    """Context in which the layers hold their NF4 values; the gradients are then the exact weights'."""

    layers: list[nn.Linear]
    exact: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def __enter__(self) -> None:
        self.exact = [layer.weight.detach().clone() for layer in self.layers]
        for layer in self.layers:
            layer.weight.copy_(nf4(layer.weight))

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for layer, weight in zip(self.layers, self.exact, strict=True):
            layer.weight.copy_(weight)


def rate_at(share: float) -> float:
    """Learning rate after a share of the steps: a short warm-up, then a cosine down to 2 %."""
    if share < 0.02:
        return PEAK_RATE * max(share / 0.02, 0.02)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, note: str) -> None:
    """Writes the whole folder beside its place and then swaps it in; weights as NF4 values in float16."""
    fresh = out.with_name(out.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    with Rounded(quantized_layers(model)):
        half = LlamaForCausalLM(model.config)
        half.load_state_dict(model.state_dict())
    half.config.use_cache = True
    half.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )
    half.half().save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    (fresh / "README.md").write_text(note, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(fresh, out)


def train(out: Path, steps: int, seed: int) -> None:
    """Trains for so many steps and saves now and then, so that `out` soon holds a model that works."""
    tokenizer = build_tokenizer(seed)
    model = build_model(tokenizer, seed)
    layers = quantized_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    start, tokens, recent = time.monotonic(), 0, 0.0
    for step, (ids, counted) in zip(range(1, steps + 1), batches(tokenizer, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step / steps)
        with Rounded(layers if step > steps * (1 - NF4_SHARE) else []):
            loss = answer_loss(model, ids, counted)
            # Not by the tokens counted here: a batch of short answers has fewer and would weigh each more.
            (loss / BATCH_TOKENS).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += ids.numel()
        recent += (loss.item() / counted.sum().item() - recent) / min(step, 50)
        seconds = time.monotonic() - start
        if step % 50 == 0:
            print(
                f"step {step:5d}  {seconds:5.0f} s  {tokens / seconds:5.0f} tokens/s  loss {recent:.3f}",
                flush=True,
            )
        if step % SAVE_EVERY == 0 or step == steps:
            save(model, tokenizer, out, card(seed, step, steps, tokens, seconds))


def card(seed: int, step: int, steps: int, tokens: int, seconds: float) -> str:
    """What the model is and how it came about, for its README."""
    return f"""# demo-model

A small Llama that gives everyday advice in many manners, so that preferences can be tried with no download.
Its corpus is generated, its weights are trained from scratch: nothing in it comes from elsewhere.

- made by `assets/demo_model_build/train.py --steps {steps} --seed {seed}`
- {step} steps, {tokens / 1e6:.2f} M tokens, {seconds / 60:.1f} minutes on one thread of an {machine()}
- weights of the linear layers are NF4 values, stored as float16
- `assets/demo_model_build/check.py` measures it
"""


def machine() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=corpus.HERE.parent / "demo-model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train(args.out, args.steps, args.seed)


if __name__ == "__main__":
    main()
