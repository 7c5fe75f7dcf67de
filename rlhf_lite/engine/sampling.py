"""Batched sampling from a view of the base, with the log-probabilities of what was sampled.

The model's own ``generate`` is not used: it returns no log-probabilities of the plain softmax without keeping every
logit, and rows that have ended go on costing. Here finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from rlhf_lite import catalog
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.merged import merged

KEEP = 0.75  # of a batch's rows live on: then those that have ended are dropped


@dataclass(frozen=True)
class Samples:
    """What was sampled, in the order of the prompts.

    Attributes:
        completions: token ids, the stop token included where one was sampled.
        logprobs: natural log-probability of each of those tokens at temperature 1.
        entropy: of the distribution each of them was drawn from, in nats.
        ended: whether the answer ended by itself.
    """

    completions: list[list[int]]
    logprobs: list[list[float]]
    entropy: list[list[float]]
    ended: list[bool]


def sample(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    generator: torch.Generator,
    greedy: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Samples:
    """One completion to each prompt, in the view the caller is in, at temperature 1 and nothing truncated.

    ``greedy`` takes the likeliest token instead. ``on_batch`` is told how many completions are done.
    """
    order = sorted(
        range(len(prompts)), key=lambda i: len(prompts[i])
    )  # neighbours in length waste least padding
    completions: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    entropy: list[list[float]] = [[] for _ in prompts]
    with merged(base.model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = _sample_batch(base, [prompts[i] for i in rows], max_new_tokens, generator, greedy)
            for i, ids, chosen, spread in zip(rows, *batch, strict=True):
                completions[i], logprobs[i], entropy[i] = ids, chosen, spread
            if on_batch:
                on_batch(start + len(rows))
    return Samples(completions, logprobs, entropy, [bool(c) and c[-1] in base.stops for c in completions])


def _sample_batch(
    base: SharedBase,
    prompts: list[Sequence[int]],
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool,
) -> tuple[list[list[int]], list[list[float]], list[list[float]]]:
    padded = text.pad_prompts(prompts, base.pad, base.device)
    ids, positions, width = padded.ids, padded.position_ids, padded.ids.shape[1]
    room = min(max_new_tokens, base.context - width)
    cache = RolloutCache(width + room)
    mask = torch.cat([padded.mask.long(), ids.new_ones(len(prompts), room)], 1)
    stops = torch.tensor(sorted(base.stops), device=base.device)
    rows = torch.arange(len(prompts), device=base.device)  # which prompt each row answers
    live = torch.ones_like(rows, dtype=torch.bool)
    tokens: list[torch.Tensor] = []  # (row, token, logprob, entropy) of every step's live rows
    base.model.eval()
    at_once = catalog.prompt_columns(len(prompts))
    last = (width - 1) // at_once * at_once  # where the last part begins, which the first token follows from
    for start in range(0, last, at_once):
        with torch.no_grad():
            base.backbone(
                input_ids=ids[:, start : start + at_once], attention_mask=mask[:, : start + at_once],
                position_ids=positions[:, start : start + at_once], past_key_values=cache, use_cache=True,
            )  # fmt: skip
    ids, positions = ids[:, last:], positions[:, last:]
    for step in range(room):
        with torch.no_grad():
            out = base.model(
                input_ids=ids, attention_mask=mask[:, : width + step], position_ids=positions, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            every = torch.softmax(out.logits[:, -1].float(), -1)  # (b, V)
        chosen = every.argmax(-1) if greedy else _draw(every, generator)
        picked = every.gather(-1, chosen[:, None]).squeeze(-1).log()
        entropy = torch.special.entr(every).sum(-1)
        tokens.append(torch.stack([x.double() for x in (rows, chosen, picked, entropy)])[:, live])
        live = live & ~torch.isin(chosen, stops)
        left = int(live.sum())
        if not left:
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        if left <= KEEP * len(rows):  # each squeeze copies the cache, so not for every row that ends
            kept = live.nonzero().squeeze(-1)
            ids, positions, mask, rows, live = (x[kept] for x in (ids, positions, mask, rows, live))
            cache.batch_select_indices(kept)
    return _by_row(torch.cat(tokens, 1).cpu(), len(prompts))


def _draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One index a row, (b, V) → (b,), where a uniform number falls among the sums: one random number a row, not one for
    each token of the vocabulary. The sums are fp64: in fp32 the rare tokens of a large vocabulary would be lost. Of
    probabilities that are not numbers the last index: one beyond it would end a process on a GPU without a word."""
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:]
    point = torch.rand(total.shape, generator=generator, device=total.device, dtype=total.dtype) * total
    return torch.searchsorted(sums, point, right=True).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


class _RolloutLayer(DynamicLayer):
    """Keys and values in place: appending by concatenation would copy all of them for every token."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._take(key_states[:, :, :0], value_states[:, :, :0])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._all_keys[:, :, start:end], self._all_values[:, :, start:end] = key_states, value_states
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        assert self.keys is not None, "something was cached"
        assert self.values is not None, "keys and values come together"
        self._take(self.keys[indices], self.values[indices])

    def _take(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Room for these rows, (b, heads, n, d), and for what follows."""
        self._all_keys, self._all_values = (
            torch.empty((*x.shape[:2], self._room, x.shape[3]), dtype=x.dtype, device=x.device)
            for x in (keys, values)
        )
        length = keys.shape[2]
        self._all_keys[:, :, :length], self._all_values[:, :, :length] = keys, values
        self.keys, self.values = self._all_keys[:, :, :length], self._all_values[:, :, :length]


class RolloutCache(DynamicCache):
    """Keys and values of a batch with room for so many positions. A layer with a sliding window keeps all of them too:
    its mask leaves out what is too far away."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.layer_class_to_replicate = lambda: _RolloutLayer(room)


def _by_row(tokens: torch.Tensor, count: int) -> tuple[list[list[int]], list[list[float]], list[list[float]]]:
    """Sort (row, token, logprob, entropy) columns by row."""
    ids: list[list[int]] = [[] for _ in range(count)]
    logprobs: list[list[float]] = [[] for _ in range(count)]
    entropies: list[list[float]] = [[] for _ in range(count)]
    for row, token, logprob, entropy in tokens.T.tolist():
        ids[int(row)].append(int(token))
        logprobs[int(row)].append(logprob)
        entropies[int(row)].append(entropy)
    return ids, logprobs, entropies


def seeded(device: torch.device, seed: int, step: int) -> torch.Generator:
    """A generator for one step of one run."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)
