"""The arithmetic of PPO: tensors in, tensors out, nothing else.

Every mask is named for what True means, ``response_mask`` (B, T): True = a real token. Every reduction is masked, so
that junk in padding changes nothing. Log-probabilities and KL are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Advantages:
    """Advantages and returns, both (B, T), zero on padding."""

    advantages: torch.Tensor
    returns: torch.Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The loss to minimise and what the charts show, each a scalar mean over real tokens."""

    loss: torch.Tensor
    approx_kl: torch.Tensor
    clip_fraction: torch.Tensor
    ratio: torch.Tensor


def masked_mean(x: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens; (B, T), (B, T) → scalar. 0 where there is none."""
    return torch.where(response_mask, x, 0).sum() / response_mask.sum().clamp(min=1)


def center_and_scale(x: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Shift to mean 0 and scale to standard deviation 1 over the real tokens; 0 on padding. (B, T) → (B, T)."""
    mean = masked_mean(x, response_mask)
    variance = masked_mean((x - mean) ** 2, response_mask)
    return torch.where(response_mask, (x - mean) * torch.rsqrt(variance + 1e-8), 0)


def kl_k1(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Schulman's k1 = log(p/r) of a token sampled from p: unbiased, may be negative. (B, T) → (B, T)."""
    return logprobs - reference


def kl_k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 = r/p − 1 − log(r/p): unbiased, never negative, less noisy; for charts, not as a loss."""
    log_ratio = reference - logprobs
    return torch.expm1(log_ratio) - log_ratio


def token_rewards(
    scores: torch.Tensor, parts: torch.Tensor, kl: torch.Tensor, response_mask: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """Per-token reward −kl_coef·KL, plus each token's part of the score; the rest of the score, all of it where there
    are no parts, comes *with the last real token* (Ziegler et al. 2019, eq. 2).

    A token is rewarded for what it adds, so what came before it is no noise in its return (Sutton & Barto 2018, section
    13.4). The sum over an answer is the same.

    Args:
        scores: (B,), one a completion.
        parts: (B, T), 0 on padding.
        kl: (B, T), k1 of each token.
    """
    last = response_mask.sum(-1) - 1  # (B,)
    rewards = torch.where(response_mask, parts - kl_coef * kl, 0)
    rows = torch.arange(scores.shape[0], device=scores.device)
    rewards[rows, last] += scores - parts.sum(-1)
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, response_mask: torch.Tensor, gamma: float, lam: float
) -> Advantages:
    """Generalized advantage estimation, Schulman et al. 2016, eq. 16, right to left. All (B, T).

    The value after the last real token is 0: the episode has ended there.
    """
    values = torch.where(response_mask, values, 0)
    rewards = torch.where(response_mask, rewards, 0)
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        real = response_mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(real, delta + gamma * lam * running, 0)
        following = torch.where(real, values[:, t], 0)
        advantages[:, t] = running
    return Advantages(advantages, torch.where(response_mask, advantages + values, 0))


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    clip: float,
) -> PolicyLoss:
    """Clipped surrogate, Schulman et al. 2017, eq. 7, negated. All (B, T)."""
    log_ratio = torch.where(response_mask, logprobs - old_logprobs, 0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), response_mask)
    with torch.no_grad():
        approx_kl = masked_mean(kl_k3(old_logprobs, logprobs), response_mask)
        outside = ((ratio - clipped) * advantages > 0).float()
        return PolicyLoss(
            loss, approx_kl, masked_mean(outside, response_mask), masked_mean(ratio, response_mask)
        )


def adapted_kl_coef(kl_coef: float, kl: float, target: float, rate: float = 0.1) -> float:
    """Move the coefficient towards the target, at most ``rate``·20 % an update (Ziegler et al. 2019, section 2.2).

    Args:
        kl: measured KL to the reference, nats a sequence.
        target: wanted KL, nats a sequence.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + rate * error)
