"""Measures what the demo model has to show on prompts unknown to its training; exit code 1 if it falls short.

    python check.py --model ../demo-model

All of it at temperature 1 without truncation, on the NF4 base (double quantization) that tuning starts from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import manners
import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

sys.path.insert(0, str(corpus.HERE.parent / "examples"))
import judge

MAX_NEW_TOKENS = 96
LEAST_ENDED, LEAST_ON_TOPIC, LEAST_POLE = 0.95, 0.85, 0.15
CHECK_SEED = 2026
BATCH = 50
Model = Tokenizer = Any  # what transformers' Auto classes return


@dataclass(frozen=True)
class Answers:
    """What a model said: one row for each prompt given."""

    ids: Tensor  # (B, P + T) prompt, padded on the left, and completion
    mask: Tensor  # (B, P + T), True = a token that the model chose, end-of-text included
    texts: list[str]
    ended: list[bool]


def load_nf4(folder: Path) -> Model:
    """The model as tuning loads it on a CPU: NF4, double quantization, computing in float32."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype=torch.float32)
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False  # its packed weights cannot be dequantized again
    return model.eval()


def load_unquantized(folder: Path) -> Model:
    """The stored 16-bit weights, computing in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def answer(model: Model, tokenizer: Tokenizer, questions: Sequence[str], seed: int) -> Answers:
    """One answer to each question, sampled at temperature 1 from the untruncated distribution."""
    torch.manual_seed(seed)
    chats = [[{"role": "user", "content": question}] for question in questions]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(
        **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, temperature=1.0, top_p=1.0, top_k=0
    )
    width = inputs["input_ids"].shape[1]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, width:] = ids[:, width:] != tokenizer.pad_token_id
    ended = (ids[:, width:] == tokenizer.eos_token_id).any(dim=1).tolist()
    return Answers(ids, mask, tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True), ended)


@torch.no_grad()
def kl_between(model: Model, other: Model, tokenizer: Tokenizer, said: Answers) -> float:
    """KL(model || other) in nats an answer, exact over the vocabulary at each token that `model` sampled."""
    attention = said.ids.ne(tokenizer.pad_token_id).long()
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logs = [
        m(input_ids=said.ids, attention_mask=attention, position_ids=positions).logits[:, :-1][
            said.mask[:, 1:]
        ]
        for m in (model, other)
    ]  # each (N, V)
    ours, theirs = (x.log_softmax(-1) for x in logs)
    return ((ours.exp() * (ours - theirs)).sum() / len(said.texts)).item()


def shares(prompts: Sequence[corpus.Prompt], texts: Sequence[str], ended: Sequence[bool]) -> dict[str, float]:
    """Share of the answers that end, that are on topic, and that show each pole of each manner."""
    count = len(texts)
    on_topic = sum(corpus.topic_of(t) == p.topic.name for p, t in zip(prompts, texts, strict=True))
    found = {"ended": sum(ended) / count, "on topic": on_topic / count}
    for pole in (*manners.POLES, *manners.POLES.values()):
        found[pole] = sum(judge.has(pole, text) for text in texts) / count
    return found


def least(name: str) -> float:
    """The smallest share that will do."""
    return {"ended": LEAST_ENDED, "on topic": LEAST_ON_TOPIC}.get(name, LEAST_POLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=corpus.HERE.parent / "demo-model")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    nf4, unquantized = load_nf4(args.model), load_unquantized(args.model)
    prompts = corpus.held_out_prompts(args.prompts, CHECK_SEED) * args.samples
    said = [
        answer(nf4, tokenizer, [prompt.text for prompt in prompts[at : at + BATCH]], CHECK_SEED + at)
        for at in range(0, len(prompts), BATCH)
    ]
    texts = [text for part in said for text in part.texts]
    found = shares(prompts, texts, [end for part in said for end in part.ended])
    for prompt, text in list(zip(prompts, texts, strict=True))[:5]:
        print(f"> {prompt.text}\n{text}\n")
    for name, share in found.items():
        print(f"{name:12} {share:6.1%}  (at least {least(name):.0%})")
    counts = torch.cat([part.mask.sum(1) for part in said]).float()
    print(f"tokens an answer: mean {counts.mean():.1f}, most {int(counts.max())}")
    kl = sum(kl_between(nf4, unquantized, tokenizer, part) for part in said) / len(said)
    print(f"KL of NF4 from the stored 16 bit: {kl:.2e} nats an answer")
    sys.exit(any(share < least(name) for name, share in found.items()))


if __name__ == "__main__":
    main()
