"""A view of the base with one fp32 matrix in each linear layer, for as long as somebody computes with it on a CPU.

There a 4-bit layer is unpacked anew for every token, and an adapter's two small products cost as much as the large one.
The matrices are made from the frozen weights and the adapter each time and thrown away, so nothing drifts, and in fp32
nothing of a small adapter is lost. A GPU computes in 16 bits, where it would be; it keeps base and adapter apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora import LoraLayer
from torch import nn

from rlhf_lite import memory

_Adapter = tuple[torch.Tensor, torch.Tensor, float]
"""A (r, in), B (out, r), scale."""


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, every linear layer that is 4-bit or carries an adapter multiplies by one matrix: the adapters are those
    that are active on entering, as they are then. Nothing changes where the model is not on a CPU, or the matrices
    would take more than half of the memory that is free.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    inner = {id(layer.get_base_layer()) for layer in layers}
    layers += [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit) and id(m) not in inner]
    linears = [(layer, base) for layer in layers if isinstance(base := _base(layer), nn.Linear)]
    needed = sum(4 * base.in_features * base.out_features for _, base in linears)
    if _device(model).type != "cpu" or 2 * needed > memory.read_ram(Path("/proc/meminfo")).free:
        yield
        return
    try:
        for layer, base in linears:
            layer.forward = _Product(_matrix(layer, base), base.bias, _adapter(layer))
        yield
    finally:
        for layer, _ in linears:
            vars(layer).pop("forward", None)


class _Product:
    """A layer's forward: (..., in) → (..., out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, adapter: _Adapter | None) -> None:
        self._weight, self._bias, self._adapter = weight, bias, adapter

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._adapter is None or not torch.is_grad_enabled():
            return nn.functional.linear(x, self._weight, self._bias)
        a, b, scale = self._adapter
        found = _WithAdapter.apply(x, self._weight, a, b, scale)
        assert isinstance(found, torch.Tensor), "a function of autograd gives what its forward gives"
        return found if self._bias is None else found + self._bias


class _WithAdapter(torch.autograd.Function):
    """x·(W + s·B·A)ᵀ by the one matrix; A and B get the gradients that they have where they are apart."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, merged: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(x, merged, a, b)
        ctx.scale = scale
        return x @ merged.T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        [gradient] = gradients
        own = gradient @ merged if ctx.needs_input_grad[0] else None  # an embedding's is nobody's
        rows, out = x.flatten(0, -2), gradient.flatten(0, -2)
        return own, None, ctx.scale * (out @ b).T @ rows, ctx.scale * out.T @ (rows @ a.T), None


def _base(layer: nn.Module) -> nn.Module:
    return layer.get_base_layer() if isinstance(layer, LoraLayer) else layer


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@torch.no_grad()
def _matrix(layer: nn.Module, base: nn.Linear) -> torch.Tensor:
    weight = base.weight
    if isinstance(base, bnb.nn.Linear4bit):
        weight = dequantize_4bit(weight.data, cast("Any", weight).quant_state)
    weight = weight.float()
    if isinstance(layer, LoraLayer) and not layer.disable_adapters:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + cast("Any", layer).get_delta_weight(name)
    return weight


def _adapter(layer: nn.Module) -> _Adapter | None:
    """A, B and scale of the one active adapter, where it is trained."""
    if not isinstance(layer, LoraLayer) or layer.disable_adapters:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or not layer.lora_A[names[0]].weight.requires_grad:
        return None
    a, b = layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight
    return cast("torch.Tensor", a), cast("torch.Tensor", b), layer.scaling[names[0]]
