"""The project's decided pairs as token ids.

A pair that does not fit is skipped and counted, never cut: a cut answer is not what somebody judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlhf_lite.catalog import PAIRS_AT_ONCE, micro_batch
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.errors import NotEnoughLabels
from rlhf_lite.labels import Preference


@dataclass(frozen=True)
class TokenPair:
    """A decided pair as token ids; both completions end with the stop token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    margin: float

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Pairs:
    """Decided pairs: those to train on, those never trained on, and how many were too long for either."""

    train: list[TokenPair]
    held_out: list[TokenPair]
    skipped_too_long: int


def load_pairs(job: Job, base: SharedBase, max_tokens: int) -> Pairs:
    """The project's decided pairs that fit.

    Raises:
        NotEnoughLabels: fewer than ``reward.min_pairs`` fit, or none of them is there to train on.
    """
    with job.project.labels() as store:
        stored = {split: store.preferences(split) for split in ("train", "valid", "test")}
    limit = min(max_tokens, base.context)
    every = {split: [_token_pair(base.tokenizer, p) for p in some] for split, some in stored.items()}
    fit = {split: [p for p in some if p.longest <= limit] for split, some in every.items()}
    total, fitting = (sum(map(len, of.values())) for of in (every, fit))
    pairs = Pairs(fit["train"], [*fit["valid"], *fit["test"]], total - fitting)
    wanted = job.preset.reward.min_pairs
    if fitting < wanted or not pairs.train:
        raise NotEnoughLabels(
            f"{fitting} decided pairs, {len(pairs.train)} of them to train on; at least {wanted} are needed",
            why=f"{pairs.skipped_too_long} of {total} are longer than {limit} tokens"
            if pairs.skipped_too_long
            else "",
            hint="label more pairs, or pick a model with a longer context",
        )
    note_skipped(job, pairs.skipped_too_long, total, limit)
    return pairs


def note_skipped(job: Job, skipped: int, total: int, limit: int) -> None:
    """Say how many examples did not fit."""
    if skipped:
        job.warn(
            f"{skipped} of {total} examples are longer than {limit} tokens and were skipped",
            "this model learns only from the short ones; max_tokens and the model's context set the limit",
        )


def _token_pair(tokenizer: PreTrainedTokenizerBase, preference: Preference) -> TokenPair:
    return TokenPair(
        text.prompt_ids(tokenizer, preference.prompt),
        text.completion_ids(tokenizer, preference.chosen),
        text.completion_ids(tokenizer, preference.rejected),
        preference.margin,
    )


def in_batches(job: Job, pairs: Sequence[TokenPair], step: int) -> Iterator[Sequence[TokenPair]]:
    """Held-out pairs a batch at a time, telling how far it is; the user can stop between two.

    Raises:
        StopRequested: training is done and saved at ``step``; a resume begins here.
    """
    size = micro_batch(PAIRS_AT_ONCE, 2 * max((p.longest for p in pairs), default=0))
    for start in range(0, len(pairs), size):
        job.check_stop(step)
        job.progress("held-out pairs", start, len(pairs))
        yield pairs[start : start + size]
    job.progress("held-out pairs", len(pairs), len(pairs))
