"""Bytes of what training holds, one thing at a time: arithmetic over a model's shape.

Exact, to the byte, are weights, adapters, heads, optimizer and cache; a test holds them against what is allocated.
What a forward pass holds for a moment is counted per token from the tensors that stay alive between two operations,
and held by a test to within a tenth. Left out is what a kernel takes while it runs.

``width`` is everywhere the bytes of a number in the compute dtype: 2 on a GPU, 4 on a CPU or in 32 bits.
"""

from __future__ import annotations

from rlhf_lite.catalog import LOGITS_AT_ONCE
from rlhf_lite.settings import Quantization
from rlhf_lite.shapes import Model

FP32, FP64 = 4, 8
_RIDGES = 5  # between which the critic decides


def linear_weights(model: Model, quantization: Quantization, width: int) -> int:
    """The blocks' matrices."""
    if quantization == "nf4":
        return sum(count * nf4(inputs * outputs) for count, (inputs, outputs) in model.linears)
    return model.linear_parameters * width


def nf4(count: int) -> int:
    """A matrix of so many weights as bitsandbytes keeps it, quantized twice (Dettmers et al. 2023).

    4 bits a weight, a byte of scale every 64 weights, 4 bytes of scale every 256 of those, their mean, and the two
    tables of values, which every matrix has its own of: 16 and 256 numbers.
    """
    scales = -(-count // 64)
    return -(-count // 2) + scales + FP32 * (-(-scales // 256) + 1 + 16 + 256)


def other_weights(model: Model, width: int) -> int:
    """What is never quantized, and the small tables beside it."""
    return model.other_parameters * width + model.table_bytes


def adapter(model: Model, rank: int) -> int:
    """A LoRA, in fp32."""
    return FP32 * model.lora_parameters(rank)


def head(model: Model) -> int:
    """A reward head, in fp32."""
    return FP32 * model.hidden_size


def adam(model: Model, rank: int, heads: int) -> int:
    """Adam's two moments of the adapter that is trained, and of heads. Its count of steps, a number a tensor, stays in
    RAM."""
    return 2 * (adapter(model, rank) + heads * head(model))


def critic(model: Model) -> int:
    """PPO's critic: the products of states with each other and with returns, and a map for each strength of ridge."""
    size = model.hidden_size + 1
    return FP32 * (size * size + (1 + _RIDGES) * size + _RIDGES)


def states(model: Model, rows: int, answer: int, width: int) -> int:
    """What the critic reads: a state for each token of ``rows`` answers."""
    return rows * answer * model.hidden_size * width


def regression(model: Model, rows: int, answer: int, width: int) -> int:
    """What the critic takes to learn from those states: those of real tokens, and again in fp32 with a constant; then
    only these and, in fp64, their products, the same with a ridge, and what is left of it when it is solved for a map.
    """
    numbers, size = rows * answer * model.hidden_size, model.hidden_size + 1
    laid_out = (width + FP32) * numbers + _copy(numbers, width)
    return max(laid_out, FP32 * numbers + 3 * FP64 * size * size)


def kv_cache(model: Model, rows: int, length: int, width: int) -> int:
    """Keys and values of ``rows`` texts of ``length`` tokens: of all of them, also where a layer sees a window only."""
    return 2 * rows * length * model.layers * model.kv_width * width


def forward_pass(model: Model, width: int, length: int) -> int:
    """A token's share of a pass that keeps nothing for gradients, where it is widest: in the MLP, whose adapter adds
    to its output in fp32 and holds two such outputs at once. ``length`` is that of a text, in tokens.
    """
    d, widest = model.hidden_size, max(outputs for _, outputs in model.block)
    beside = 0 if model.family.fused else model.intermediate_size  # gate, while up is computed
    mlp = (width + 2 * FP32) * widest + width * beside
    scores = width * length * (model.heads + 1) if model.family.writes_scores else 0
    return mlp + scores + 4 * width * d + _copy(d, width)


def layer_inputs(model: Model, width: int) -> int:
    """A token's share of what checkpointing keeps: the input of every layer, and the last one's output."""
    return (model.layers + 1) * model.hidden_size * width


def activations(model: Model, rank: int, width: int, length: int, *, masked: bool) -> int:
    """A token's share of what one layer keeps for its gradients, where it is not computed again. ``masked``: padding of
    texts of ``length`` tokens is masked, as TRL does; PPO leaves it on the right, where nothing real sees it."""
    f = model.intermediate_size
    return _before_mlp(model, rank, width, length, masked) + FP32 * (f + rank) + 3 * width * f


def layer(model: Model, rank: int, width: int, length: int, *, masked: bool) -> int:
    """A token's share of one layer with all that its gradients want, at the worst moment: as the MLP is computed, whose
    adapter holds two of its widest outputs in fp32."""
    d, f = model.hidden_size, model.intermediate_size
    mlp = width * (2 if model.family.fused else 3) * f + 2 * FP32 * max(outputs for _, outputs in model.block)
    kept = _before_mlp(model, rank, width, length, masked)
    return kept + mlp + 3 * width * d + _copy(d, width)


def _copy(numbers: int, width: int) -> int:
    """Numbers in fp32 beside those that something narrower is computed from."""
    return FP32 * numbers if width < FP32 else 0


def _before_mlp(model: Model, rank: int, width: int, length: int, masked: bool) -> int:
    """What a layer has kept once only its MLP is left to compute.

    Each adapter keeps its input in fp32: a copy of its own where the rest is narrower, else what others keep too. So
    does each norm. With a mask, keys and values are laid out for every head of the queries, and each layer writes the
    mask out as numbers; without one, what a fused matrix gives stays as a whole, for the values that are a part of it.
    """
    d, f, q, kv = model.hidden_size, model.intermediate_size, model.q_width, model.kv_width
    writes_scores = model.family.writes_scores
    copied, shared = sum(inputs for inputs, _ in model.block) - f, 2 * d + (q if writes_scores else 0)
    adapters = FP32 * ((copied if width < FP32 else shared) + rank * (len(model.block) - 1))
    norms = FP32 * (model.family.block_norms * d + (q + kv if model.family.head_norms != "none" else 0))
    if writes_scores:
        attention = 3 * width * q + 2 * FP32 * length * model.heads
    elif masked or model.family.windows:
        attention = width * (4 * q + length)
    else:
        attention = width * (3 if model.family.fused else 2) * (q + kv)
    return adapters + norms + attention


def completion_logits(model: Model, tokens: int, width: int) -> int:
    """The logits of answers, of :data:`LOGITS_AT_ONCE` tokens at once: as they are, their log-softmax, and its gradient
    on the way back to them; beside them every token's state and the slope at it, which waits for the backward pass."""
    logits = 3 * FP32 * model.vocab_size * min(tokens, LOGITS_AT_ONCE)
    return logits + 2 * tokens * model.hidden_size * width
