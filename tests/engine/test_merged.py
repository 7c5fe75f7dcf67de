"""What one matrix a layer computes is what the 4-bit layer and the adapter compute, and it leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlhf_lite import memory, paths
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.merged import merged
from rlhf_lite.settings import Inputs, Lora, Quantization

IDS = torch.arange(3, 43).reshape(2, 20)


def load(quantization: Quantization) -> SharedBase:
    """With an adapter that changes much."""
    base = SharedBase.load(
        Inputs(stage="ppo", project="", model=str(paths.demo_model()), quantization=quantization, seed=0)
    )
    for name in ("policy", "value"):
        base.add(name, Lora(), trainable=True)
        with torch.no_grad():
            for parameter in base.parameters(name):
                parameter.normal_(0, 0.05)
    return base


def logits(base: SharedBase) -> torch.Tensor:
    with torch.no_grad():
        return base.model(IDS).logits


@pytest.mark.parametrize("quantization", ["nf4", "32bit"])
@pytest.mark.parametrize("view", ["policy", "value", None])
def test_the_logits_stay_the_same(quantization: Quantization, view: str | None) -> None:
    base = load(quantization)
    with base.view(view):
        plain = logits(base)
        with merged(base.model):
            one_matrix = logits(base)
        after = logits(base)
    assert (one_matrix - plain).abs().max() < 1e-4 * plain.abs().max()
    assert torch.equal(after, plain)


def test_the_views_differ_so_that_the_test_above_can_fail() -> None:
    base = load("nf4")
    found: list[torch.Tensor] = []
    for view in ("policy", "value", None):
        with base.view(view), merged(base.model):
            found.append(logits(base))
    assert (found[0] - found[1]).abs().max() > 0.1
    assert (found[0] - found[2]).abs().max() > 0.1


def test_an_error_inside_leaves_the_layers_as_they_were() -> None:
    base = load("nf4")
    with pytest.raises(RuntimeError), merged(base.model):
        raise RuntimeError
    assert not [m for m in base.model.modules() if "forward" in vars(m)]


def test_it_needs_room(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("nf4")
    free = sum(4 * m.in_features * m.out_features for m in base.model.modules() if isinstance(m, nn.Linear))
    monkeypatch.setattr(memory, "read_ram", lambda _: memory.Memory("cpu", "RAM", free, 0, free // 2))
    with merged(base.model):
        assert not [m for m in base.model.modules() if "forward" in vars(m)]


@pytest.mark.parametrize("quantization", ["nf4", "32bit"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradients_stay_the_same(quantization: Quantization, checkpointing: bool) -> None:
    """Those of the view that is trained; to the rounding of 32 bits, other adapters none."""
    base = load(quantization)
    if checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    base.model.train()

    def gradients() -> list[torch.Tensor]:
        (base.model(IDS).logits ** 2).mean().backward()
        found = [p.grad.clone() for p in base.parameters("policy") if p.grad is not None]
        base.model.zero_grad(set_to_none=True)
        return found

    with base.view("policy"):
        plain = gradients()
        with merged(base.model):
            one_matrix = gradients()
    assert len(plain) == len(one_matrix) == len(base.parameters("policy"))
    for found, expected in zip(one_matrix, plain, strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm()
