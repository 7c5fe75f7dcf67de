"""A whole PPO step of the real code against :mod:`ppo_float64`: same weights, same samples, same numbers to 1e-5.

What follows from the weights and the sampled tokens is computed anew, from the first log-probability to the gradients
of the fourth minibatch; nothing that the code computed goes in.
"""

from __future__ import annotations

import math
from statistics import pstdev

import ppo_float64 as plain
import pytest
import torch
from ppo_recorded import EARLIER, LORA, SCALE, SETTINGS, STOPS, Recorded, new_model, record

from rlhf_lite.engine.critic import DECAY, RIDGES

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[False, True], ids=["from the base", "from SFT"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("recorded"), from_sft=request.param)


class Expected:
    """The same step in float64: everything follows from the weights and the sampled tokens."""

    def __init__(self, seen: Recorded) -> None:
        self.model = plain.Model(new_model(), LORA.alpha / LORA.rank)
        self.pairs = list(zip(seen.rollout.prompts, seen.rollout.completions, strict=True))
        ppo, reference = SETTINGS, seen.weights["sft"]
        every = [self.model.distributions(*pair, seen.weights["policy"]) for pair in self.pairs]
        self.entropy = [[-float((row.exp() * row).sum()) for row in answer] for answer in every]
        self.old = [self.model.logprobs(*pair, seen.weights["policy"]).tolist() for pair in self.pairs]
        self.reference = [self.model.logprobs(*pair, reference).tolist() for pair in self.pairs]
        self.states = [self.model.before(*pair, seen.weights["reward"]) for pair in self.pairs]
        self.map = the_best_map(seen.learned)
        self.values = [(plain.with_constant(states) @ self.map).tolist() for states in self.states]
        self.parts = [self.parts_of_score(seen, *pair) for pair in self.pairs]
        self.scores = [
            sum(parts) - SCALE.mean / SCALE.std - ppo.no_eos_penalty * (answer[-1] not in STOPS)
            for parts, (_, answer) in zip(self.parts, self.pairs, strict=True)
        ]
        deviation = pstdev([*EARLIER, *self.scores])
        self.scaled = [min(max(s / deviation, -ppo.score_clip), ppo.score_clip) for s in self.scores]
        self.rewards = [
            plain.token_rewards(score, [p / deviation for p in parts], *row, ppo.kl_coef)
            for score, parts, *row in zip(self.scaled, self.parts, self.old, self.reference, strict=True)
        ]
        self.raw = [
            plain.advantages(*row, ppo.gamma, ppo.lam) for row in zip(self.rewards, self.values, strict=True)
        ]
        self.returns = [
            [a + v for a, v in zip(*row, strict=True)] for row in zip(self.raw, self.values, strict=True)
        ]
        self.advantages = plain.whitened(self.raw)
        self.token_kl = [
            [p - r for p, r in zip(*row, strict=True)] for row in zip(self.old, self.reference, strict=True)
        ]
        self.kl = sum(sum(answer) for answer in self.token_kl) / len(self.pairs)

    def parts_of_score(self, seen: Recorded, prompt: list[int], answer: list[int]) -> list[float]:
        """What each token of the answer adds to the head's sum / 16, in the reward's deviations."""
        states = self.model.states(prompt, answer, seen.weights["reward"])[len(prompt) :]
        return (states @ seen.weights["reward"]["head"][0] / 16 / SCALE.std).tolist()


