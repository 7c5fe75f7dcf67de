"""The reward head: one number from hidden states.

It is a bias-free linear layer in fp32 that starts at zero. The *reward is the sum of the head over the completion's
tokens*, the stop token included, divided by :data:`POOL_TOKENS`. Reading it at the last token alone, as sequence
classifiers do, asks that one state to have gathered all that an answer was, which in a small model and from some sixty
labels it had not: an adapter trained so was right about as often as a coin.

The folder of a reward adapter is plain PEFT: adapter and ``score.weight`` load with PEFT, but a stock sequence
classifier reads the score at the last token, which is not the reward. ``reward.json`` beside it says how it is read,
and holds what a head without bias cannot: mean and standard deviation on the policy's own samples.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from rlhf_lite.errors import DataError
from rlhf_lite.settings import write_whole

SCORE_KEY = "base_model.model.score.weight"
SCALE_FILE = "reward.json"
POOLING = "sum over completion tokens / 16"
POOL_TOKENS = 16.0
"""Keeps the reward of a usual answer near the head's own scale; a constant of the format, not a knob."""


@dataclass(frozen=True)
class RewardScale:
    """Mean and standard deviation of the raw reward over the policy's own samples."""

    mean: float = 0.0
    std: float = 1.0


def new_head(width: int, device: torch.device) -> nn.Linear:
    """A fresh head: 0 for everything, so that no wish begins with an opinion."""
    head = nn.Linear(width, 1, bias=False, dtype=torch.float32, device=device)
    nn.init.zeros_(head.weight)
    return head


class RunningSum(nn.Module):
    """A head as a sequence classifier's ``score``: at each token the reward of the text so far, (B, T, D) → (B, T, 1).

    Read at the last real token it is the sum over prompt and completion; both sides of a pair share the prompt, so
    their difference is that of the completions' rewards.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden.float()).cumsum(1) / POOL_TOKENS


def load_head(folder: Path, width: int, device: torch.device) -> nn.Linear:
    """The score head saved with a reward adapter.

    Raises:
        DataError: the folder holds no score head, or one of another width.
    """
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(str(path), framework="pt") as file:
            weight = file.get_tensor(SCORE_KEY)
    except (
        Exception
    ) as error:  # safetensors raises bare exceptions for a missing file, key or a damaged header
        raise DataError(
            f"no score head in {folder}", why=str(error), hint="train it again: rlhf-lite train DIR reward"
        ) from error
    if weight.shape != (1, width):
        raise DataError(
            f"the score head in {folder} is for another model",
            why=f"{tuple(weight.shape)} against (1, {width})",
        )
    head = nn.Linear(width, 1, bias=False, dtype=torch.float32, device=device)
    with torch.no_grad():
        head.weight.copy_(weight)
    return head


def token_rewards(head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """What each token adds to the raw reward, (…, D) → (…). Their sum over a completion's tokens is the reward."""
    return head(hidden.float()).squeeze(-1) / POOL_TOKENS


def save_scale(folder: Path, scale: RewardScale) -> None:
    """Write what a head cannot hold beside its adapter."""
    write_whole(folder / SCALE_FILE, json.dumps({**asdict(scale), "pooling": POOLING}).encode())


def load_scale(folder: Path) -> RewardScale:
    """The reward's scale.

    Raises:
        DataError: the file is missing, or the reward was read in another way when it was trained.
    """
    path = folder / SCALE_FILE
    try:
        raw = json.loads(path.read_text())
        scale = RewardScale(float(raw["mean"]), float(raw["std"]))
        if raw["pooling"] != POOLING or not scale.std > 0:
            raise ValueError(f"pooling {raw['pooling']!r}, standard deviation {scale.std}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no reward model of this tool",
            why=str(error),
            hint="train it again: rlhf-lite train DIR reward",
        ) from error
    return scale
