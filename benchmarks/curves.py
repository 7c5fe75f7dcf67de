"""The arithmetic of rates and scores against KL: the least KL there is, what best-of-n costs, Gao's forms, the turn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

SPAN = 5  # steps to a mean of the smoothed curve


def least_kl(p: float, q: float) -> float:
    """Nats that raising a yes/no property from rate p to q costs at least; 0 for a rate that fell, infinite from 0."""
    if q <= p:
        return 0.0
    if p == 0:
        return math.inf
    rest = (1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0
    return q * math.log(q / p) + rest


def best_of_kl(n: int) -> float:
    """Nats between the best of n answers and one (Stiennon et al. 2020); where scores tie it is less."""
    return math.log(n) - (n - 1) / n


def rank_weights(answers: int, n: int) -> list[float]:
    """How likely each of so many answers, worst first, is the best of n that are drawn from them without replacement:
    every answer counts, so a mean by these weights varies less than one over separate groups (Nakano et al. 2021)."""
    return [math.comb(i, n - 1) / math.comb(answers, n) for i in range(answers)]


def distance(kl: float) -> float:
    """√KL; a measured KL may lie a little below 0."""
    return math.sqrt(max(kl, 0.0))


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each ``SPAN`` that follow one another; no others, so that its ends vary no more than its middle."""
    return [sum(values[i : i + SPAN]) / SPAN for i in range(len(values) - SPAN + 1)]


def fitted(kls: Sequence[float], gains: Sequence[float], bend: Callable[[float], float]) -> dict[str, float]:
    """Gao et al. (2022), least squares: a gain over the base is d·(a − b·bend(d)), d = √KL; bend is log for training,
    d itself for best-of-n. ``r2`` is the explained share of the gain's variance.
    """
    kept = [(distance(kl), gain) for kl, gain in zip(kls, gains, strict=True) if kl > 0]
    sides = np.array([[d, -d * bend(d)] for d, _ in kept])
    gain = np.array([g for _, g in kept])
    found = np.linalg.lstsq(sides, gain)[0]
    left, all_of_it = ((gain - sides @ found) ** 2).sum(), ((gain - gain.mean()) ** 2).sum()
    return {"a": float(found[0]), "b": float(found[1]), "r2": float(1 - left / all_of_it)}


def turn(kls: Sequence[float], rates: Sequence[float], budget: float) -> dict[str, float | None]:
    """The deepest fall of the smoothed rate, from where to where; what it is where the KL first reaches the budget, and
    where it ends. Not simply its top: a policy that is far away may come to fulfil the wish again."""
    kl, rate = smoothed(kls), smoothed(rates)
    tops = list(itertools.accumulate(range(len(rate)), lambda a, b: b if rate[b] > rate[a] else a))
    low = max(range(len(rate)), key=lambda i: rate[tops[i]] - rate[i])
    over = next((r for k, r in zip(kl, rate, strict=True) if k >= budget), None)
    return {
        "KL before the fall": kl[tops[low]], "rate before the fall": rate[tops[low]],
        f"rate at KL {budget:g}": over,
        "KL after the fall": kl[low], "rate after the fall": rate[low],
        "KL at the end": kl[-1], "rate at the end": rate[-1],
    }  # fmt: skip
