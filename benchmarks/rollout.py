"""How many tokens a second does sampling give, beside ``transformers.generate`` and llama.cpp on the same weights?

    python benchmarks/rollout.py [PAIRS]

The policy's view of one base, 4-bit and 32-bit, temperature 1, nothing truncated, prompts of unequal length: the
built-in model, whose answers end by themselves at 20 to 60 tokens, and a random Llama of 25 M parameters with 32,000
tokens, whose answers hardly ever end. All by turns, medians of PAIRS (5) rounds; a token counts up to the end of its
answer. Ours gives log-probabilities as well; ``generate`` is measured without and with them (from the logits that it
keeps), llama.cpp without, on the same base as F16 with as many threads (see ``peers/llama_batch.py``).
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("peers")))

import page
import torch
from llama_batch import LlamaBatch, write_gguf
from record import Record
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf_lite import paths
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.settings import Inputs, Lora, Quantization

TOKENS = 96
BATCHES = (1, 8, 32)
WEIGHTS: tuple[Quantization, ...] = ("nf4", "32bit")
RANDOM = LlamaConfig(
    vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=3, num_attention_heads=8,
    num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
Asked = list[list[int]]
Sampler = Callable[[Asked, int], int]
"""Prompts and a seed → how many tokens it gave."""


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


def prompts(base: SharedBase, number: int) -> Asked:
    """Prompts of 20 to 60 tokens."""
    dice = random.Random(0)
    return [[dice.randrange(100, 1000) for _ in range(dice.randint(20, 60))] for _ in range(number)]


def questions(base: SharedBase, number: int) -> Asked:
    lines = [line for line in (paths.examples() / "prompts.txt").read_text().splitlines() if line]
    found = [text.prompt_ids(base.tokenizer, [{"role": "user", "content": line}]) for line in lines]
    return [found[i % len(found)] for i in range(number)]


def ours(base: SharedBase, asked: Asked, seed: int) -> int:
    with base.view("policy"):
        done = sample(
            base, asked, max_new_tokens=TOKENS, batch_size=len(asked), generator=seeded(base.device, seed, 0)
        )
    return sum(map(len, done.completions))


def generated(base: SharedBase, asked: Asked, seed: int, logprobs: bool) -> int:
    torch.manual_seed(seed)
    padded = text.pad_prompts(asked, base.pad, base.device)
    with base.view("policy"), torch.no_grad():
        out = base.model.generate(
            input_ids=padded.ids, attention_mask=padded.mask.long(), max_new_tokens=TOKENS, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, eos_token_id=sorted(base.stops), pad_token_id=base.pad,
            return_dict_in_generate=True, output_logits=logprobs,
        )  # fmt: skip
        answers = out.sequences[:, padded.ids.shape[1] :]
        if logprobs:
            for step, logits in enumerate(out.logits):
                logits.float().log_softmax(-1).gather(-1, answers[:, step, None])
    return sum(len(until_the_end(row, base.stops)) for row in answers.tolist())


def until_the_end(row: list[int], stops: frozenset[int]) -> list[int]:
    ends = [i for i, token in enumerate(row) if token in stops]
    return row[: ends[0] + 1] if ends else row


def rate(sampler: Sampler, asked: Asked, seed: int) -> float:
    began = time.perf_counter()
    return sampler(asked, seed) / (time.perf_counter() - began)


def measured(base: SharedBase, gguf: Path, asked: Asked, rounds: int) -> dict[str, Any]:
    """Tokens a second of each by turns, and ours over each: the rounds' median, least and most."""
    llama = LlamaBatch(gguf, len(asked), max(map(len, asked)) + TOKENS, torch.get_num_threads())
    samplers: dict[str, Sampler] = {
        "ours": lambda a, seed: ours(base, a, seed),
        "generate": lambda a, seed: generated(base, a, seed, logprobs=False),
        "generate with logprobs": lambda a, seed: generated(base, a, seed, logprobs=True),
        "llama.cpp": lambda a, seed: sum(map(len, llama.generate(a, TOKENS, seed))),
    }
    for sampler in samplers.values():
        sampler(asked, 0)
    found = [{name: rate(s, asked, seed) for name, s in samplers.items()} for seed in range(rounds)]
    llama.close()
    rates = {name: statistics.median(f[name] for f in found) for name in samplers}
    ratios = {f"ratio to {name}": spread([f["ours"] / f[name] for f in found]) for name in list(samplers)[1:]}
    return {**rates, **ratios, "rounds": rounds}


def spread(values: Sequence[float]) -> list[float]:
    """Median, least, most."""
    return [statistics.median(values), min(values), max(values)]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    kept = Record("rollout")
    print(f"tokens a second, medians of {rounds} rounds; {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = {
            "built-in": (paths.demo_model(), questions),
            "random 25 M": (random_model(folder / "random"), prompts),
        }
        for (name, (model, asking)), weights in itertools.product(models.items(), WEIGHTS):
            missing = kept.missing({"model": name, "weights": weights, "batch": b} for b in BATCHES)
            if missing:
                base, gguf = loaded(model, weights), write_gguf(model, weights, folder / "base.gguf")
            for key in missing:
                row = kept.add(key, **measured(base, gguf, asking(base, key["batch"]), rounds))
                print(*row["key"].values(), f"{row['ours']:.0f}", flush=True)
    print(page.tables(kept.rows))


if __name__ == "__main__":
    main()
