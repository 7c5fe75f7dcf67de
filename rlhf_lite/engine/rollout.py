"""A rollout: a batch of completions with everything PPO needs to learn from them, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from rlhf_lite.engine import objectives, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.batches import by_length, laid_out, split, unsorted
from rlhf_lite.engine.logprobs import token_logprobs
from rlhf_lite.engine.merged import merged
from rlhf_lite.engine.sampling import Samples, sample
from rlhf_lite.engine.scoring import Reading, RewardModel, Scorer
from rlhf_lite.engine.statistics import correlation, mean, repetition
from rlhf_lite.errors import JobError

SAMPLED_APART = 0.1  # nats a token on average; 16-bit rounding makes a tenth of it
SAMPLED_ALIKE = 1e-4  # nats, of any token: rounding in 32 bits makes a tenth of it


@dataclass(frozen=True)
class Rollout:
    """One batch, B completions, T tokens at most.

    Attributes:
        prompts, completions: token ids.
        ended: (B,), whether the answer ended by itself.
        scores: (B,), the raw score, the penalty for not ending included.
        parts: (B, T), what each token adds to the score; all 0 where a function scores the answer as a whole. The rest
            of the score belongs to the last token.
        logprobs, reference, entropy: (B, T), old log-probabilities, the reference's, and the policy's entropy.
        states: (B, T, D), the frozen states before each token, for the critic.
        response_mask: (B, T), True = a real token.
        micro_batches: rows of like length, as they were padded together; updates keep to them, so that old and new
            log-probabilities come from the same shapes.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    ended: torch.Tensor
    scores: torch.Tensor
    parts: torch.Tensor
    logprobs: torch.Tensor
    reference: torch.Tensor
    entropy: torch.Tensor
    states: torch.Tensor
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

    @property
    def rows(self) -> int:
        """Of the largest micro-batch."""
        return max(map(len, self.micro_batches))

    def split(self, rows: int) -> None:
        """Micro-batches of so many rows at most from now on."""
        self.micro_batches[:] = split(self.micro_batches, rows)

    def pick(self, rows: Sequence[int], base: SharedBase) -> text.Padded:
        """One micro-batch's rows laid out for a forward pass."""
        return laid_out(base, self.prompts, self.completions, rows)


def response_logprobs(base: SharedBase, padded: text.Padded) -> torch.Tensor:
    """Log-probabilities of a padded batch's completions, (B, T), in the view one is in.

    The one path by which old and new log-probabilities are computed: the ratio is 1 only if both are.
    """
    states = base.hidden(padded)[padded.before]
    return padded.spread(token_logprobs(states, base.logits, padded.targets))


def logprobs_of(
    base: SharedBase,
    view: str | None,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch: int,
) -> list[torch.Tensor]:
    """Log-probability of every completion's tokens in a view, one (length,) tensor a completion."""
    order, found = by_length(prompts, completions), dict[int, torch.Tensor]()
    with torch.no_grad(), base.view(view), merged(base.model):
        base.model.eval()
        for rows in split([order], batch):
            padded = laid_out(base, prompts, completions, rows)
            told = response_logprobs(base, padded)
            found |= {i: row[m].cpu() for i, row, m in zip(rows, told, padded.response_mask, strict=True)}
    return [found[i] for i in range(len(prompts))]


def make_rollout(
    base: SharedBase,
    prompts: list[list[int]],
    *,
    reference: str | None,
    score: Scorer,
    no_eos_penalty: float,
    max_new_tokens: int,
    sampling_batch: int,
    micro_batch: int,
    generator: torch.Generator,
    on_batch: Callable[[int], None],
    trust_sampled: bool,
) -> Rollout:
    """Sample from the policy, then read what the reward model and the reference make of it, each once.

    Args:
        on_batch: is told how many answers are sampled.
        trust_sampled: log-probabilities are those of the sampling, if on the longest answers the training's own pass
            gives the same; else, and where it does not, they are computed again.
    """
    with base.view("policy"):
        samples = sample(
            base, prompts, max_new_tokens=max_new_tokens, batch_size=sampling_batch, generator=generator,
            on_batch=on_batch,
        )  # fmt: skip
    order = by_length(prompts, samples.completions)
    batches = split([order], micro_batch)
    padded = [laid_out(base, prompts, samples.completions, rows) for rows in batches]
    logprobs, entropy = _of_policy(base, samples, batches, padded, trust_sampled)
    frozen, read = _of_frozen(base, reference, score, samples.completions, prompts, batches, padded)
    ended = torch.tensor(samples.ended, device=base.device)
    scores = unsorted([r.scores[:, None] for r in read], order).squeeze(-1)
    return Rollout(
        prompts=prompts,
        completions=samples.completions,
        ended=ended,
        scores=torch.where(ended, scores, scores - no_eos_penalty),
        parts=unsorted([r.parts for r in read], order),
        logprobs=unsorted(logprobs, order),
        reference=unsorted(frozen, order),
        entropy=unsorted(entropy, order),
        states=unsorted([r.states for r in read], order),
        response_mask=unsorted([p.response_mask for p in padded], order),
        micro_batches=batches,
    )


