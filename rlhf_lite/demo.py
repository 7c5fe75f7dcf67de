"""The whole pipeline on the built-in model, by the same functions as the commands, one step after the other.

Each step looks at what the project has and does what is missing, so that a demo that was stopped goes on where it
was. The labels come from a script, and every line that mentions them says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_lite import base_model, formats, narrate, overview, paths, plain, report, stages
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.paths import shown
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.report import Output, StoppedByUser
from rlhf_lite.settings import Preset

STEPS = (
    "making a project on the built-in model",
    "adding the example prompts",
    "sampling pairs of answers",
    "labelling them by a script, not a person; it likes a kind word and an offer of help",
    "training the reward model on those labels",
    "training the policy with PPO",
    "comparing base and tuned on held-out prompts, by the same script",
    "exporting the tuned model to GGUF",
)
JUDGE = "judge.py:prefer"
QUANT = "q8_0"


def run(folder: Path, seed: int | None, pairs: int, steps: int | None, output: Output) -> dict[str, Any]:
    """Do every step that is missing; returns what each found, and one answer before and after.

    Raises:
        UserError: the folder holds something else than a demo.
        StoppedByUser: Ctrl-C.
    """
    project = _project(folder, seed)
    try:
        return _steps(project, pairs, steps, output)
    except StoppedByUser as stop:
        stop.hint = f"go on with: {stages.command('demo', project)}"
        raise


def _steps(project: Project, pairs: int, steps: int | None, output: Output) -> dict[str, Any]:
    began = time.monotonic()
    preset = stages.preset_of(project, [f"ppo.steps={steps}"] if steps else [])
    judge = stages.NamedFunction.find(str(paths.examples() / JUDGE))
    _title(2)
    with project.labels() as store:
        store.add_prompts(formats.read_prompts(paths.examples() / "prompts.txt")[0])

    def finish(
        number: int, stage: str, prepare: Callable[[], stages.Prepared], after: Run | None = None
    ) -> Run:
        return _finish(project, number, stage, prepare, after, output)

    _make_labels(project, preset, judge, pairs, output)
    reward = finish(5, "reward", lambda: _trained(project, preset, "reward"))
    policy = finish(6, "ppo", lambda: _trained(project, preset, "ppo"), reward)
    compared = finish(7, "eval", lambda: stages.evaluate(project, preset, [policy.name], judge, None), policy)
    exported = finish(
        8, "export", lambda: stages.export(project, preset, policy.name, (QUANT,), None), policy
    )
    return {
        "project": str(project.root),
        "labels": overview.project(project)["labels"],
        **{run.stage: run.status().result for run in (reward, policy, compared, exported)},
        "sample": _before_and_after(compared, overview.chat_file(project.root)),
        "seconds": round(time.monotonic() - began, 1),
        "next": stages.command("chat", project),
    }


def _title(number: int, more: str = "") -> None:
    report.aside(f"{number}/{len(STEPS)} {STEPS[number - 1]}{more}")


def _project(folder: Path, seed: int | None) -> Project:
    _title(1)
    if not (folder / "project.toml").exists():
        base_model.check(base_model.DEMO, trust_remote_code=False, plain_template=False)
        return Project.create(folder, ProjectFile(folder.resolve().name, base_model.DEMO, "demo", seed or 0))
    project = Project.open(folder)
    if project.file.model != base_model.DEMO or seed not in (None, project.file.seed):
        raise UserError(
            f"{shown(project.root)} is another project",
            why=f"its model is {project.file.model}, its seed {project.file.seed}",
            hint="name a new folder: rlhf-lite demo DIR",
        )  # fmt: skip
    report.aside(f"  {shown(project.root)} is there already: going on with it")
    return project


def _make_labels(
    project: Project, preset: Preset, judge: stages.NamedFunction, pairs: int, output: Output
) -> None:
    """Steps 3 and 4: enough pairs, each labelled by the script."""
    with project.labels() as store:
        missing = pairs - store.counts().pairs
    _title(3, "" if missing > 0 else ": done already")
    if missing > 0:
        narrate.run(stages.generate(project, preset, missing), output)
    with project.labels() as store:
        waiting = bool(store.unlabelled(1))
    _title(4, "" if waiting else ": done already")
    if waiting:
        narrate.run(stages.label(project, preset, judge, None), output)


def _trained(project: Project, preset: Preset, stage: str) -> stages.Prepared:
    """A run of a stage: the one that was stopped, else a new one."""
    begun = [r for r in project.runs() if r.stage == stage]
    if begun and begun[-1].status().ended != "finished":
        return stages.resume(project, stage, None)
    return stages.train(project, preset, stage, None)


def _finish(
    project: Project,
    number: int,
    stage: str,
    prepare: Callable[[], stages.Prepared],
    after: Run | None,
    output: Output,
) -> Run:
    """The finished run of a stage that is newer than ``after``, made where there is none."""
    found = project.latest(stage)
    if found and (after is None or found.number > after.number):
        _title(number, ": done already")
        return found
    _title(number)
    prepared = prepare()
    narrate.run(prepared, output)
    return prepared.run


def _before_and_after(compared: Run, exported: Path) -> dict[str, str]:
    """The likeliest answer to the first held-out prompt: of the base, and of the exported file by llama.cpp."""
    lines = (compared.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        if row["mode"] == "greedy":
            return {
                "prompt": row["prompt"],
                "base": row["base"],
                "tuned": plain.likeliest(exported, row["prompt"]),
            }
    raise DataError(
        f"{compared.folder / 'samples.jsonl'} holds no answers", hint="run the demo in a new folder"
    )


def show(values: Mapping[str, Any]) -> None:
    """The before/after table, one answer of each, and the next command."""
    sample = values["sample"]
    report.line("")
    report.evaluation(values["eval"])
    report.line(f"\njudged by a script: {values['eval'].get('judge', JUDGE)}")
    for who, text in (
        ("prompt", sample["prompt"]),
        ("base", sample["base"]),
        ("tuned (the exported file)", sample["tuned"]),
    ):
        report.line(f"\n{who}:\n  " + text.replace("\n", "\n  "))
    report.line("")
    report.exported(values["export"])
    report.line(f"\nnext, talk to it: {values['next']}")
