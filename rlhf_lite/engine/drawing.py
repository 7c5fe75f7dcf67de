"""One token drawn from a row of logits: exactly "temperature, top_p, seed", and an error where they are no numbers.

numpy's vectors, and not llama.cpp's own samplers, which go over the vocabulary one by one and draw from NaN without a
word.
"""

from __future__ import annotations

import numpy as np

from rlhf_lite.errors import DataError

_BLOCK = 512


def draw(logits: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """One token id from ``logits`` (V,): the argmax at temperature 0, else softmax(logits / temperature).

    With ``top_p`` 1 nothing is truncated: exactly the categorical distribution. Raises DataError on NaN.
    """
    top = logits.max()
    if not np.isfinite(top):
        raise DataError(
            "the model's output is not a number", why="its weights are damaged", hint="export again"
        )
    if temperature <= 0:
        return int(logits.argmax())
    weights = np.exp((logits - top) * np.float32(1 / temperature))  # (V,)
    if top_p >= 1:
        return _draw(weights, rng)
    # Tokens below the mean of what is cut off cannot be needed: all of them together are less than that.
    ids = np.flatnonzero(weights >= (1 - top_p) * weights.sum(dtype=np.float64) / len(weights))
    ids = ids[np.argsort(-weights[ids], kind="stable")]
    sums = np.cumsum(weights[ids], dtype=np.float64)
    kept = np.searchsorted(sums, top_p * weights.sum(dtype=np.float64)) + 1
    return int(ids[_draw(weights[ids[:kept]], rng)])


def _draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """A place, by its share of all ``weights``: first its block, as sums over a whole vocabulary take longer."""
    sums = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64)
    drawn, ends = rng.random() * sums.sum(), np.cumsum(sums)
    block = min(int(np.searchsorted(ends, drawn, side="right")), len(sums) - 1)
    inside = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    place = np.searchsorted(inside, drawn - (ends[block] - sums[block]), side="right")
    return block * _BLOCK + min(int(place), len(inside) - 1)
