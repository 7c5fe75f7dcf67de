"""Oracles from the papers: each expectation is written out here, never asked of the code."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lite.engine import objectives
from rlhf_lite.intervals import wilson

B, T = 5, 9


@pytest.fixture
def response_mask() -> torch.Tensor:
    lengths = torch.tensor([9, 1, 4, 7, 3])
    return torch.arange(T)[None] < lengths[:, None]


def numbers(seed: int) -> torch.Tensor:
    return torch.randn(B, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gae_is_the_double_sum_of_its_definition(response_mask: torch.Tensor) -> None:
    """Schulman et al. 2016, eq. 16: A_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t, V past the end 0."""
    gamma, lam, rewards, values = 0.97, 0.9, numbers(1), numbers(2)
    found = objectives.gae(rewards, values, response_mask, gamma, lam)
    for b in range(B):
        length = int(response_mask[b].sum())
        for t in range(length):
            expected = 0.0
            for l in range(length - t):  # noqa: E741 - the paper's letter
                k = t + l
                following = float(values[b, k + 1]) if k + 1 < length else 0.0
                expected += (gamma * lam) ** l * (
                    float(rewards[b, k]) + gamma * following - float(values[b, k])
                )
            assert float(found.advantages[b, t]) == pytest.approx(expected, abs=1e-9)
            assert float(found.returns[b, t]) == pytest.approx(expected + float(values[b, t]), abs=1e-9)


def test_gae_with_lambda_one_and_gamma_one_is_reward_to_go_minus_value(response_mask: torch.Tensor) -> None:
    rewards, values = numbers(3), numbers(4)
    found = objectives.gae(rewards, values, response_mask, 1.0, 1.0)
    to_go = torch.where(response_mask, rewards, 0).flip(1).cumsum(1).flip(1)
    assert torch.allclose(found.advantages, torch.where(response_mask, to_go - values, 0))


def test_centred_advantages_have_mean_0_and_deviation_1_over_real_tokens(response_mask: torch.Tensor) -> None:
    found = objectives.center_and_scale(3 + 2 * numbers(5), response_mask)[response_mask]
    assert float(found.mean()) == pytest.approx(0, abs=1e-9)
    assert float(found.std(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_junk_in_padding_changes_nothing(response_mask: torch.Tensor) -> None:
    def everything(junk: float) -> list[torch.Tensor]:
        def dirty(x: torch.Tensor) -> torch.Tensor:
            return torch.where(response_mask, x, junk)

        new, old, reference = dirty(-numbers(1).abs()), dirty(-numbers(2).abs()), dirty(-numbers(3).abs())
        parts, values = torch.where(response_mask, numbers(4), 0), dirty(numbers(5))
        kl = torch.where(response_mask, objectives.kl_k1(old, reference), junk)
        rewards = objectives.token_rewards(
            torch.arange(float(B), dtype=torch.float64), parts, kl, response_mask, 0.1
        )
        estimate = objectives.gae(dirty(rewards), values, response_mask, 1.0, 0.95)
        advantages = dirty(objectives.center_and_scale(dirty(estimate.advantages), response_mask))
        policy = objectives.policy_loss(new, old, advantages, response_mask, 0.2)
        return [
            rewards, estimate.advantages, estimate.returns, policy.loss, policy.approx_kl, policy.clip_fraction,
            policy.ratio, objectives.masked_mean(new, response_mask),
        ]  # fmt: skip

    for clean, dirty in zip(everything(0.0), everything(1e4), strict=True):
        assert torch.equal(clean, dirty)


def test_an_unmoved_policy_has_ratio_1_no_approx_kl_and_minus_the_mean_advantage(
    response_mask: torch.Tensor,
) -> None:
    logprobs, advantages = -numbers(1).abs(), numbers(2)
    found = objectives.policy_loss(logprobs, logprobs, advantages, response_mask, 0.2)
    assert float(found.ratio) == 1.0
    assert float(found.approx_kl) == 0.0
    assert float(found.clip_fraction) == 0.0
    assert float(found.loss) == pytest.approx(-float(advantages[response_mask].mean()))


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"), [(1, 1.5, 1.2), (1, 0.5, 0.5), (-1, 1.5, -1.5), (-1, 0.5, -0.8)]
)
def test_the_clipped_surrogate_is_the_papers_table(advantage: float, ratio: float, expected: float) -> None:
    """Schulman et al. 2017, figure 1: min(r·A, clip(r, 1 ± 0.2)·A)."""
    one = torch.ones(1, 1, dtype=torch.bool)
    found = objectives.policy_loss(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([[float(advantage)]]), one, 0.2
    )
    assert float(found.loss) == pytest.approx(-expected)
    assert float(found.clip_fraction) == float(expected != advantage * ratio), "clipped only where it binds"


def test_the_score_lands_on_the_last_real_token(response_mask: torch.Tensor) -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    rewards = objectives.token_rewards(scores, torch.zeros(B, T), torch.zeros(B, T), response_mask, 0.05)
    for b, last in enumerate([8, 0, 3, 6, 2]):
        assert float(rewards[b, last]) == float(scores[b])
        assert float(rewards[b].abs().sum()) == float(scores[b])


def test_every_token_earns_its_part_and_the_last_one_the_rest(response_mask: torch.Tensor) -> None:
    """What an answer earns in all is its score, however the tokens share it; what is told of padding is nothing."""
    scores, parts = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.where(response_mask, numbers(1), 0)
    rewards = objectives.token_rewards(scores.double(), parts, torch.zeros(B, T), response_mask, 0.05)
    assert torch.allclose(rewards.sum(-1), scores.double())
    for b, last in enumerate([8, 0, 3, 6, 2]):
        assert torch.equal(rewards[b, :last], parts[b, :last])


def test_every_token_pays_for_its_kl() -> None:
    """Ziegler et al. 2019, eq. 2: R = r − β·log(π/ρ); drifting from the reference costs."""
    mask = torch.tensor([[True, True, False]])
    kl, none = torch.tensor([[2.0, -0.5, 9.0]]), torch.zeros(1, 3)
    rewards = objectives.token_rewards(torch.tensor([1.0]), none, kl, mask, 0.1)
    assert rewards[0].tolist() == pytest.approx([-0.2, 1.05, 0.0])


def test_k1_and_k3_average_to_the_exact_kl_of_a_small_vocabulary() -> None:
    p = torch.softmax(torch.tensor([0.3, 1.2, -0.5, 0.0], dtype=torch.float64), 0)
    r = torch.softmax(torch.tensor([0.0, 0.4, 0.7, -1.0], dtype=torch.float64), 0)
    exact = float((p * (p / r).log()).sum())
    assert float((p * objectives.kl_k1(p.log(), r.log())).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((p * objectives.kl_k3(p.log(), r.log())).sum()) == pytest.approx(exact, abs=1e-12)
    assert bool((objectives.kl_k3(p.log(), r.log()) >= 0).all())


def test_approx_kl_of_an_update_is_the_exact_kl_from_old_to_new() -> None:
    old = torch.softmax(torch.tensor([0.3, 1.2, -0.5, 0.0], dtype=torch.float64), 0)
    new = torch.softmax(torch.tensor([0.1, 1.3, -0.2, 0.2], dtype=torch.float64), 0)
    drawn = torch.multinomial(old, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))[
        None
    ]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    found = objectives.policy_loss(
        new.log()[drawn], old.log()[drawn], torch.zeros_like(drawn).double(), mask, 0.2
    )
    assert float(found.approx_kl) == pytest.approx(float((old * (old / new).log()).sum()), rel=0.02)


def test_the_kl_coefficient_moves_towards_the_target_in_small_steps() -> None:
    assert objectives.adapted_kl_coef(0.05, 20, 5) == pytest.approx(0.05 * 1.02)
    assert objectives.adapted_kl_coef(0.05, 0, 5) == pytest.approx(0.05 * 0.98)
    assert objectives.adapted_kl_coef(0.05, 5, 5) == 0.05


def test_wilson_is_the_published_interval() -> None:
    """Newcombe 1998, table I, method 3: 81/263 → 0.2553 to 0.3662; 15/148 → 0.0624 to 0.1605."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
