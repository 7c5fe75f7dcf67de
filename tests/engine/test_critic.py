"""The critic, by what its user relies on: it finds what there is, and does no harm where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_lite.engine.critic import DECAY, Critic, explained_variance

WIDTH = 6
CPU = torch.device("cpu")


def rollout(seed: int, rows: int = 40, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, returns that follow from them but for noise, and a mask with short rows."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, 12, WIDTH, generator=generator)
    direction = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0])
    returns = states @ direction + 0.7 + noise * torch.randn(rows, 12, generator=generator)
    mask = torch.arange(12)[None] < torch.randint(1, 13, (rows, 1), generator=generator)
    return states, returns, mask


def test_it_begins_with_no_opinion() -> None:
    states, _, mask = rollout(0)
    assert float(Critic(WIDTH, CPU).values(states, mask).abs().max()) == 0.0


def test_it_foretells_returns_that_follow_from_the_states() -> None:
    critic = Critic(WIDTH, CPU)
    for seed in (1, 2):
        critic.learn(*rollout(seed))
    states, returns, mask = rollout(3)
    assert explained_variance(critic.values(states, mask), returns, mask) > 0.99


def test_returns_that_follow_from_nothing_leave_their_mean() -> None:
    """Or a critic would add noise to every advantage: few rows, many dimensions, nothing to find."""
    generator, critic = torch.Generator().manual_seed(0), Critic(200, CPU)
    mask = torch.ones(8, 5, dtype=torch.bool)

    def nothing() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(8, 5, 200, generator=generator), 5 + torch.randn(8, 5, generator=generator)

    for _ in range(6):
        critic.learn(*nothing(), mask)
    states, _ = nothing()
    values = critic.values(states, mask)
    assert float(values.mean()) == pytest.approx(5, abs=0.5)
    assert float(values.std()) < 0.3


def test_what_is_older_counts_less() -> None:
    """Two rollouts of one state that disagree: the mean, the first weighed by the decay."""
    critic, states = Critic(1, CPU), torch.zeros(3, 4, 1)
    states[::2] = 1.0  # so that there is something to scale by
    mask = torch.ones(3, 4, dtype=torch.bool)
    critic.learn(states, torch.full((3, 4), 10.0), mask)
    critic.learn(states, torch.full((3, 4), 20.0), mask)
    expected = (DECAY * 10 + 20) / (DECAY + 1)
    assert critic.values(states, mask).flatten().tolist() == pytest.approx([expected] * 12, rel=1e-4)


def test_junk_in_padding_changes_nothing() -> None:
    found: list[torch.Tensor] = []
    for junk in (0.0, 1e6):
        critic = Critic(WIDTH, CPU)
        states, returns, mask = rollout(4)
        dirty = torch.where(mask[..., None], states, junk)
        critic.learn(dirty, torch.where(mask, returns, junk), mask)
        found.append(critic.values(dirty, mask))
    assert torch.equal(*found)
    assert float(found[0][~rollout(4)[2]].abs().max()) == 0.0


def test_it_goes_on_from_its_file(tmp_path: Path) -> None:
    critic, other = Critic(WIDTH, CPU), Critic(WIDTH, CPU)
    critic.learn(*rollout(5))
    critic.save(tmp_path / "critic.safetensors")
    other.load(tmp_path / "critic.safetensors")
    for one in (critic, other):
        one.learn(*rollout(6))
    states, _, mask = rollout(7)
    assert torch.equal(critic.values(states, mask), other.values(states, mask))


def test_a_file_of_another_width_is_refused(tmp_path: Path) -> None:
    Critic(WIDTH + 1, CPU).save(tmp_path / "critic.safetensors")
    with pytest.raises(ValueError, match="critic"):
        Critic(WIDTH, CPU).load(tmp_path / "critic.safetensors")


def test_explained_variance_is_of_the_real_tokens() -> None:
    returns, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(torch.full((1, 3), 2.0), returns, mask) == 0.0
    assert explained_variance(torch.tensor([[3.0, 1.0, 0.0]]), returns, mask) == -3.0
