"""Means and correlations that reports quote; :mod:`rlhf_lite.intervals` has the interval of a proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rlhf_lite.intervals import Z95


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct word bigrams over all word bigrams (Li et al. 2016): falls when answers grow alike."""
    bigrams = [pair for t in texts for pair in zip(t.split(), t.split()[1:], strict=False)]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def mean_with_interval(values: Sequence[float]) -> tuple[float, list[float]]:
    """Mean and its normal 95 % interval."""
    center = mean(values)
    spread = math.sqrt(sum((v - center) ** 2 for v in values) / max(len(values) - 1, 1) / len(values))
    return center, [center - Z95 * spread, center + Z95 * spread]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Pearson's correlation of two (B,) tensors; 0 where one does not vary."""
    if len(x) < 2 or float(x.std()) == 0 or float(y.std()) == 0:
        return 0.0
    return float(torch.corrcoef(torch.stack([x.float(), y.float()]))[0, 1])


def repetition(tokens: Sequence[int], size: int = 4) -> float:
    """Share of a text's n-grams that it has said before, 0 to 1 (seq-rep-n, Welleck et al. 2020); 0 for a short one."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
