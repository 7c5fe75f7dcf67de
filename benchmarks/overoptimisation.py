"""What the true judge says while the reward model's score rises, to far beyond the budget (Gao et al. 2022).

    python benchmarks/overoptimisation.py [--wishes asks_back prefer] [--seeds 0 1]

For each wish and seed: 160 pairs labelled by the wish's judge, the reward model, and PPO with the ``demo`` preset but
no leash: no KL penalty, no budget, six times the steps. Each step's own answers, to training prompts at temperature
1, give the score (the reward model's, in its standard deviations, no penalty in it) and the true rate: of a wish of
``yes_no.py`` the share of answers that fulfil it, of ``assets/examples/judge.py:prefer`` how often an answer beats one
of the base to the same prompt, ties half. Beside it the best of n answers of the base by the same reward model, to
prompts of the same set, at KL ln n − (n − 1)/n; n = 1 is the base.

From each run come Gao's forms, gain = d·(a − b·log d) of PPO and d·(a − b·d) of best-of-n with d = √KL, and the turn:
the deepest fall of the smoothed rate, beside its value at the default budget and at the end. b > 0 bends down; a rate
cannot exceed 1, so one that only levels off there bends too. What a rule judges may become true again far away, of
answers that do not end: the share that ends and the tokens tell.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lite import paths, stages

sys.path.insert(0, str(paths.examples()))

import judge
import page
from curves import best_of_kl, fitted, rank_weights, turn
from record import Record, Row
from wishes import PAIRS, finished, label_pairs, new_project
from yes_no import WISHES, fulfils

from rlhf_lite.engine import ppo
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.prompts import draw
from rlhf_lite.engine.rollout import Rollout
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.statistics import repetition
from rlhf_lite.engine.text import decode, prompt_ids
from rlhf_lite.project import Project, Run
from rlhf_lite.settings import Ppo

BUDGET = Ppo().kl_budget
UNLEASHED = ["ppo.kl_coef=0", "ppo.kl_budget=1000", "ppo.steps=96", "ppo.evaluate_every=1000"]
BEST_OF = (1, 2, 4, 8, 16, 32)
PROMPTS, ANSWERS = 128, 48  # of best-of-n: so many answers to each of so many
RIVALS = 4  # answers of the base to each prompt that an answer is held against
TOKENS = 96
POINTS = {"a": 0.0, "b": 1.0, "tie": 0.5}  # of the second answer


@dataclass(frozen=True)
class Seen:
    """One step's answers as PPO sampled them: token ids, scores without the penalty, KL and entropy in nats."""

    prompts: list[list[int]]
    completions: list[list[int]]
    scores: list[float]
    kl: float
    entropy: float


@contextmanager
def watching() -> Iterator[dict[int, Seen]]:
    """What each PPO step in this process sampled, by the number of steps taken before it."""
    seen: dict[int, Seen] = {}

    class Watched(ppo.Training):
        def _rollout(self) -> Rollout:
            rollout = super()._rollout()
            scores = rollout.scores + self.settings.no_eos_penalty * ~rollout.ended
            kl, entropy = float(rollout.kl.sum(-1).mean()), rollout.metrics()["objective/entropy"]
            seen[self.step] = Seen(rollout.prompts, rollout.completions, scores.tolist(), kl, entropy)
            return rollout

    training, ppo.Training = ppo.Training, Watched
    try:
        yield seen
    finally:
        ppo.Training = training


