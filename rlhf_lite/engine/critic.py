"""The value function: what an answer will still earn, a linear map of states that are computed anyway.

A critic is usually a network of its own, trained beside the policy by the same kind of updates, at half of their cost.
Here every token has been through a frozen view of the base before any update: the reward model's, whose states know
what the score is about, or, where a function scores, the reference's. The map from those states to returns is ridge
regression over all rollouts so far: no learning rate, no warm-up, nothing to clip. ``benchmarks/choices.py`` holds it
against an adapter of its own and against a head on the policy's trunk.

Decided here: older rollouts count less, by :data:`DECAY` a step, as the policy moves; and how strong the ridge is
decides itself, by which one has foretold best what it had not yet learned from (Dawid 1984, prequential analysis).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DECAY = 0.8
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 1e6)
"""In units of a state's mean square; the last is so strong that only the mean return is left of the map."""


class Critic:
    """Values of states (B, T, D), learned from returns (B, T)."""

    def __init__(self, width: int, device: torch.device) -> None:
        """Knows nothing: every value is 0."""
        size = width + 1  # the last is constant
        self._gram = torch.zeros(size, size, device=device)
        self._moment = torch.zeros(size, device=device)
        self._maps = torch.zeros(len(RIDGES), size, device=device)
        self._errors = torch.zeros(len(RIDGES), device=device)  # squared, of what was foretold

    def values(self, states: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
        """The value of each state, 0 on padding, (B, T)."""
        found = _with_constant(states[response_mask]) @ self._maps[self._errors.argmin()]
        return _spread(found, response_mask)

    @torch.no_grad()
    def learn(self, states: torch.Tensor, returns: torch.Tensor, response_mask: torch.Tensor) -> None:
        """Take in what came of these states; of padding nothing."""
        x, y = _with_constant(states[response_mask]), returns[response_mask]
        errors = ((x @ self._maps.T - y[:, None]) ** 2).sum(0)
        self._errors = DECAY * self._errors + errors
        self._gram = DECAY * self._gram + x.T @ x
        self._moment = DECAY * self._moment + x.T @ y
        gram, moment = self._gram.double(), self._moment.double()[:, None]
        unit = torch.full_like(moment[:, 0], float(gram.diagonal()[:-1].mean()))
        unit[-1] = 0.0  # the constant is not shrunk
        maps = [torch.linalg.solve(gram + torch.diag(ridge * unit), moment)[:, 0] for ridge in RIDGES]
        self._maps = torch.stack(maps).float()

    def save(self, path: Path) -> None:
        save_file({name: tensor.cpu() for name, tensor in self._tensors().items()}, str(path))

    def load(self, path: Path) -> None:
        """Go on from a file.

        Raises:
            OSError, KeyError, ValueError: it is not one of a critic of this width.
        """
        saved = load_file(str(path))
        for name, tensor in self._tensors().items():
            if saved[name].shape != tensor.shape:
                raise ValueError(
                    f"{path.name}: {name} is {tuple(saved[name].shape)}, not {tuple(tensor.shape)}"
                )
            tensor.copy_(saved[name])

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {"gram": self._gram, "moment": self._moment, "maps": self._maps, "errors": self._errors}


def explained_variance(values: torch.Tensor, returns: torch.Tensor, response_mask: torch.Tensor) -> float:
    """1 − Var(returns − values) / Var(returns) over the real tokens; 1 is perfect, 0 no better than a constant."""
    wanted, off = returns[response_mask], (returns - values)[response_mask]
    return 1.0 - float(off.var(correction=0) / wanted.var(correction=0).clamp(min=1e-12))


def _with_constant(states: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(states.float(), (0, 1), value=1.0)


def _spread(found: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    spread = torch.zeros(response_mask.shape, dtype=found.dtype, device=found.device)
    spread[response_mask] = found
    return spread
