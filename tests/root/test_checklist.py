"""The list of steps: one is next, a blocked one says what it waits for, and a new round reopens what stands on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite import checklist, events
from rlhf_lite.checklist import Step
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, Preset


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def finished(project: Project, stage: str, **result: object) -> Run:
    run = project.new_run(
        Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0), Preset()
    )
    writer = EventWriter(run.events_path)
    for event in (events.Started(stage=stage, pid=1), events.Result(values=result), events.Finished()):
        writer.write(event)
    return run


def add_pairs(project: Project, pairs: int, labelled: int) -> None:
    with project.labels() as store:
        before = len(store.prompts())
        asked = [[{"role": "user", "content": f"question {before + i}"}] for i in range(pairs)]
        store.add_prompts(asked)
        for prompt in store.prompts()[before:]:
            pair = store.add_pair(prompt.id, "yes", "no", origin="test")
            assert pair is not None
            if prompt.id - before <= labelled:
                store.label(pair, "a" if prompt.id % 2 else "b", judge="person:me")


def by_key(project: Project) -> dict[str, Step]:
    return {step.key: step for step in checklist.steps(project)}


def following(project: Project) -> str:
    (key,) = [step.key for step in checklist.steps(project) if step.state == "next"]
    return key


def test_a_new_project_begins_with_prompts_and_says_what_the_rest_waits_for(project: Project) -> None:
    assert following(project) == "prompts"
    found = by_key(project)
    assert {k for k, step in found.items() if step.state == "blocked"} == {
        *("label", "reward", "ppo", "compare", "export")
    }
    assert all(step.words for step in found.values())


def test_one_round_goes_from_answers_to_export(project: Project) -> None:
    add_pairs(project, 60, labelled=10)
    finished(project, "generate")
    assert following(project) == "label"
    assert "20" in by_key(project)["reward"].words  # how many it wants
    with project.labels() as store:
        for pair in store.unlabelled():
            store.label(pair.id, "a", judge="person:me")
    for stage, then in (
        ("reward", "ppo"), ("ppo", "compare"), ("eval", "export")
    ):  # fmt: skip
        assert following(project) == {"reward": "reward", "ppo": "ppo", "eval": "compare"}[stage]
        finished(project, stage)
        assert following(project) == then


def test_a_second_round_of_pairs_reopens_labelling_and_a_new_policy_reopens_the_comparison(
    project: Project,
) -> None:
    add_pairs(project, 40, labelled=40)
    for stage in ("generate", "reward", "ppo", "eval", "export"):
        finished(project, stage)
    assert following(project) == "export"
    add_pairs(project, 5, labelled=0)
    finished(project, "generate")
    assert following(project) == "label"
    finished(project, "reward")
    assert following(project) == "ppo"
    finished(project, "ppo")
    assert following(project) == "compare"
    assert by_key(project)["export"].state == "ready"


def test_dpo_needs_no_reward_model(project: Project) -> None:
    add_pairs(project, 40, labelled=40)
    finished(project, "generate")
    finished(project, "dpo")
    assert following(project) == "compare"


def test_too_few_decided_labels_and_none_waiting_asks_for_more_pairs(project: Project) -> None:
    add_pairs(project, 10, labelled=10)
    finished(project, "generate")
    assert following(project) == "prompts"
    assert "10 of 20" in by_key(project)["prompts"].words
