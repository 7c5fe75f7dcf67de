"""Log-probabilities of given tokens, without ever holding the logits of many: a large vocabulary's, of all tokens at
once, would be larger than a whole 0.5 B model in 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rlhf_lite.catalog import LOGITS_AT_ONCE

Logits = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states (n, D) → logits (n, V). Nothing in it is trained."""


def token_logprobs(hidden: torch.Tensor, logits_of: Logits, targets: torch.Tensor) -> torch.Tensor:
    """Log-softmax in fp32 at the targets: (N, D), (N,) → (N,)."""
    if torch.is_grad_enabled() and hidden.requires_grad:
        found = _WithSlopes.apply(hidden, logits_of, targets)
        assert isinstance(found, torch.Tensor), "a function of autograd gives what its forward gives"
        return found
    chunks = zip(hidden.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True)
    return torch.cat([_at(logits_of(h), t) for h, t in chunks])


def _at(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None]).squeeze(-1)


class _WithSlopes(torch.autograd.Function):
    """A token's log-probability is one number and depends on one hidden state: its slope, (D,), is taken while its
    logits are there, and all that waits for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, logits_of: Logits, targets: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for h, t in zip(hidden.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True):
            with torch.enable_grad():
                state = h.detach().requires_grad_()
                picked = _at(logits_of(state), t)
                slopes += torch.autograd.grad(picked.sum(), state)
            found.append(picked.detach())
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        [slopes], [gradient] = ctx.saved_tensors, gradients
        return gradient[:, None].to(slopes.dtype) * slopes, None, None
