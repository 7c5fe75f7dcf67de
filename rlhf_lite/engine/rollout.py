"""A rollout: a batch of completions with everything PPO needs to learn from them, how one is made and scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rlhf_lite.engine import heads, objectives, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import load_function
from rlhf_lite.engine.sampling import Samples, sample
from rlhf_lite.engine.statistics import correlation, mean, repetition
from rlhf_lite.errors import JobError, UserError

SAMPLED_APART = 0.1  # nats a token on average; 16-bit rounding makes a tenth of it
Scorer = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], list[float]]
"""Prompt ids and completion ids → one score a completion; a reward model's in its standard deviations."""


@dataclass(frozen=True)
class Rollout:
    """One batch, B completions, T tokens at most.

    Attributes:
        prompts, completions: token ids.
        ended: (B,), whether the answer ended by itself.
        scores: (B,), the raw score, the penalty for not ending included.
        logprobs, reference, values: (B, T), old log-probabilities, the reference's, and the value *before* each token.
        response_mask: (B, T), True = a real token.
        micro_batches: rows of like length, as they were padded together; updates keep to them, so that old and new
            log-probabilities come from the same shapes.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    ended: torch.Tensor
    scores: torch.Tensor
    logprobs: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    entropy: torch.Tensor
    response_mask: torch.Tensor
    micro_batches: list[list[int]]

    @property
    def kl(self) -> torch.Tensor:
        """k1 of each token, 0 on padding, (B, T)."""
        return torch.where(self.response_mask, objectives.kl_k1(self.logprobs, self.reference), 0)

    @property
    def lengths(self) -> torch.Tensor:
        """Real tokens of each completion, (B,)."""
        return self.response_mask.sum(-1)

    def metrics(self) -> dict[str, float]:
        """What the charts show of the answers, by TRL's names; lengths in tokens, entropy in nats a token."""
        lengths = self.lengths.float()
        return {
            "objective/scores": float(self.scores.mean()),
            "objective/scores_std": float(self.scores.std(correction=0)),
            "objective/entropy": float(objectives.masked_mean(self.entropy, self.response_mask)),
            "val/num_eos_tokens": float(self.ended.float().mean()),
            "completion_length": float(lengths.mean()),
            "length_correlation": correlation(lengths, self.scores),
            "repetition": mean([repetition(answer) for answer in self.completions]),
        }

    def check_start(self) -> None:
        """Before its first update the policy equals the reference, bit for bit.

        Raises:
            JobError: it does not.
        """
        if bool((self.kl != 0).any()):
            kl = float(self.kl.sum(-1).mean())
            raise JobError(
                f"the policy does not start at the reference: KL {kl:.4g}",
                why="an adapter was changed on disk", hint="start the stage again without --resume",
            )  # fmt: skip

    def check_sampled(self, sampled: Sequence[Sequence[float]]) -> None:
        """The log-probabilities that training computes are those of the sampling, but for rounding.

        Raises:
            JobError: they are not, as with a model whose output layer does more than is known here.
        """
        told = torch.tensor([x for row in sampled for x in row], device=self.logprobs.device)
        apart = float((self.logprobs[self.response_mask] - told).abs().mean())
        if not apart < SAMPLED_APART:
            raise JobError(
                f"sampling and training are {apart:.2g} nats a token apart",
                why="they compute this model's log-probabilities differently",
                hint="please report this with the run's job.log; until it is mended, train another model",
            )

    @property
    def rows(self) -> int:
        """Of the largest micro-batch."""
        return max(map(len, self.micro_batches))

    def split(self, rows: int) -> None:
        """Micro-batches of so many rows at most from now on."""
        self.micro_batches[:] = split(self.micro_batches, rows)

    def pick(self, rows: Sequence[int], base: SharedBase) -> text.Padded:
        """One micro-batch's rows laid out for a forward pass."""
        return _laid_out(base, self.prompts, self.completions, rows)


def split(batches: Sequence[list[int]], rows: int) -> list[list[int]]:
    """The same rows in the same order, at most so many together."""
    return [batch[i : i + rows] for batch in batches for i in range(0, len(batch), rows)]


