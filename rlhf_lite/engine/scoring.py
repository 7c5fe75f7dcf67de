"""Who scores an answer: the reward model, a view of the base, or a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf_lite.engine import heads, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.batches import by_length, laid_out, split
from rlhf_lite.engine.job import load_function
from rlhf_lite.engine.merged import merged
from rlhf_lite.errors import UserError

Scorer = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]], int], list[float]]
"""Prompt ids, completion ids, how many to read at once → one score a completion; a reward model's in its standard
deviations."""


@dataclass(frozen=True)
class Reading:
    """What the reward model makes of a padded batch: scores (B,), what each token added to them (B, T), and the states
    before each token (B, T, D). Scores and parts are in its standard deviations; a score is the sum of its parts, less
    the policy's own mean.
    """

    scores: torch.Tensor
    parts: torch.Tensor
    states: torch.Tensor


class RewardModel:
    """The reward view: base + reward adapter + score head, normalised on the policy's own samples."""

    def __init__(self, base: SharedBase, folder: Path, *, name: str = "reward") -> None:
        base.load_adapter(name, folder, trainable=False)
        self._base = base
        self._name = name
        self.head = heads.load_head(folder, base.width, base.device).requires_grad_(False)
        self.scale = heads.load_scale(folder)

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], rows: int = 32
    ) -> list[float]:
        """Score completions: token ids → standard deviations from the policy's own mean."""
        order = by_length(prompts, completions)
        padded = (laid_out(self._base, prompts, completions, batch) for batch in split([order], rows))
        scores = [score for reading in self.read(padded) for score in reading.scores.tolist()]
        found = dict(zip(order, scores, strict=True))
        return [found[i] for i in range(len(prompts))]

    def read(self, batches: Iterable[text.Padded]) -> Iterator[Reading]:
        """One pass over each padded batch."""
        with torch.no_grad(), self._base.view(self._name), merged(self._base.model):
            self._base.model.eval()
            for padded in batches:
                hidden = self._base.hidden(padded)
                parts = padded.spread(heads.token_rewards(self.head, hidden[padded.own])) / self.scale.std
                scores = parts.sum(-1) - self.scale.mean / self.scale.std
                yield Reading(scores, parts, padded.spread(hidden[padded.before]))


class RewardFunction:
    """The user's ``score(prompts, completions)``, its answer checked each time."""

    def __init__(
        self, base: SharedBase, spec: str, sha256: str, texts: Mapping[tuple[int, ...], str]
    ) -> None:
        """``texts`` has the text of every prompt that will be asked about, by its ids."""
        self._function = load_function(spec, sha256)
        self._base = base
        self._spec = spec
        self._texts = texts

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], rows: int = 0
    ) -> list[float]:
        """Score completions as the user's function does, which reads all of them at once.

        Raises:
            UserError: it did not return one finite number for each.
        """
        answers = [text.decode(self._base.tokenizer, c) for c in completions]
        found = [float(s) for s in self._function([self._texts[tuple(p)] for p in prompts], answers)]
        if len(found) != len(answers) or not all(math.isfinite(s) for s in found):
            raise UserError(
                f"{self._spec} must return one finite number for each completion",
                why=f"{len(answers)} completions, {len(found)} numbers", hint="see assets/examples/reward.py",
            )  # fmt: skip
        return found
