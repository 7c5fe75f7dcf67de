"""A project's folder and what its runs add up to."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite import events
from rlhf_lite.errors import SettingsError, UserError
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run, fold
from rlhf_lite.settings import Inputs, Preset


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def run_of(project: Project, stage: str, *said: events.AnyEvent) -> Run:
    inputs = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, Preset())
    writer = EventWriter(run.events_path)
    for event in said:
        writer.write(event)
    return run


def test_a_new_project_is_laid_out_as_promised_and_opens_again(project: Project) -> None:
    assert {"project.toml", "labels.db", "runs"} <= {p.name for p in project.root.iterdir()}
    assert Project.open(project.root).file == project.file


def test_a_folder_that_holds_something_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty"):
        Project.create(tmp_path, ProjectFile(name="x", model="demo"))
    with pytest.raises(UserError, match="not empty"):
        Project.create(tmp_path / "letter.txt", ProjectFile(name="x", model="demo"))
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_what_is_no_project_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError) as caught:
            Project.open(folder)
        assert f"rlhf-lite new {folder}" in caught.value.hint


def test_a_misspelt_project_file_names_the_key(project: Project) -> None:
    (project.root / "project.toml").write_text('name = "x"\nmodel = "demo"\nsede = 3\n')
    with pytest.raises(SettingsError) as caught:
        Project.open(project.root)
    assert "sede" in caught.value.message
    assert "seed" in caught.value.hint


def test_runs_are_numbered_in_order_and_found_by_name_or_number(project: Project) -> None:
    made = [run_of(project, stage) for stage in ("generate", "reward", "ppo")]
    assert [r.name for r in project.runs()] == ["0001-generate", "0002-reward", "0003-ppo"]
    assert project.run("0002-reward") == project.run("2") == made[1]
    with pytest.raises(UserError) as caught:
        project.run("7")
    assert "0003-ppo" in caught.value.hint


def test_a_run_after_the_9999th_still_comes_last(project: Project) -> None:
    run_of(project, "ppo").folder.rename(project.root / "runs" / "9999-ppo")
    assert run_of(project, "eval").name == "10000-eval"
    assert [r.name for r in project.runs()] == ["9999-ppo", "10000-eval"]


def test_the_current_policy_is_the_newest_finished_one(project: Project) -> None:
    assert project.latest_policy() is None
    sft = run_of(project, "sft", events.Finished())
    run_of(project, "ppo", events.Stopped(step=3))
    run_of(project, "reward", events.Finished())
    assert project.latest_policy() == sft
    dpo = run_of(project, "dpo", events.Failed(kind="Diverged", message="NaN"), events.Finished())
    assert project.latest_policy() == dpo


def test_frozen_settings_are_what_the_run_was_given(project: Project) -> None:
    run = run_of(project, "ppo")
    assert run.settings().inputs.stage == "ppo"
    assert run.settings().preset == Preset()


def test_half_written_checkpoints_are_none(project: Project) -> None:
    run = run_of(project, "ppo")
    for name in ("000060", "000020", "000080.part", "best"):
        (run.folder / "checkpoints" / name).mkdir(parents=True)
    assert [p.name for p in run.checkpoints()] == ["000020", "000060"]


def test_a_resumed_life_replaces_the_steps_it_repeats() -> None:
    def step(number: int, score: float) -> events.Metrics:
        return events.Metrics(step=number, values={"objective/scores": score})

    changed = events.Changed(step=3, name="lr", value=1e-6)
    first = [
        events.Started(stage="ppo", pid=1),
        step(1, 0.1),
        step(2, 0.2),
        step(3, 0.3),
        changed,
        events.Stopped(step=2),
    ]
    stopped = fold(list(first))
    assert (stopped.ended, [m.step for m in stopped.metrics]) == ("stopped", [1, 2, 3])
    second = [events.Started(stage="ppo", pid=2), events.Resumed(from_step=2), step(3, 0.9)]
    resumed = fold([*first, *second])
    assert resumed.ended == ""
    assert [(m.step, m.values["objective/scores"]) for m in resumed.metrics] == [(1, 0.1), (2, 0.2), (3, 0.9)]
    assert resumed.changes == []
    assert fold(list(second), fold(list(first))) == resumed  # live and replayed are the same
    assert fold([events.Finished()], resumed).ended == "finished"


def test_a_failure_is_forgotten_once_the_run_goes_on() -> None:
    status = fold([events.Failed(kind="OutOfMemory", message="no room")])
    assert status.failure is not None
    assert fold([events.Started(stage="ppo", pid=2)], status).failure is None