def _of_policy(
    base: SharedBase,
    samples: Samples,
    batches: list[list[int]],
    padded: list[text.Padded],
    trust_sampled: bool,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities and entropies of each micro-batch: those of the sampling, where they may be trusted and are
    those of training.

    Raises:
        JobError: the two are so far apart that it cannot be rounding.
    """
    sampled, entropy = (
        [p.spread(torch.tensor([x for i in rows for x in told[i]], device=base.device))
         for rows, p in zip(batches, padded, strict=True)]
        for told in (samples.logprobs, samples.entropy)
    )  # fmt: skip
    with torch.no_grad(), base.view("policy"), merged(base.model):
        base.model.eval()
        longest = response_logprobs(base, padded[-1])
        apart = (longest - sampled[-1]).abs()[padded[-1].response_mask]
        _check_sampled(float(apart.mean()))
        if not trust_sampled or float(apart.max()) > SAMPLED_ALIKE:
            sampled = [*(response_logprobs(base, p) for p in padded[:-1]), longest]
    return sampled, entropy


def _check_sampled(apart: float) -> None:
    """Training computes the log-probabilities of the sampling, but for rounding.

    Raises:
        JobError: it does not, as with a model whose output layer does more than is known here.
    """
    if not apart < SAMPLED_APART:
        raise JobError(
            f"sampling and training are {apart:.2g} nats a token apart",
            why="they compute this model's log-probabilities differently",
            hint="please report this with the run's job.log; until it is mended, train another model",
        )


def _of_frozen(
    base: SharedBase,
    reference: str | None,
    score: Scorer,
    completions: list[list[int]],
    prompts: list[list[int]],
    batches: list[list[int]],
    padded: list[text.Padded],
) -> tuple[Sequence[torch.Tensor], list[Reading]]:
    """What does not train says of each micro-batch: the reference's log-probabilities, scores and states."""
    of_reference = _of_reference(base, reference, padded)
    if isinstance(score, RewardModel):
        return [logprobs for logprobs, _ in of_reference], list(score.read(padded))
    frozen, states = zip(*of_reference, strict=True)
    told = torch.tensor(score(prompts, completions, len(batches[0])), device=base.device)
    whole = [torch.zeros_like(r) for r in frozen]  # no token has a part of its own
    return frozen, [Reading(told[rows], *rest) for rows, *rest in zip(batches, whole, states, strict=True)]


def _of_reference(
    base: SharedBase, view: str | None, padded: list[text.Padded]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The reference's log-probabilities and states of each micro-batch, (B, T) and (B, T, D)."""
    with torch.no_grad(), base.view(view), merged(base.model):
        base.model.eval()
        for p in padded:
            states = base.hidden(p)[p.before]
            yield p.spread(token_logprobs(states, base.logits, p.targets)), p.spread(states)


def sampled(
    base: SharedBase, view: str, reference: str | None, prompts: Sequence[list[int]], *, micro_batch: int,
    max_new_tokens: int, sampling_batch: int, generator: torch.Generator, on_batch: Callable[[int], None],
) -> tuple[Samples, list[float]]:  # fmt: skip
    """A view's answers to these prompts, and the KL of each to the reference, nats a sequence."""
    with base.view(view):
        found = sample(
            base, prompts, max_new_tokens=max_new_tokens, batch_size=sampling_batch, generator=generator,
            on_batch=on_batch,
        )  # fmt: skip
    return found, sequence_kl(found, logprobs_of(base, reference, prompts, found.completions, micro_batch))


def sequence_kl(samples: Samples, reference: list[torch.Tensor]) -> list[float]:
    """KL estimate of each sampled completion, nats a sequence: the sum of k1 over its tokens."""
    return [sum(p) - float(r.sum()) for p, r in zip(samples.logprobs, reference, strict=True)]
