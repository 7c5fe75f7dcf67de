"""How far are the parts of a PPO step from what this machine can do?

    python benchmarks/limit.py

A part cannot be faster than its bytes come from memory, nor than its operations are computed: its limit is the longer
of the two, by this machine's own rates. Those are measured first: the best of copy, triad and dot product over arrays
larger than the caches (McCalpin's STREAM, counting what is read and written), and a large fp32 matrix product.

- A token sampled for each of B answers: every matrix is read once for all of them, the output layer too, and the keys
  and values of what came before; 2 operations a parameter and answer, and 4 a layer, query number and token before it.
- Log-probabilities of 16 answers (a forward pass): the same matrices, read once; 2 operations a parameter of the blocks
  for each token of prompt and answer, and 2 of the output layer for each of the answer.
- The same with gradients: 2 operations more, for those of the activations. The 2 for those of the weights (Kaplan et
  al. 2020 count 6 a parameter for all) a frozen base has not; its adapter has 4.

The matrices are fp32, with the adapter in them, as PPO holds them on a CPU whatever the base is held in
(``engine/merged.py``). Left out: making them, which happens once for each view of a rollout and each minibatch; logits,
norms, activations.

Bytes and shapes are those of ``rlhf_lite/needs.py`` and ``shapes.py``. The built-in model's 3 M parameters fit into
many a processor's cache, which is why its limit by memory can be beaten; the random Llama's 25 M do not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import page
import torch
from record import Record
from rollout import random_model

from rlhf_lite import needs, paths, shapes
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.merged import merged
from rlhf_lite.engine.rollout import response_logprobs
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.settings import Inputs, Lora

RANK, FP32 = 16, 4
PROMPT, ANSWER, ROWS = 32, 96, 16
SHORT, LONG = 16, 80  # tokens of two samplings: what their difference costs is decoding alone
BATCHES = (1, 8, 32)
REPEATS = 5


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """How long each of ``repeats`` calls takes, after one that warms up."""
    call()
    found: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def bandwidth() -> dict[str, float]:
    """GB a second of each kernel, the best of several."""
    size = 2**26  # numbers in an array, 256 MiB
    a, b, c = (torch.ones(size) for _ in range(3))
    kernels: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (2, lambda: a.copy_(b)),
        "triad": (3, lambda: torch.add(b, c, alpha=3.0, out=a)),
        "dot": (2, lambda: torch.dot(b, c)),
    }
    return {
        name: 1e-9 * arrays * size * FP32 / min(seconds(call)) for name, (arrays, call) in kernels.items()
    }


def matrix_rate(n: int = 3072) -> float:
    """1e9 fp32 operations a second of a product of two (n, n), the best of several."""
    a, b = torch.rand(n, n), torch.rand(n, n)
    return 1e-9 * 2 * n**3 / min(seconds(lambda: a @ b))


def blocks_and_output(model: shapes.Model) -> tuple[int, int]:
    """Parameters of the blocks' matrices and of the output layer."""
    return model.linear_parameters, model.vocab_size * model.hidden_size


def decoding(model: shapes.Model, rows: int) -> tuple[float, float]:
    """Bytes and operations of one token for each of ``rows`` answers, half-way between the two samplings."""
    past = PROMPT + (SHORT + LONG) / 2
    parameters = sum(blocks_and_output(model))
    read = FP32 * parameters + needs.kv_cache(model, rows, 1, FP32) * past
    return read, rows * (2 * parameters + 4 * model.layers * model.q_width * past)


def one_pass(model: shapes.Model, gradients: bool) -> tuple[float, float]:
    """Bytes and operations of a pass over ``ROWS`` answers with their prompts."""
    blocks, output = blocks_and_output(model)
    tokens, answered = ROWS * (PROMPT + ANSWER), ROWS * ANSWER
    forward = 2 * blocks * tokens + 2 * output * answered
    forward += (
        2 * model.layers * model.q_width * tokens * (PROMPT + ANSWER)
    )  # half of each square: it is causal
    read = FP32 * (blocks + output)
    if not gradients:
        return read, forward
    return 2 * read, 2 * forward + 4 * model.lora_parameters(RANK) * tokens