class Bench:
    """What is true of answers to one project's training prompts."""

    def __init__(self, project: Project, wish: str, reward: Run) -> None:
        self.wish, self.seed = wish, project.file.seed
        self.base = SharedBase.load(reward.settings().inputs)
        self.reward = RewardModel(self.base, reward.adapter)
        with project.labels() as store:
            found = store.prompts("train")
        self.questions = {tuple(prompt_ids(self.base.tokenizer, p.messages)): p.text for p in found}
        self.prompts = [list(ids) for ids in self.questions]
        self.rivals = {} if wish in WISHES else self._rivals()

    def measured(self, seen: Seen) -> Row:
        """The means of one PPO step."""
        figures = self._figures(seen.prompts, seen.completions, seen.scores)
        return {**average(figures, [1.0] * len(figures)), "kl": seen.kl, "entropy": seen.entropy}

    def best_of(self) -> dict[int, Row]:
        """By n."""
        chosen = draw(self.prompts, PROMPTS, 0, self.seed)
        asked, answers = self._sampled(chosen, ANSWERS, 0)
        figures = self._figures(asked, answers, self.reward(asked, answers))
        groups = (figures[i : i + ANSWERS] for i in range(0, len(figures), ANSWERS))
        ranked = [figure for group in groups for figure in sorted(group, key=lambda f: f["score"])]
        weights = {n: rank_weights(ANSWERS, n) * PROMPTS for n in BEST_OF}
        return {n: {**average(ranked, weights[n]), "kl": best_of_kl(n)} for n in BEST_OF}

    def _figures(
        self, prompts: list[list[int]], completions: list[list[int]], scores: list[float]
    ) -> list[dict[str, float]]:
        return [
            {
                "score": score, "rate": self._truth(tuple(prompt), decode(self.base.tokenizer, answer)),
                "eos": float(answer[-1] in self.base.stops), "tokens": len(answer), "repetition": repetition(answer),
            }
            for prompt, answer, score in zip(prompts, completions, scores, strict=True)
        ]  # fmt: skip

    def _truth(self, prompt: tuple[int, ...], answer: str) -> float:
        if self.wish in WISHES:
            return float(fulfils(self.wish, answer))
        asked, better = self.questions[prompt], getattr(judge, self.wish)
        return sum(POINTS[better(asked, rival, answer)] for rival in self.rivals[prompt]) / RIVALS

    def _rivals(self) -> dict[tuple[int, ...], list[str]]:
        _, answers = self._sampled(self.prompts, RIVALS, 1)
        texts = [decode(self.base.tokenizer, ids) for ids in answers]
        return {tuple(p): texts[i * RIVALS : (i + 1) * RIVALS] for i, p in enumerate(self.prompts)}

    def _sampled(
        self, prompts: list[list[int]], each: int, stream: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Answers of the base, ``each`` to every prompt, and what each answers."""
        asked = [p for p in prompts for _ in range(each)]
        generator = seeded(self.base.device, self.seed, 300_000 + stream)
        with self.base.view(None):
            found = sample(self.base, asked, max_new_tokens=TOKENS, batch_size=64, generator=generator)
        return asked, found.completions


def average(figures: Sequence[dict[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Their means, each answer weighed."""
    total = sum(weights)
    return {
        name: sum(w * f[name] for w, f in zip(weights, figures, strict=True)) / total for name in figures[0]
    }


def judge_of(wish: str) -> stages.NamedFunction:
    """Who labels for this wish."""
    file = Path(__file__).with_name("yes_no.py") if wish in WISHES else paths.examples() / "judge.py"
    return stages.NamedFunction.find(f"{file}:{wish}")


def one(kept: Record, wish: str, seed: int, folder: Path) -> None:
    """One wish at one seed: a row for each step of PPO and each n."""
    project = new_project(folder, seed)
    label_pairs(project, judge_of(wish), PAIRS)
    reward = finished(stages.train(project, stages.preset_of(project, []), "reward", None))
    with watching() as seen:
        finished(stages.train(project, stages.preset_of(project, UNLEASHED), "ppo", None))
    bench = Bench(project, wish, reward)
    measured = {("ppo", "step", step): bench.measured(seen[step]) for step in sorted(seen)}
    measured |= {("best of n", "n", n): row for n, row in bench.best_of().items()}
    for (by, unit, number), row in measured.items():
        kept.add({"wish": wish, "seed": seed, "by": by, unit: number}, **row)
        told = " ".join(f"{name} {value:.3g}" for name, value in row.items())
        print(f"{wish}, seed {seed}, {by}, {unit} {number}: {told}", flush=True)


def derive(kept: Record, wish: str, seed: int) -> None:
    """Gao's forms and the turn of one wish at one seed."""
    key = {"wish": wish, "seed": seed}
    of = {
        by: [r for r in kept.rows if r["key"].items() > {**key, "by": by}.items()]
        for by in ("ppo", "best of n")
    }
    base = of["best of n"][0]
    for by, bend in (("ppo", math.log), ("best of n", float)):
        kls = [r["kl"] for r in of[by]]
        found: dict[str, Any] = fitted(kls, [r["rate"] - base["rate"] for r in of[by]], bend)
        if by == "ppo":
            found |= turn(kls, [r["rate"] for r in of[by]], BUDGET)
        kept.add({**key, "form of": by}, **found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wishes", nargs="+", default=["asks_back", "prefer"], choices=[*WISHES, "prefer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    given = parser.parse_args()
    kept = Record("overoptimisation")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_LITE_STATE"] = folder
        for wish in given.wishes:
            for seed in given.seeds:
                last = {"wish": wish, "seed": seed, "by": "best of n", "n": max(BEST_OF)}
                if not kept.has(**last):
                    one(kept, wish, seed, Path(folder) / f"{wish}-{seed}")
                derive(kept, wish, seed)
    print(page.overoptimisation({"rows": kept.rows}))


if __name__ == "__main__":
    main()
