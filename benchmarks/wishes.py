"""How well does the pipeline fulfil a wish? From 160 scripted labels to a judged comparison, wish by wish.

    python benchmarks/wishes.py --seeds 0 1 2 --wishes prefer --dpo --out results.jsonl
    python benchmarks/wishes.py --seeds 0 --wishes curt short asks_back --out results.jsonl

For each wish and seed: a new project on the built-in model, 160 pairs labelled by ``assets/examples/judge.py:WISH``,
the reward model, its accuracy on further judged pairs that nothing trained on, PPO (and DPO on the same labels with
``--dpo``), and base against tuned on held-out prompts by the same judge. Every stage is the product's own, with the
``demo`` preset; ``--set`` changes it. One JSON line a run goes to ``--out``; the table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rlhf_lite import jobs, paths, stages
from rlhf_lite.formats import read_prompts
from rlhf_lite.project import Project, ProjectFile, Run

os.environ.update(jobs.child_environment())

from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.text import completion_ids, prompt_ids
from rlhf_lite.intervals import wilson
from rlhf_lite.labels import Counts

PAIRS = 160
FURTHER = 450  # of which a yes/no judge decides about half
FURTHER_SEED = 1000  # other answers than the project's own


def finished(prepared: stages.Prepared) -> Run:
    """Run a stage in this process."""
    os.environ["RLHF_LITE_TRUSTED_FUNCTION"] = prepared.trusted_function
    if run_job(prepared.run.stage, prepared.run) != 0:
        raise SystemExit(f"{prepared.run.folder}: {prepared.run.status().failure}")
    return prepared.run


def new_project(folder: Path, seed: int) -> Project:
    """A project on the built-in model with the example prompts."""
    project = Project.create(folder, ProjectFile(folder.name, "demo", "demo", seed))
    with project.labels() as store:
        store.add_prompts(read_prompts(paths.examples() / "prompts.txt")[0])
    return project


def label_pairs(project: Project, judge: stages.NamedFunction, pairs: int) -> Counts:
    """Sample pairs and have the judge label them."""
    preset = stages.preset_of(project, [])
    finished(stages.generate(project, preset, pairs))
    finished(stages.label(project, preset, judge, None))
    with project.labels() as store:
        return store.counts()


def further_accuracy(project: Project, reward: Run) -> dict[str, Any]:
    """Accuracy of a reward model on another project's pairs, none of which it was trained on."""
    with project.labels() as store:
        new = store.preferences()
    base = SharedBase.load(reward.settings().inputs)
    model = RewardModel(base, reward.adapter)
    prompts = [prompt_ids(base.tokenizer, p.prompt) for p in new]
    chosen = model(prompts, [completion_ids(base.tokenizer, p.chosen) for p in new])
    rejected = model(prompts, [completion_ids(base.tokenizer, p.rejected) for p in new])
    right = sum(c > r for c, r in zip(chosen, rejected, strict=True))
    return {"further_pairs": len(new), "accuracy": right / len(new), "interval": wilson(right, len(new))}


def one(wish: str, seed: int, dpo: bool, assignments: list[str], folder: Path) -> dict[str, Any]:
    """One wish at one seed."""
    began = time.monotonic()
    judge = stages.NamedFunction.find(f"{paths.examples() / 'judge.py'}:{wish}")
    project = new_project(folder, seed)
    preset = stages.preset_of(project, assignments)
    counts = label_pairs(project, judge, PAIRS)
    reward = finished(stages.train(project, preset, "reward", None))
    further = new_project(folder.with_name(f"{folder.name}-further"), seed + FURTHER_SEED)
    label_pairs(further, judge, FURTHER)
    accuracy = further_accuracy(further, reward)
    policies = [finished(stages.train(project, preset, "ppo", None))]
    if dpo:
        policies.append(finished(stages.train(project, preset, "dpo", None)))
    compared = finished(stages.evaluate(project, preset, [p.name for p in policies], judge, None))
    return {
        "wish": wish,
        "seed": seed,
        "decided": counts.a + counts.b,
        **accuracy,
        "ppo": policies[0].status().result,
        "eval": compared.status().result,
        "project": str(folder),
        "seconds": time.monotonic() - began,
    }


def row(result: dict[str, Any], name: str) -> str:
    """One line of the table: a trained policy against the base."""
    run, base = result["eval"]["runs"][name], result["eval"]["base"]
    tuned, n = run["tuned"], run["wins"] + run["losses"] + run["ties"]
    cells = (
        result["wish"],
        result["seed"],
        name.split("-")[1],
        result["decided"],
        f"{result['accuracy']:.1%} of {result['further_pairs']}",
        f"{run['decided_win_rate']:.1%}",
        f"{run['decided_share']:.0%} of {n}",
        f"{run['kl']:.2f}",
        f"{base['eos_rate']:.1%} → {tuned['eos_rate']:.1%}",
        f"{base['tokens']:.0f} → {tuned['tokens']:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wishes", nargs="+", default=["prefer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--dpo", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the projects go; a temporary folder otherwise"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp())
    print(
        "| wish | seed | by | decided labels | reward accuracy | decided win rate | decided share | KL | EOS | tokens |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for wish in given.wishes:
        for seed in given.seeds:
            result = one(wish, seed, given.dpo, given.set, root / f"{wish}-{seed}")
            with given.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            for name in result["eval"]["runs"]:
                print(row(result, name), flush=True)


if __name__ == "__main__":
    main()