def the_best_map(learned: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Of the critics that differ in the strength of their ridge the one that foretold best: before the first rollout
    all foretold 0, so the second decides."""
    (_, _), (states, returns) = learned

    def error(strength: float) -> float:
        foretold = plain.with_constant(states) @ plain.ridge(learned[:1], DECAY, strength)
        return float(((foretold - returns) ** 2).sum())

    return plain.ridge(learned, DECAY, min(RIDGES, key=error))


@pytest.fixture(scope="module")
def expected(seen: Recorded) -> Expected:
    return Expected(seen)


def assert_tokens(found: torch.Tensor, expected: list[list[float]], mask: torch.Tensor) -> None:
    """Every real token to 1e-5; there are as many as the answers have."""
    assert mask.sum(-1).tolist() == [len(answer) for answer in expected]
    for row, answer in zip(found, expected, strict=True):
        assert row[: len(answer)].tolist() == pytest.approx(answer, rel=TOLERANCE, abs=TOLERANCE)


def assert_gradients(found: plain.Weights, loss: torch.Tensor, leaves: plain.Weights) -> None:
    """Every entry, to 1e-5 of its tensor's largest."""
    assert set(found) == set(leaves)
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        largest = float(gradient.abs().max())
        assert largest > 0
        assert float((found[name] - gradient).abs().max()) <= TOLERANCE * largest, name


def test_the_answers_are_a_fair_sample(seen: Recorded, expected: Expected) -> None:
    """Or what follows would show little: lengths, ends, clipped scores and a policy that has moved."""
    answers = seen.rollout.completions
    assert len({len(a) for a in answers}) > 3
    assert 0 < sum(a[-1] in STOPS for a in answers) < len(answers)
    assert 0 < sum(abs(s) == SETTINGS.score_clip for s in expected.scaled) < len(answers)
    assert abs(expected.kl) > 0.05
    assert [len(u.rows) for u in seen.updates] == [SETTINGS.minibatch] * 4


def test_log_probs_entropy_kl_and_values_of_every_token(seen: Recorded, expected: Expected) -> None:
    rollout, mask = seen.rollout, seen.rollout.response_mask
    assert_tokens(rollout.logprobs, expected.old, mask)
    assert_tokens(rollout.reference, expected.reference, mask)
    assert_tokens(rollout.entropy, expected.entropy, mask)
    assert_tokens(seen.values, expected.values, mask)
    assert_tokens(rollout.kl, expected.token_kl, mask)


def test_scores_rewards_advantages_and_returns(seen: Recorded, expected: Expected) -> None:
    mask = seen.rollout.response_mask
    assert seen.rollout.scores.tolist() == pytest.approx(expected.scores, rel=TOLERANCE, abs=TOLERANCE)
    assert_tokens(seen.rollout.parts, expected.parts, mask)
    assert_tokens(seen.rewards, expected.rewards, mask)
    assert_tokens(seen.estimate.advantages, expected.raw, mask)
    assert_tokens(seen.estimate.returns, expected.returns, mask)
    assert_tokens(seen.advantages, expected.advantages, mask)


@pytest.mark.parametrize("number", range(4))
def test_policy_loss_and_gradients_of_each_update(seen: Recorded, expected: Expected, number: int) -> None:
    """The first finds the policy as it sampled, the others after one to three optimizer steps."""
    one, epsilon = seen.updates[number], SETTINGS.clip
    leaves = {name: weight.requires_grad_() for name, weight in one.weights.items()}
    terms: list[torch.Tensor] = []
    ratios: list[float] = []
    clipped: list[bool] = []
    for row in one.rows:
        new, old = expected.model.logprobs(*expected.pairs[row], leaves), expected.old[row]
        advantage = expected.advantages[row]
        terms += plain.policy_terms(new, old, advantage, epsilon)
        ratio = [math.exp(n - o) for n, o in zip(new.tolist(), old, strict=True)]
        clipped += [plain.is_clipped(r, a, epsilon) for r, a in zip(ratio, advantage, strict=True)]
        ratios += ratio
    loss, tokens = plain.mean(terms), len(ratios)
    assert one.told == pytest.approx({
        "loss/policy_avg": float(loss),
        "policy/approxkl_avg": sum(r - 1 - math.log(r) for r in ratios) / tokens,
        "policy/clipfrac_avg": sum(clipped) / tokens,
        "val/ratio": sum(ratios) / tokens,
    }, rel=TOLERANCE, abs=1e-6)  # fmt: skip
    if number in (0, 3):  # or clipping would not be tried
        assert any(clipped) == (number > 0)
    assert_gradients(one.gradients, loss, leaves)


def test_the_critic_learns_what_came_of_the_states(seen: Recorded, expected: Expected) -> None:
    """Its share of the variance is that of the map it had; returns are all that was still earned, discounted by γ."""
    returns = [
        [sum(SETTINGS.gamma**k * r for k, r in enumerate(row[t:])) for t in range(len(row))]
        for row in expected.rewards
    ]
    wanted = [r for row in returns for r in row]
    off = [r - v for row in zip(returns, expected.values, strict=True) for r, v in zip(*row, strict=True)]
    assert seen.metrics["value/explained_variance"] == pytest.approx(
        1 - pstdev(off) ** 2 / pstdev(wanted) ** 2, rel=1e-4
    )


def test_weights_move_by_adam_on_gradients_held_to_norm_1(seen: Recorded) -> None:
    updates, rate = seen.updates, SETTINGS.learning_rate
    held = [plain.held_to_norm(one.gradients, 1.0) for one in updates]
    for count in range(1, len(updates)):
        for name, before in updates[count - 1].weights.items():
            moved = updates[count].weights[name] - before
            expected = plain.adam_step([h[name] for h in held[:count]], rate)
            assert float((moved - expected).abs().max()) <= TOLERANCE * rate + 1e-7, (
                name
            )  # 1e-7: a float32 holds no more


def test_what_the_step_reports(seen: Recorded, expected: Expected) -> None:
    told, count = seen.metrics, len(expected.pairs)
    entropies = [e for answer in expected.entropy for e in answer]
    assert told["objective/kl"] == pytest.approx(expected.kl, rel=TOLERANCE)
    assert told["objective/entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=TOLERANCE)
    assert told["objective/scores"] == pytest.approx(sum(expected.scores) / count, rel=TOLERANCE)
    assert told["loss/policy_avg"] == pytest.approx(sum(u.told["loss/policy_avg"] for u in seen.updates) / 4)
    assert seen.kl_coef == pytest.approx(plain.adapted(SETTINGS.kl_coef, expected.kl, SETTINGS.kl_target))
