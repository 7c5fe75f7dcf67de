"""Rows of like length, laid out together for one pass, and back in their own order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase


def by_length(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[int]:
    """Rows in the order of their lengths: neighbours waste least padding."""
    return sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(completions[i]))


def split(batches: Sequence[list[int]], rows: int) -> list[list[int]]:
    """The same rows in the same order, at most so many together."""
    return [batch[i : i + rows] for batch in batches for i in range(0, len(batch), rows)]


def laid_out(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    rows: Sequence[int],
) -> text.Padded:
    """These rows for one pass."""
    return text.pad([prompts[i] for i in rows], [completions[i] for i in rows], base.pad, base.device)


def unsorted(parts: Sequence[torch.Tensor], order: list[int]) -> torch.Tensor:
    """Batches of different widths, (b, t, …), as one (B, T, …) in the rows' own order, zero (False) on the right."""
    width = max(p.shape[1] for p in parts)
    stacked = torch.cat([widened(p, width) for p in parts])
    inverse = torch.tensor(order, device=stacked.device).argsort()
    return stacked[inverse]


def widened(x: torch.Tensor, width: int) -> torch.Tensor:
    """(B, t, …) as (B, width, …), zero (False) on the right."""
    return nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, width - x.shape[1]))