class Parts:
    """What is timed, of one base."""

    def __init__(self, folder: Path) -> None:
        inputs = Inputs(stage="ppo", project="", model=str(folder), quantization="32bit", seed=0)
        self.base = SharedBase.load(inputs)
        self.base.add("policy", Lora(rank=RANK, alpha=2 * RANK), trainable=True)
        self.base.stops = frozenset()  # every answer has its full length
        dice = torch.Generator().manual_seed(0)
        drawn = torch.randint(100, 1000, (max(*BATCHES, ROWS), PROMPT + ANSWER), generator=dice).tolist()
        self.prompts, self.answers = [r[:PROMPT] for r in drawn], [r[PROMPT:] for r in drawn]

    def sampled(self, rows: int, tokens: int) -> None:
        generator = seeded(self.base.device, 0, 0)
        with self.base.view("policy"):
            sample(
                self.base, self.prompts[:rows], max_new_tokens=tokens, batch_size=rows, generator=generator
            )

    def decoded(self, rows: int) -> float:
        """Seconds a token for each of ``rows`` answers."""
        long, short = (median(seconds(lambda n=n: self.sampled(rows, n))) for n in (LONG, SHORT))
        return (long - short) / (LONG - SHORT)

    def passed(self, gradients: bool) -> float:
        """Seconds of a pass."""
        padded = text.pad(self.prompts[:ROWS], self.answers[:ROWS], self.base.pad, self.base.device)

        def call() -> None:
            loss = response_logprobs(self.base, padded).sum()
            if gradients:
                loss.backward()

        self.base.model.train(gradients)
        with self.base.view("policy"), merged(self.base.model), torch.set_grad_enabled(gradients):
            return median(seconds(call))


def against(told: float, needed: tuple[float, float], rates: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds, those of the two limits, and how many times the longer one it took."""
    read, operations = needed
    by_bytes, by_operations = 1e-9 * read / rates["GB/s"], 1e-9 * operations / rates["GFLOP/s"]
    return {
        "ms": 1e3 * told, "ms by bytes": 1e3 * by_bytes, "ms by operations": 1e3 * by_operations,
        "times the limit": told / max(by_bytes, by_operations),
    }  # fmt: skip


def main() -> None:
    if torch.cuda.is_available():
        sys.exit("this one is of a CPU's memory and fp32 rate: set CUDA_VISIBLE_DEVICES to nothing")
    kept = Record("limit")
    machine = {"of the machine": f"{torch.get_num_threads()} threads"}
    if not kept.has(**machine):
        rates = bandwidth()
        kept.add(
            machine,
            **{"GB/s": max(rates.values()), "by": rates, "GFLOP/s": matrix_rate()},
        )
    rates = next(row for row in kept.rows if row["key"] == machine)
    with tempfile.TemporaryDirectory() as temporary:
        models = {"built-in": paths.demo_model(), "random 25 M": random_model(Path(temporary) / "random")}
        for name, folder in models.items():
            measure(kept, rates, shapes.read(folder, name), folder)
    print(page.tables(kept.rows))


def measure(kept: Record, rates: dict[str, Any], model: shapes.Model, folder: Path) -> None:
    """The parts of one base."""
    decodings = {f"sample a token, batch {b}": b for b in BATCHES}
    passes = {"log-probs of 16 answers": False, "the same with gradients": True}
    keys = [{"model": model.id, "part": part} for part in [*decodings, *passes]]
    missing = kept.missing(keys)
    parts = Parts(folder) if missing else None
    for key in missing:
        assert parts, "it is made where something is missing"
        if (part := key["part"]) in decodings:
            rows = decodings[part]
            found = against(parts.decoded(rows), decoding(model, rows), rates)
        else:
            found = against(parts.passed(passes[part]), one_pass(model, passes[part]), rates)
        kept.add(key, **found)
        print(*key.values(), f"{found['times the limit']:.1f} times the limit", flush=True)


if __name__ == "__main__":
    main()
