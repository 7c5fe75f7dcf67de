"""What does a wish cost? The rate at which answers fulfil it against the KL spent, beside the least that is possible.

    python benchmarks/frontier.py [--wishes asks_back …] [--seeds 0 1 2]

A yes/no wish that the base fulfils at rate p cannot be fulfilled at rate q for less than
q·ln(q/p) + (1 − q)·ln((1 − q)/(1 − p)) nats a sequence (the divergence of the two coins). For each wish and seed: 160
pairs labelled by ``yes_no.py``, the reward model, PPO and DPO from the same labels with the ``demo`` preset, and the
best of n answers of the base by the same reward model, which costs ln n − (n − 1)/n (Stiennon et al. 2020). All are
measured on held-out prompts at temperature 1: rate, KL (best-of-n's by that formula), how many times the least it is,
answers that end, tokens, and the base's own NLL of a token, in nats, where lower is more fluent.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

from curves import best_of_kl, least_kl
from record import Record
from wishes import PAIRS, finished, label_pairs, new_project
from yes_no import WISHES, fulfils

from rlhf_lite import stages
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.rollout import logprobs_of
from rlhf_lite.engine.sampling import Samples, sample, seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.text import decode, prompt_ids
from rlhf_lite.project import Project, Run

SAMPLES = 6  # to each held-out prompt
BEST_OF = (2, 4, 8)
BY = ("base", "ppo", "dpo", *(f"best of {n}" for n in BEST_OF))
TOKENS = 96


class Bench:
    """Everything that is measured of one project, on one base."""

    def __init__(self, project: Project, wish: str, reward: Run) -> None:
        self.wish, self.seed = wish, project.file.seed
        self.base = SharedBase.load(reward.settings().inputs)
        self.reward = RewardModel(self.base, reward.adapter)
        with project.labels() as store:
            self.prompts = [prompt_ids(self.base.tokenizer, p.messages) for p in store.prompts("test")]

    def answers(self, view: str | None, each: int, stream: int) -> tuple[list[list[int]], Samples]:
        asked = [p for p in self.prompts for _ in range(each)]
        generator = seeded(self.base.device, self.seed, 100_000 + stream)
        with self.base.view(view):
            return asked, sample(self.base, asked, max_new_tokens=TOKENS, batch_size=64, generator=generator)

    def measured(self, asked: list[list[int]], answers: list[list[int]]) -> dict[str, float]:
        texts = [decode(self.base.tokenizer, a) for a in answers]
        bare = logprobs_of(self.base, None, asked, answers, 32)
        tokens = sum(map(len, answers))
        return {
            "rate": sum(fulfils(self.wish, t) for t in texts) / len(texts),
            "eos": sum(bool(a) and a[-1] in self.base.stops for a in answers) / len(answers),
            "tokens": tokens / len(answers),
            "nll": -sum(float(row.sum()) for row in bare) / tokens,
        }

    def policy(self, name: str, run: Run) -> dict[str, float]:
        self.base.load_adapter(name, run.adapter, trainable=False)
        asked, found = self.answers(name, SAMPLES, 1)
        bare = logprobs_of(self.base, None, asked, found.completions, 32)
        kl = sum(sum(p) - float(r.sum()) for p, r in zip(found.logprobs, bare, strict=True)) / len(asked)
        return {**self.measured(asked, found.completions), "kl": kl}

    def best_of(self, n: int) -> dict[str, float]:
        asked, found = self.answers(None, SAMPLES * n, 2)
        scores = self.reward(asked, found.completions)
        groups = [range(i, i + n) for i in range(0, len(asked), n)]
        best = [max(group, key=scores.__getitem__) for group in groups]
        chosen = self.measured([asked[i] for i in best], [found.completions[i] for i in best])
        return {**chosen, "kl": best_of_kl(n)}


def one(kept: Record, wish: str, seed: int, folder: Path) -> None:
    """One wish at one seed: what is missing of the base and of each way of fulfilling the wish."""
    judge = stages.NamedFunction.find(f"{Path(__file__).with_name('yes_no.py')}:{wish}")
    project = new_project(folder, seed)
    preset = stages.preset_of(project, [])
    label_pairs(project, judge, PAIRS)
    bench = Bench(project, wish, finished(stages.train(project, preset, "reward", None)))

    def measured(by: str) -> dict[str, float]:
        if by == "base":
            asked, found = bench.answers(None, SAMPLES, 0)
            return {**bench.measured(asked, found.completions), "kl": 0.0}
        if by in ("ppo", "dpo"):
            return bench.policy(by, finished(stages.train(project, preset, by, None)))
        return bench.best_of(int(by.removeprefix("best of ")))

    rates: dict[str, float] = {}
    for key in keys_of(wish, seed):
        if not kept.has(**key):
            row = measured(key["by"])
            kept.add(key, **row, least=least_kl(rates.get("base", row["rate"]), row["rate"]))
        row = next(r for r in kept.rows if r["key"] == key)
        rates[key["by"]] = row["rate"]
        print(line(key, row), flush=True)


def keys_of(wish: str, seed: int) -> list[dict[str, Any]]:
    """The base comes first: the others are held against it."""
    return [{"wish": wish, "seed": seed, "by": by} for by in BY]


def line(key: dict[str, Any], row: dict[str, Any]) -> str:
    times = f"{row['kl'] / row['least']:.1f}" if row["least"] > 0.05 else "-"
    cells = (
        key["wish"], key["seed"], key["by"], f"{row['rate']:.1%}", f"{row['kl']:.2f}", f"{row['least']:.2f}", times,
        f"{row['eos']:.1%}", f"{row['tokens']:.0f}", f"{row['nll']:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wishes", nargs="+", default=list(WISHES), choices=list(WISHES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    record = Record("frontier")
    print("| wish | seed | by | rate | KL | least | times | EOS | tokens | NLL |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_LITE_STATE"] = folder
        for seed, wish in itertools.product(given.seeds, given.wishes):
            if record.missing(keys_of(wish, seed)):
                one(record, wish, seed, Path(folder) / f"{wish}-{seed}")


if __name__ == "__main__":
    main()
