"""How fast do PPO, DPO and best-of-n learn: by the number of labels, and by the seconds of training?

    python benchmarks/learning.py [--labels 20 80 320] [--budgets 30 60 120] [--seeds 0 1 2]

For each number of labels and seed: a new project on the built-in model, that many pairs judged by
``assets/examples/judge.py:prefer`` (undecided ones among them, as a person would meet them), then with the ``demo``
preset the reward model, PPO by it and DPO from the same labels, and the best of n answers of the base by that reward
model. Each meets the base's answers to held-out prompts, temperature 1, judged by the same judge: the rate is of the
decided comparisons, its interval Wilson's over all seeds' comparisons together, as if no two were alike; the least and
the most of the seeds' own rates stand beside it.

By time: with the most labels, PPO and DPO once more for each budget of seconds. How many steps fit is reckoned from
the first run's seconds a step; PPO's seconds include those of its reward model, and each stage's those
of loading. Both are on the leash of the product: a run that exceeds the KL budget ends there, and what was within it is
judged. The seconds it really took stand beside. Seconds are the processor's, of all threads together, so that what
else the machine does does not count. Best-of-n trains nothing but the reward model, but samples n answers for each that
it gives.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlhf_lite import paths, stages

sys.path.insert(0, str(paths.examples()))

import judge
import page
from record import Record
from wishes import finished, label_pairs, new_project

from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.text import decode, prompt_ids
from rlhf_lite.intervals import wilson
from rlhf_lite.project import Project, Run

SAMPLES = 4  # to each held-out prompt
BEST_OF = (4, 16)
TOKENS = 96
STEPS = {"ppo": ["ppo.steps={}"], "dpo": ["dpo.epochs=1", "dpo.min_steps={}"]}  # DPO's make whole epochs
PRESET = ["reward.min_pairs=1"]  # twenty labels, some of them undecided, are too few for it otherwise
JUDGE = stages.NamedFunction.find(f"{paths.examples() / 'judge.py'}:prefer")


def train(project: Project, stage: str, *assignments: str) -> tuple[Run, float]:
    """A stage's run and the processor's seconds for it."""
    began = time.process_time()
    preset = stages.preset_of(project, [*PRESET, *assignments])
    return finished(stages.train(project, preset, stage, None)), time.process_time() - began


class Bench:
    """One project's answers to held-out prompts against the base's own."""

    def __init__(self, project: Project, reward: Run) -> None:
        self.seed = project.file.seed
        self.base = SharedBase.load(reward.settings().inputs)
        self.reward = RewardModel(self.base, reward.adapter)
        with project.labels() as store:
            found = store.prompts("test")
        self.questions = [str(p.messages[-1]["content"]) for p in found for _ in range(SAMPLES)]
        self.prompts = [prompt_ids(self.base.tokenizer, p.messages) for p in found for _ in range(SAMPLES)]
        self.bare = self._texts(self._answers(None, self.prompts, 0))

    def policy(self, run: Run) -> dict[str, int]:
        self.base.load_adapter(run.name, run.adapter, trainable=False)
        return self._judged(self._answers(run.name, self.prompts, 1))

    def best_of(self) -> dict[int, dict[str, int]]:
        """By n; fewer are the first of many."""
        most = max(BEST_OF)
        asked = [p for p in self.prompts for _ in range(most)]
        answers = self._answers(None, asked, 2)
        scores = self.reward(asked, answers)
        found: dict[int, dict[str, int]] = {}
        for n in BEST_OF:
            best = [max(range(i, i + n), key=scores.__getitem__) for i in range(0, len(asked), most)]
            found[n] = self._judged([answers[i] for i in best])
        return found

    def _answers(self, view: str | None, prompts: list[list[int]], stream: int) -> list[list[int]]:
        generator = seeded(self.base.device, self.seed, 200_000 + stream)
        with self.base.view(view):
            done = sample(self.base, prompts, max_new_tokens=TOKENS, batch_size=64, generator=generator)
        return done.completions

    def _texts(self, answers: list[list[int]]) -> list[str]:
        return [decode(self.base.tokenizer, ids) for ids in answers]

    def _judged(self, answers: list[list[int]]) -> dict[str, int]:
        told = {"a": "losses", "b": "wins", "tie": "ties"}
        found = {"wins": 0, "losses": 0, "ties": 0}
        for question, bare, text in zip(self.questions, self.bare, self._texts(answers), strict=True):
            found[told[judge.prefer(question, bare, text)]] += 1
        return found


def one(kept: Record, labels: int, seed: int, budgets: list[int], folder: Path) -> None:
    """One project: what is missing of its rows by labels, and by time where budgets are given."""
    project = new_project(folder, seed)
    counts = label_pairs(project, JUDGE, labels)
    decided = counts.a + counts.b
    reward, reward_seconds = train(project, "reward")
    bench = Bench(project, reward)
    for stage, before in (("ppo", reward_seconds), ("dpo", 0.0)):
        key = {"labels": labels, "by": stage}
        timed = {s: {"budget in s": s, "by": stage} for s in budgets}
        if not kept.missing({**k, "seed": seed} for k in (key, *timed.values())):
            continue
        run, seconds = train(project, stage)
        keep(kept, key, seed, before + seconds, decided, bench.policy(run))
        pace = seconds / max(m.step for m in run.status().metrics)
        for budget, key in timed.items():
            fit = max(1, round((budget - before) / pace))
            run, seconds = train(project, stage, *(wanted.format(fit) for wanted in STEPS[stage]))
            keep(kept, key, seed, before + seconds, decided, bench.policy(run))
    keys = {n: {"labels": labels, "by": f"best of {n}"} for n in BEST_OF}
    if kept.missing({**key, "seed": seed} for key in keys.values()):
        for n, judged in bench.best_of().items():
            keep(kept, keys[n], seed, reward_seconds, decided, judged)


def keep(
    kept: Record, key: dict[str, Any], seed: int, seconds: float, decided: int, judged: dict[str, int]
) -> None:
    kept.add({**key, "seed": seed}, seconds=seconds, **{"labels decided": decided}, **judged)
    print(*key.values(), f"seed {seed}", f"{seconds:.0f} s", judged, flush=True)


def pooled(kept: Record) -> None:
    """A row for all seeds of a key together, of the comparisons as if they were one seed's."""
    keys = [{k: v for k, v in row["key"].items() if k != "seed"} for row in kept.rows if "seed" in row["key"]]
    for key in (k for i, k in enumerate(keys) if k not in keys[:i]):
        rows = [r for r in kept.rows if r["key"].items() > key.items()]
        wins, losses, ties = (sum(r[n] for r in rows) for n in ("wins", "losses", "ties"))
        rates = [r["wins"] / max(1, r["wins"] + r["losses"]) for r in rows]
        kept.add(
            key, seeds=len(rows), **{"win rate": wins / max(1, wins + losses)}, interval=wilson(wins, wins + losses),
            **{"seeds' own": [min(rates), max(rates)], "decided share": (wins + losses) / (wins + losses + ties)},
            **{n: sum(r[n] for r in rows) / len(rows) for n in ("seconds", "labels decided")},
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", nargs="+", type=int, default=[20, 80, 320])
    parser.add_argument("--budgets", nargs="+", type=int, default=[30, 60, 120], help="seconds")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    kept = Record("learning")
    methods = ["ppo", "dpo", *(f"best of {n}" for n in BEST_OF)]
    with tempfile.TemporaryDirectory() as temporary:
        for seed in given.seeds:
            for labels in given.labels:
                budgets = given.budgets if labels == max(given.labels) else []
                keys = [{"labels": labels, "by": by, "seed": seed} for by in methods]
                keys += [{"budget in s": s, "by": by, "seed": seed} for s in budgets for by in ("ppo", "dpo")]
                if kept.missing(keys):
                    one(kept, labels, seed, budgets, Path(temporary) / f"{labels}-{seed}")
    pooled(kept)
    print(page.of_all_seeds({"rows": kept.rows}))


if __name__ == "__main__":
    main()
