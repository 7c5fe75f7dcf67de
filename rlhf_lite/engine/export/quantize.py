"""Quantization types by llama.cpp's numbers, and what each may cost in fidelity. Their sizes are in ``quants``."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_lite.catalog import QUANTS
from rlhf_lite.errors import UserError


@dataclass(frozen=True)
class Quant:
    """One type of file. ``ftype`` is llama.cpp's number for it.

    ``max_kl`` (nats per position, mean) and ``min_top1`` (share of positions) are what an export must meet
    against the tuned model. Mean KL measured on a trained model of 4 M parameters: f16 1e-7, bf16 5e-6, q8_0 5e-5,
    q6_k 3e-4, q5_k_m 5e-4, q4_k_m 1.5e-3, q4_0 2.2e-3. The limits leave models whose weights quantize worse fifty
    times that and more, and stay far below what a wrong conversion gives (above 1 nat).
    """

    ftype: int
    max_kl: float
    min_top1: float


_TABLE = {
    "f16": Quant(ftype=1, max_kl=1e-4, min_top1=0.99),
    "bf16": Quant(ftype=32, max_kl=1e-3, min_top1=0.98),
    "q8_0": Quant(ftype=7, max_kl=5e-3, min_top1=0.96),
    "q6_k": Quant(ftype=18, max_kl=0.02, min_top1=0.92),
    "q5_k_m": Quant(ftype=17, max_kl=0.05, min_top1=0.88),
    "q4_k_m": Quant(ftype=15, max_kl=0.15, min_top1=0.80),
    "q4_0": Quant(ftype=2, max_kl=0.25, min_top1=0.75),
}


def find_quant(name: str) -> Quant:
    """The row for a quantization type. Raises UserError naming those there are."""
    if name not in QUANTS:
        raise UserError(f"unknown quantization {name!r}", hint=f"one of {', '.join(QUANTS)}")
    return _TABLE[name]
