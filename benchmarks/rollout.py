"""How many tokens a second does sampling give, beside ``transformers.generate`` on the same weights?

    python benchmarks/rollout.py [PAIRS]

The policy's view of one base, 4-bit and 32-bit, temperature 1, nothing truncated, prompts of unequal length: the
built-in model, whose answers end by themselves at 20 to 60 tokens, and a random Llama of 25 M parameters with 32,000
tokens, whose answers never end. Ours and the peer in turn, medians of PAIRS (5) pairs; a token counts up to the end of
its answer. Ours gives log-probabilities as well, the peer does not.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf_lite import paths
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.settings import Inputs, Lora, Quantization

TOKENS = 96
BATCHES = (1, 8, 32)
RANDOM = LlamaConfig(
    vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=3, num_attention_heads=8,
    num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def random_model(folder: Path) -> Path:
    """25 M parameters with the built-in model's tokenizer, whose ids it knows many more of."""
    torch.manual_seed(0)
    LlamaForCausalLM(RANDOM).save_pretrained(folder)
    AutoTokenizer.from_pretrained(paths.demo_model()).save_pretrained(folder)
    return folder


def loaded(model: Path, quantization: Quantization) -> SharedBase:
    base = SharedBase.load(
        Inputs(stage="ppo", project="", model=str(model), quantization=quantization, seed=0)
    )
    base.add("policy", Lora(), trainable=True)
    return base


def prompts(base: SharedBase, number: int) -> list[list[int]]:
    """Prompts of 20 to 60 tokens."""
    dice = random.Random(0)
    return [[dice.randrange(100, 1000) for _ in range(dice.randint(20, 60))] for _ in range(number)]


def questions(base: SharedBase, number: int) -> list[list[int]]:
    lines = [line for line in (paths.examples() / "prompts.txt").read_text().splitlines() if line]
    found = [text.prompt_ids(base.tokenizer, [{"role": "user", "content": line}]) for line in lines]
    return [found[i % len(found)] for i in range(number)]


def ours(base: SharedBase, asked: list[list[int]], seed: int) -> int:
    with base.view("policy"):
        done = sample(
            base, asked, max_new_tokens=TOKENS, batch_size=len(asked), generator=seeded(base.device, seed, 0)
        )
    return sum(map(len, done.completions))


def theirs(base: SharedBase, asked: list[list[int]], seed: int) -> int:
    torch.manual_seed(seed)
    padded = text.pad(asked, [[]] * len(asked), base.pad, base.device)
    with base.view("policy"), torch.no_grad():
        out = base.model.generate(
            input_ids=padded.ids, attention_mask=padded.mask.long(), max_new_tokens=TOKENS, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, eos_token_id=sorted(base.stops), pad_token_id=base.pad,
        )[:, padded.prompt_width :]  # fmt: skip
    count = 0
    for row in out.tolist():
        ends = [i for i, token in enumerate(row) if token in base.stops]
        count += ends[0] + 1 if ends else len(row)
    return count


def rate(
    call: Callable[[SharedBase, list[list[int]], int], int],
    base: SharedBase,
    asked: list[list[int]],
    seed: int,
) -> float:
    began = time.perf_counter()
    return call(base, asked, seed) / (time.perf_counter() - began)


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"tokens a second, medians of {pairs} pairs; {torch.get_num_threads()} threads")
    print("| model | weights | batch | ours | generate | ratio | least | most |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "built-in": (paths.demo_model(), questions),
            "random 25 M": (random_model(Path(folder)), prompts),
        }
        for name, (model, asking) in models.items():
            for quantization in ("nf4", "32bit"):
                base = loaded(model, quantization)
                for batch in BATCHES:
                    asked = asking(base, batch)
                    for call in (ours, theirs):
                        call(base, asked, 0)
                    found = [(rate(ours, base, asked, n), rate(theirs, base, asked, n)) for n in range(pairs)]
                    mine, other = (statistics.median(side) for side in zip(*found, strict=True))
                    ratios = sorted(a / b for a, b in found)
                    print(
                        f"| {name} | {quantization} | {batch} | {mine:.0f} | {other:.0f} "
                        f"| {statistics.median(ratios):.2f} | {ratios[0]:.2f} | {ratios[-1]:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
