"""Quantization types, the disk they need, and what each may cost in fidelity."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite.catalog import QUANTS
from rlhf_lite.errors import DiskFull, UserError

_FALLBACK_BITS = 6.9  # a K-quant of rows that are no multiple of 256 becomes a mix of Q5_0 and Q8_0
_MARGIN = 1.02
_SMALL_FILES = 64 * 2**20  # vocabulary (10 MB at 150k tokens), Modelfile, card


@dataclass(frozen=True)
class Quant:
    """One type of file. ``ftype`` is llama.cpp's number for it, ``bits`` bits per weight.

    ``max_kl`` (nats per position, mean) and ``min_top1`` (share of positions) are what an export must meet
    against the tuned model. Mean KL measured on a trained model of 4 M parameters: f16 1e-7, bf16 5e-6, q8_0 5e-5,
    q6_k 3e-4, q5_k_m 5e-4, q4_k_m 1.5e-3, q4_0 2.2e-3. The limits leave models whose weights quantize worse fifty
    times that and more, and stay far below what a wrong conversion gives (above 1 nat).
    """

    ftype: int
    bits: float
    max_kl: float
    min_top1: float


_TABLE = {
    "f16": Quant(ftype=1, bits=16, max_kl=1e-4, min_top1=0.99),
    "bf16": Quant(ftype=32, bits=16, max_kl=1e-3, min_top1=0.98),
    "q8_0": Quant(ftype=7, bits=8.5, max_kl=5e-3, min_top1=0.96),
    "q6_k": Quant(ftype=18, bits=6.6, max_kl=0.02, min_top1=0.92),
    "q5_k_m": Quant(ftype=17, bits=5.7, max_kl=0.05, min_top1=0.88),
    "q4_k_m": Quant(ftype=15, bits=4.85, max_kl=0.15, min_top1=0.80),
    "q4_0": Quant(ftype=2, bits=4.6, max_kl=0.25, min_top1=0.75),
}


def find_quant(name: str) -> Quant:
    """The row for a quantization type. Raises UserError naming those there are."""
    if name not in QUANTS:
        raise UserError(f"unknown quantization {name!r}", hint=f"one of {', '.join(QUANTS)}")
    return _TABLE[name]


def bytes_needed(quant: Quant, parameters: int, rows_fit_k_quants: bool) -> int:
    """Free disk an export wants: the F16 file, which is temporary where another type is asked for, and that one."""
    need = parameters * 2.0
    if quant.bits < 16:
        need += parameters * (quant.bits if rows_fit_k_quants else max(quant.bits, _FALLBACK_BITS)) / 8
    return int(need * _MARGIN + _SMALL_FILES)


def check_disk(folder: Path, need: int) -> None:
    """Raises DiskFull where ``folder``'s disk has less than ``need`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DiskFull(
            "not enough disk space for this export",
            why=f"it needs {need / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free",
            hint="free some space, or name another folder with --output",
        )
