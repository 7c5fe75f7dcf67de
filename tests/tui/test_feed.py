"""The feed: starts, ends and deaths of runs are noticed, whoever started them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite import events, jobs
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, Preset
from rlhf_lite.tui import feed
from rlhf_lite.tui.feed import Feed


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK_EVERY", 0.0)


def new_run(project: Project, stage: str = "ppo") -> tuple[Run, EventWriter]:
    run = project.new_run(
        Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0), Preset()
    )
    return run, EventWriter(run.events_path)


def test_a_run_that_somebody_else_starts_is_found_watched_and_its_end_told_once(project: Project) -> None:
    watch = Feed(project)
    assert watch.runs == []
    run, log = new_run(project)
    with jobs.hold_lock(jobs.lock_path(run), "1"):
        log.write(events.Started(stage="ppo", pid=1))
        (change,) = watch.poll()
        assert not change.ended
        assert [w.run.name for w in watch.busy] == [run.name]
        log.write(events.Progress(what="steps", done=3, total=9))
        (change,) = watch.poll()
        assert change.watched.status.progress == {"steps": (3, 9)}
        log.write(events.Finished())
    (change,) = watch.poll()
    assert change.ended
    assert change.watched.state == "finished"
    assert change.watched.status.ended == "finished"
    assert watch.poll() == []


def test_a_run_that_dies_without_a_word_is_named_dead(project: Project) -> None:
    run, log = new_run(project)
    watch = Feed(project)
    with jobs.hold_lock(jobs.lock_path(run), "1"):
        log.write(events.Started(stage="ppo", pid=1))
        watch.poll()
    (change,) = watch.poll()
    assert (change.ended, change.watched.state) == (True, "died")


def test_a_run_that_goes_on_after_its_end_is_running_again(project: Project) -> None:
    run, log = new_run(project)
    for event in (events.Started(stage="ppo", pid=1), events.Stopped(step=4)):
        log.write(event)
    watch = Feed(project)
    assert watch.runs[0].state == "stopped"
    with jobs.hold_lock(jobs.lock_path(run), "1"):
        log.write(events.Started(stage="ppo", pid=2))
        watch.poll()
        assert watch.runs[0].state == "running"


def test_a_pause_is_known_to_the_next_window_as_well_and_ends_with_the_job(project: Project) -> None:
    run, log = new_run(project)
    log.write(events.Started(stage="ppo", pid=1))
    with jobs.hold_lock(jobs.lock_path(run), "1"):
        for message, paused in (
            ({"type": "pause"}, True),
            ({"type": "set"}, True),
            ({"type": "resume"}, False),
        ):
            jobs.control(run, **message)
            assert Feed(project).runs[0].paused == paused
        jobs.control(run, type="pause")
    assert not Feed(project).runs[0].paused


def test_the_newest_run_of_a_stage_is_the_one_with_the_highest_number(project: Project) -> None:
    for _ in range(
        11
    ):  # names sort differently from numbers only beyond four digits; order must be by number
        new_run(project, "reward")
    latest, _ = new_run(project, "reward")
    found = Feed(project).newest("reward")
    assert found is not None
    assert found.run == latest


def test_a_run_that_was_deleted_is_forgotten(project: Project) -> None:
    run, _ = new_run(project)
    watch = Feed(project)
    assert len(watch.runs) == 1
    (run.folder / "settings.toml").unlink()
    watch.poll()
    assert watch.runs == []
