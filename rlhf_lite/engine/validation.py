"""How good a policy is on prompts that no rollout uses: what decides which checkpoint PPO keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_lite.engine import text
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.prompts import PromptIds, draw
from rlhf_lite.engine.rollout import Scorer, logprobs_of, sequence_kl
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.engine.statistics import mean
from rlhf_lite.events import Metrics, Sample
from rlhf_lite.settings import Ppo

SHOWN = 3  # the same prompts every time, for people to watch


@dataclass(frozen=True)
class Validation:
    """Means over answers: score less the penalty for not ending, KL in nats a sequence, share that ended."""

    score: float
    kl: float
    ended: float
    samples: tuple[Sample, ...]

    def metrics(self, step: int) -> Metrics:
        values = {"eval/scores": self.score, "eval/kl": self.kl, "eval/ended": self.ended}
        return Metrics(step=step, values=values)


def validate(
    learner: Learner, score: Scorer, prompts: Sequence[PromptIds], settings: Ppo, *, seed: int, max_new_tokens: int,
    sampling_batch: int, on_batch: Callable[[int], None],
) -> Validation:  # fmt: skip
    """Sampled with the same randomness every time: two checkpoints differ by their policies alone.

    ``on_batch`` is told how many answers are sampled.
    """
    base, number = learner.base, settings.validation_samples
    chosen = draw([p.ids for p in prompts], number, 0, seed)
    with base.view("policy"):
        found = sample(
            base, chosen, max_new_tokens=max_new_tokens, batch_size=sampling_batch,
            generator=seeded(base.device, seed, 0), on_batch=on_batch,
        )  # fmt: skip
    scores = score(chosen, found.completions)
    reference = logprobs_of(base, learner.reference, chosen, found.completions, settings.micro_batch)
    penalties = [0.0 if ended else settings.no_eos_penalty for ended in found.ended]
    words = {tuple(p.ids): p.text for p in prompts}
    return Validation(
        score=mean([s - p for s, p in zip(scores, penalties, strict=True)]),
        kl=mean(sequence_kl(found, reference)),
        ended=mean([float(e) for e in found.ended]),
        samples=tuple(
            Sample(
                step=learner.counters.step, prompt=words[tuple(chosen[i])],
                completion=text.decode(base.tokenizer, found.completions[i]), score=scores[i],
            )
            for i in range(min(SHOWN, number))
        ),
    )  # fmt: skip