class RewardModel:
    """The reward view: base + reward adapter + score head, normalised on the policy's own samples."""

    def __init__(self, base: SharedBase, folder: Path, *, name: str = "reward") -> None:
        base.load_adapter(name, folder, trainable=False)
        self._base = base
        self._name = name
        self.head = heads.load_head(folder, base.width, base.device).requires_grad_(False)
        self.scale = heads.load_scale(folder)

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch: int = 32
    ) -> list[float]:
        """Score completions: token ids → standard deviations from the policy's own mean."""
        scores: list[float] = []
        with torch.no_grad(), self._base.view(self._name):
            self._base.model.eval()
            for start in range(0, len(prompts), batch):
                padded = text.pad(
                    prompts[start : start + batch],
                    completions[start : start + batch],
                    self._base.pad,
                    self._base.device,
                )
                hidden = self._base.hidden(padded)[:, padded.prompt_width :]
                scores += heads.pooled(self.head, hidden, padded.response_mask).tolist()
        return [(s - self.scale.mean) / self.scale.std for s in scores]


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

    def __call__(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[float]:
        """Score completions as the user's function does.

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


def response_logprobs(base: SharedBase, padded: text.Padded) -> objectives.TokenLogprobs:
    """Log-probabilities of a padded batch's completions, (B, T), in the view one is in.

    The one path by which old and new log-probabilities are computed: the ratio is 1 only if both are.
    """
    hidden = base.hidden(padded)[:, padded.prompt_width - 1 : -1]
    return objectives.token_logprobs(hidden, base.logits, padded.response_ids)


def response_values(base: SharedBase, padded: text.Padded, head: nn.Linear) -> torch.Tensor:
    """The value before each token of the completions, (B, T), in the view one is in."""
    hidden = base.hidden(padded)[:, padded.prompt_width - 1 : -1]
    return head(hidden.float()).squeeze(-1)


def logprobs_of(
    base: SharedBase,
    view: str | None,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch: int,
) -> list[torch.Tensor]:
    """Log-probability of every completion's tokens in a view, one (length,) tensor a completion."""
    found: list[torch.Tensor] = []
    with torch.no_grad(), base.view(view):
        base.model.eval()
        for start in range(0, len(prompts), batch):
            padded = text.pad(
                prompts[start : start + batch], completions[start : start + batch], base.pad, base.device
            )
            rows = response_logprobs(base, padded).logprobs
            found += [row[mask].cpu() for row, mask in zip(rows, padded.response_mask, strict=True)]
    return found


def make_rollout(
    base: SharedBase,
    prompts: list[list[int]],
    *,
    reference: str | None,
    score: Scorer,
    value_head: nn.Linear,
    no_eos_penalty: float,
    max_new_tokens: int,
    sampling_batch: int,
    micro_batch: int,
    generator: torch.Generator,
    on_batch: Callable[[int], None],
) -> Rollout:
    """Sample from the policy, then score, and read log-probs, reference log-probs and values.

    ``on_batch`` is told how many answers are sampled.
    """
    with base.view("policy"):
        samples = sample(
            base, prompts, max_new_tokens=max_new_tokens, batch_size=sampling_batch, generator=generator,
            on_batch=on_batch,
        )  # fmt: skip
    scores = torch.tensor(score(prompts, samples.completions))
    ended = torch.tensor(samples.ended)
    scores = torch.where(ended, scores, scores - no_eos_penalty)
    order = sorted(range(len(prompts)), key=lambda i: len(samples.completions[i]))
    batches = split([order], micro_batch)
    padded = [_laid_out(base, prompts, samples.completions, rows) for rows in batches]
    with torch.no_grad():
        with base.view("policy"):
            policy = [response_logprobs(base, p) for p in padded]
        with base.view(reference):
            frozen = [response_logprobs(base, p).logprobs for p in padded]
        with base.view("value"):
            values = [response_values(base, p, value_head) for p in padded]
    rollout = Rollout(
        prompts=prompts,
        completions=samples.completions,
        ended=ended.to(base.device),
        scores=scores.to(base.device),
        logprobs=_unsorted([p.logprobs for p in policy], order),
        reference=_unsorted(frozen, order),
        values=_unsorted(values, order),
        entropy=_unsorted([p.entropy for p in policy], order),
        response_mask=_unsorted([p.response_mask for p in padded], order),
        micro_batches=batches,
    )
    rollout.check_sampled(samples.logprobs)
    return rollout


def _laid_out(
    base: SharedBase, prompts: Sequence[list[int]], completions: Sequence[list[int]], rows: Sequence[int]
) -> text.Padded:
    return text.pad([prompts[i] for i in rows], [completions[i] for i in rows], base.pad, base.device)


def _unsorted(parts: list[torch.Tensor], order: list[int]) -> torch.Tensor:
    """Micro-batches of different widths as one (B, T) in the prompts' order, zero (False) on the right."""
    width = max(p.shape[1] for p in parts)
    stacked = torch.cat([nn.functional.pad(p, (0, width - p.shape[1])) for p in parts])
    inverse = torch.tensor(order, device=stacked.device).argsort()
    return stacked[inverse]


def sequence_kl(samples: Samples, reference: list[torch.Tensor]) -> list[float]:
    """KL estimate of each sampled completion, nats a sequence: the sum of k1 over its tokens."""
    return [sum(p) - float(r.sum()) for p, r in zip(samples.logprobs, reference, strict=True)]
