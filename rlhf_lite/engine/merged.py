"""A view of the base with one fp32 matrix in each linear layer, for as long as somebody samples from it on a CPU.

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


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, every linear layer that is 4-bit or carries an adapter multiplies by one matrix: the adapters are those
    that are active on entering. Nothing changes where the model is not on a CPU, or the matrices would take more than
    half of the memory that is free.
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
            layer.forward = _Product(_matrix(layer, base), base.bias)
        yield
    finally:
        for layer, _ in linears:
            vars(layer).pop("forward", None)


class _Product:
    """A layer's forward: (..., in) → (..., out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self._weight, self._bias)


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
