"""PPO once more, in float64 and as plainly as the papers write it: one answer at a time, one token after another.

Nothing of rlhf_lite is imported. There is no padding, no mask, no batch and no micro-batch here: an answer is a list
as long as it is, and a minibatch's mean is a sum over all its tokens divided by how many there are. Adapters are added
to the weights by hand (W + α/r · B·A) instead of by PEFT. The loops of a Llama are transformers' own; its norms compute
in float32 whatever the dtype, which costs about 1e-7.

The formulas: Schulman et al. 2016 ("GAE"), Schulman et al. 2017 ("PPO"), Ziegler et al. 2019, Huang et al. 2024 ("The
N+ implementation details").
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

Weights = dict[str, torch.Tensor]
"""An adapter's A and B by the decoder's names (``layers.0.mlp.up_proj.lora_A.weight``), and the ``head``, (1, D)."""


class Model:
    """The base in float64, and what it says of an answer with an adapter or without."""

    def __init__(self, model: PreTrainedModel, scale: float) -> None:
        self._model: Any = copy.deepcopy(model).double().requires_grad_(False)
        self._plain = dict(self._model.model.named_parameters())
        self._scale = scale

    def states(self, prompt: list[int], answer: list[int], adapter: Weights) -> torch.Tensor:
        """Hidden states at every token of prompt and answer, (P + T, D)."""
        layers = {name.removesuffix(".lora_A.weight") for name in adapter if name.endswith(".lora_A.weight")}
        changed = {
            f"{layer}.weight": self._plain[f"{layer}.weight"]
            + self._scale * adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
            for layer in layers
        }
        ids = torch.tensor([[*prompt, *answer]])
        return functional_call(self._model.model, changed, (ids,)).last_hidden_state[0]

    def distributions(self, prompt: list[int], answer: list[int], adapter: Weights) -> torch.Tensor:
        """Log-probability of every token of the vocabulary before each token of the answer, (T, V)."""
        logits = self.before(prompt, answer, adapter) @ self._model.lm_head.weight.T
        return logits - logits.exp().sum(-1, keepdim=True).log()

    def logprobs(self, prompt: list[int], answer: list[int], adapter: Weights) -> torch.Tensor:
        """Log-probability of each token of the answer, (T,)."""
        every = self.distributions(prompt, answer, adapter)
        return torch.stack([every[t, token] for t, token in enumerate(answer)])

    def before(self, prompt: list[int], answer: list[int], adapter: Weights) -> torch.Tensor:
        """The state before each token of the answer, (T, D)."""
        return self.states(prompt, answer, adapter)[len(prompt) - 1 : -1]


def token_rewards(
    score: float, parts: list[float], policy: list[float], reference: list[float], beta: float
) -> list[float]:
    """Ziegler et al. 2019, eq. 2: every token pays β·log(π/ρ). It earns its part of the score, the last the rest."""
    earned = [*parts[:-1], score - sum(parts[:-1])]
    return [e - beta * (p - r) for e, p, r in zip(earned, policy, reference, strict=True)]


def ridge(batches: list[tuple[torch.Tensor, torch.Tensor]], decay: float, strength: float) -> torch.Tensor:
    """The map of states (N, D) to returns (N,) that errs least over all batches, (D + 1,), its last number a constant.

    Each batch counts ``decay`` times the next one; ``strength`` is in units of the states' mean square, and shrinks
    all but the constant. Solved as least squares with a row of its own for each number that is shrunk.
    """
    age = list(reversed(range(len(batches))))
    x = torch.cat(
        [decay ** (a / 2) * with_constant(states) for a, (states, _) in zip(age, batches, strict=True)]
    )
    y = torch.cat([decay ** (a / 2) * returns for a, (_, returns) in zip(age, batches, strict=True)])
    width = x.shape[1] - 1
    unit = float((x[:, :width] ** 2).sum()) / width
    shrunk = (strength * unit) ** 0.5 * torch.eye(width, width + 1, dtype=x.dtype)
    zeros = torch.zeros(width, dtype=y.dtype)
    return torch.linalg.lstsq(torch.cat([x, shrunk]), torch.cat([y, zeros])).solution


def with_constant(states: torch.Tensor) -> torch.Tensor:
    return torch.cat([states, torch.ones(len(states), 1, dtype=states.dtype)], 1)


def advantages(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """GAE, eq. 16: A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ·V_{t+1} − V_t; after the last token V is 0."""
    following = [*values[1:], 0.0]
    delta = [r + gamma * f - v for r, f, v in zip(rewards, following, values, strict=True)]
    return [
        sum((gamma * lam) ** l * delta[t + l] for l in range(len(delta) - t))  # noqa: E741 - the paper's letter
        for t in range(len(delta))
    ]


def whitened(answers: list[list[float]]) -> list[list[float]]:
    """Mean 0 and deviation 1 over all tokens of the batch; 1e-8 keeps the variance from 0."""
    every = [a for answer in answers for a in answer]
    mean = sum(every) / len(every)
    deviation = (sum((a - mean) ** 2 for a in every) / len(every) + 1e-8) ** 0.5
    return [[(a - mean) / deviation for a in answer] for answer in answers]


def policy_terms(
    new: torch.Tensor, old: list[float], advantage: list[float], epsilon: float
) -> list[torch.Tensor]:
    """PPO, eq. 7, what each token adds to the loss: −min(ρ·A, clip(ρ, 1 ± ε)·A)."""
    terms: list[torch.Tensor] = []
    for logprob, before, a in zip(new, old, advantage, strict=True):
        ratio = (logprob - before).exp()
        terms.append(-torch.minimum(ratio * a, ratio.clamp(1 - epsilon, 1 + epsilon) * a))
    return terms


def is_clipped(ratio: float, advantage: float, epsilon: float) -> bool:
    """PPO, figure 1: the objective is flat where it would be rewarded to go on in the direction it has gone."""
    return ratio > 1 + epsilon if advantage > 0 else ratio < 1 - epsilon if advantage < 0 else False


def mean(terms: list[torch.Tensor]) -> torch.Tensor:
    """The mean over all tokens of a minibatch."""
    return torch.stack(terms).sum() / len(terms)


def adapted(beta: float, kl: float, target: float) -> float:
    """Ziegler et al. 2019, section 2.2: e = clip((KL − target)/target, ± 0.2), β ← β·(1 + 0.1·e)."""
    return beta * (1 + 0.1 * min(max((kl - target) / target, -0.2), 0.2))


def held_to_norm(gradients: Weights, norm: float) -> Weights:
    """Gradients, shortened together where their common norm is larger."""
    found = sum(float((g**2).sum()) for g in gradients.values()) ** 0.5
    return {name: g * min(1.0, norm / found) for name, g in gradients.items()}


def adam_step(history: list[torch.Tensor], rate: float) -> torch.Tensor:
    """What a weight moves by after all gradients so far (Kingma & Ba 2015, algorithm 1; their β and ε)."""
    first = sum(0.1 * 0.9**age * g for age, g in enumerate(reversed(history)))
    second = sum(0.001 * 0.999**age * g**2 for age, g in enumerate(reversed(history)))
    steps = len(history)
    return -rate * (first / (1 - 0.9**steps)) / ((second / (1 - 0.999**steps)) ** 0.5 + 1e-8)
