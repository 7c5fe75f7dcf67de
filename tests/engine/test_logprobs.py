"""Log-probabilities and their gradients against torch's own, and how many logits are there at once."""

from __future__ import annotations

import pytest
import torch

from rlhf_lite.engine import logprobs

N, D, V = 23, 8, 11


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(D, V).requires_grad_(False)


def numbers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, targets, and what each log-probability counts in a loss."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(N, D, generator=generator), torch.randint(0, V, (N,), generator=generator),
        torch.randn(N, generator=generator),
    )  # fmt: skip


def plain(layer: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(5 * torch.tanh(layer(hidden)), -1)[torch.arange(N), targets]


@pytest.mark.parametrize("chunk", [1, 3, 23, 64])
def test_values_and_gradients_are_those_of_the_log_softmax_whatever_the_chunk(
    layer: torch.nn.Linear, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", chunk)
    hidden, targets, weights = numbers()
    seen: list[int] = []

    def capped(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        return 5 * torch.tanh(layer(states))

    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    found, expected = logprobs.token_logprobs(ours, capped, targets), plain(layer, theirs, targets)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert max(seen) <= chunk
    assert sum(seen) == N, "no token's logits are computed twice"


def test_without_gradients_the_values_are_the_same(layer: torch.nn.Linear) -> None:
    hidden, targets, _ = numbers()
    with torch.no_grad():
        bare = logprobs.token_logprobs(hidden.requires_grad_(), layer, targets)
    assert torch.equal(bare, logprobs.token_logprobs(hidden, layer, targets))
    assert not bare.requires_grad


def test_nothing_ever_waits_that_is_as_large_as_all_logits(
    layer: torch.nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 4)
    hidden, targets, _ = numbers()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        logprobs.token_logprobs(hidden.requires_grad_(), layer, targets)
    assert kept[-1] == N * D, "a slope for each token"
    assert max(kept[:-1]) <= D * V, "the output layer itself"
