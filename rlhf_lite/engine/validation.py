"""How good a policy is on prompts that no rollout uses: what decides which checkpoint PPO keeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from rlhf_lite.engine import text
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.prompts import PromptIds, draw
from rlhf_lite.engine.rollout import sampled
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.engine.scoring import Scorer
from rlhf_lite.engine.statistics import mean
from rlhf_lite.events import Metrics, Sample
from rlhf_lite.settings import Ppo

SHOWN = 3  # the same prompts every time, for people to watch


@dataclass(frozen=True)
class Validation:
    """Means over answers: score less the penalty for not ending, KL in nats a sequence, share that ended. ``error`` is
    the standard error of the score."""

    score: float
    error: float
    kl: float
    ended: float
    samples: tuple[Sample, ...]

    def metrics(self, step: int) -> Metrics:
        values = {"eval/scores": self.score, "eval/kl": self.kl, "eval/ended": self.ended}
        return Metrics(step=step, values=values)


@dataclass(frozen=True)
class _Answer:
    """One prompt's: token ids of both, the score as it was given, KL in nats, whether it ended by itself."""

    prompt: list[int]
    completion: list[int]
    score: float
    kl: float
    ended: bool


def validate(
    learner: Learner, score: Scorer, prompts: Sequence[PromptIds], settings: Ppo, *, seed: int, max_new_tokens: int,
    sampling_batch: int, on_batch: Callable[[int], None],
) -> Validation:  # fmt: skip
    """Sampled with the same randomness every time: two checkpoints differ by their policies alone. Each process
    samples its share; all get the means over all.

    ``on_batch`` is told how many answers are sampled.
    """
    base, team = learner.base, learner.team
    chosen = draw([p.ids for p in prompts], settings.validation_samples, 0, seed)
    generator = seeded(base.device, seed, -team.rank)
    work = partial(
        _answers, learner, score, team.share(chosen), settings.micro_batch, max_new_tokens, sampling_batch, generator,
        on_batch,
    )  # fmt: skip
    found = [answer for part in team.each(work) for answer in part]
    words = {tuple(p.ids): p.text for p in prompts}
    scores = [a.score - (0.0 if a.ended else settings.no_eos_penalty) for a in found]
    return Validation(
        score=mean(scores),
        error=statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0,
        kl=mean([a.kl for a in found]),
        ended=mean([float(a.ended) for a in found]),
        samples=tuple(
            Sample(
                step=learner.counters.step, prompt=words[tuple(a.prompt)],
                completion=text.decode(base.tokenizer, a.completion), score=a.score,
            )
            for a in found[:SHOWN]
        ),
    )  # fmt: skip


def _answers(
    learner: Learner, score: Scorer, prompts: Sequence[list[int]], micro_batch: int, max_new_tokens: int,
    sampling_batch: int, generator: torch.Generator, on_batch: Callable[[int], None],
) -> list[_Answer]:  # fmt: skip
    if not prompts:  # fewer than there are processes
        return []
    found, kl = sampled(
        learner.base, "policy", learner.reference, prompts, micro_batch=micro_batch, max_new_tokens=max_new_tokens,
        sampling_batch=sampling_batch, generator=generator, on_batch=on_batch,
    )  # fmt: skip
    scores = score(prompts, found.completions, micro_batch)
    return [_Answer(*row) for row in zip(prompts, found.completions, scores, kl, found.ended, strict=True)]
