"""One rollout of the shares that several processes have made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import accumulate

import torch

from rlhf_lite.engine.batches import widened
from rlhf_lite.engine.processes import Team
from rlhf_lite.engine.rollout import Rollout

TENSORS = [f.name for f in fields(Rollout) if f.type == "torch.Tensor"]


def whole(team: Team, make: Callable[[], Rollout], device: torch.device) -> Rollout:
    """One rollout, the same in every process, of the shares that ``make`` makes: rows in the processes' order, zero
    (False) where a share has fewer columns. All have to call it; raises as :meth:`Team.each` does."""
    if team.count == 1:
        return make()
    shares = team.each(lambda: _moved(make(), torch.device("cpu")))
    width = max(s.logprobs.shape[1] for s in shares)
    starts = accumulate((len(s.prompts) for s in shares), initial=0)
    batches = [
        [start + i for i in rows]
        for s, start in zip(shares, starts, strict=False)
        for rows in s.micro_batches
    ]
    tensors = {
        name: torch.cat([widened(x, width) if x.ndim > 1 else x for x in parts])
        for name in TENSORS
        if (parts := [getattr(s, name) for s in shares])
    }
    return _moved(
        Rollout(
            prompts=[p for s in shares for p in s.prompts],
            completions=[c for s in shares for c in s.completions],
            micro_batches=batches,
            **tensors,
        ),
        device,
    )


def _moved(rollout: Rollout, device: torch.device) -> Rollout:
    return replace(rollout, **{name: getattr(rollout, name).to(device) for name in TENSORS})
