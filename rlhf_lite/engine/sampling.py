"""Batched sampling from a view of the base, with the log-probabilities of what was sampled.

The model's own ``generate`` is not used: it returns no log-probabilities of the plain softmax without keeping every
logit, and rows that have ended go on costing. Here finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase


@dataclass(frozen=True)
class Samples:
    """What was sampled, in the order of the prompts.

    Attributes:
        completions: token ids, the stop token included where one was sampled.
        logprobs: natural log-probability of each of those tokens at temperature 1.
        ended: whether the answer ended by itself.
    """

    completions: list[list[int]]
    logprobs: list[list[float]]
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
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = _sample_batch(base, [prompts[i] for i in rows], max_new_tokens, generator, greedy)
        for i, ids, values in zip(rows, *batch, strict=True):
            completions[i], logprobs[i] = ids, values
        if on_batch:
            on_batch(start + len(rows))
    return Samples(completions, logprobs, [bool(c) and c[-1] in base.stops for c in completions])


def _sample_batch(
    base: SharedBase,
    prompts: list[Sequence[int]],
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool,
) -> tuple[list[list[int]], list[list[float]]]:
    padded = text.pad(prompts, [[]] * len(prompts), base.pad, base.device)
    mask, positions = padded.mask.long(), padded.position_ids
    ids = padded.ids
    cache = DynamicCache(config=base.model.config)
    stops = torch.tensor(sorted(base.stops), device=base.device)
    rows = torch.arange(len(prompts), device=base.device)  # which prompt each live row answers
    tokens: list[torch.Tensor] = []  # (rows, token, logprob) of every step
    room = min(max_new_tokens, base.context - padded.prompt_width)
    base.model.eval()
    for _ in range(room):
        with torch.no_grad():
            out = base.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            every = torch.log_softmax(out.logits[:, -1].float(), -1)  # (b, V)
        chosen = (
            every.argmax(-1) if greedy else torch.multinomial(every.exp(), 1, generator=generator).squeeze(-1)
        )
        picked = every.gather(-1, chosen[:, None]).squeeze(-1)
        tokens.append(torch.stack([rows.double(), chosen.double(), picked.double()]))
        live = ~torch.isin(chosen, stops)
        if not bool(live.any()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        if int(live.sum()) <= 0.75 * len(
            rows
        ):  # each squeeze copies the cache, so not for every row that ends
            keep = live.nonzero().squeeze(-1)
            ids, positions, mask, rows = ids[keep], positions[keep], mask[keep], rows[keep]
            cache.batch_select_indices(keep)
    return _by_row(torch.cat(tokens, 1).cpu(), len(prompts), base.stops)


def _by_row(
    tokens: torch.Tensor, count: int, stops: frozenset[int]
) -> tuple[list[list[int]], list[list[float]]]:
    """Sort (row, token, logprob) columns by row; what a row said after its stop token is dropped."""
    ids: list[list[int]] = [[] for _ in range(count)]
    logprobs: list[list[float]] = [[] for _ in range(count)]
    for row, token, logprob in tokens.T.tolist():
        i = int(row)
        if not ids[i] or ids[i][-1] not in stops:
            ids[i].append(int(token))
            logprobs[i].append(logprob)
    return ids, logprobs


def seeded(device: torch.device, seed: int, step: int) -> torch.Generator:
    """A generator for one step of one run."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)
