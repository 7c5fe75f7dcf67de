"""Jobs as child processes, tried on the real engine's ``label`` verb, which needs no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lite import events, jobs, stages
from rlhf_lite.errors import DeviceBusy, JobDied
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Preset

SLOW = "import time\ndef prefer(prompt, a, b):\n    time.sleep(0.2)\n    return 'a'\n"
PAIRS = 200


@pytest.fixture
def project(tmp_path: Path) -> Project:
    found = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    with found.labels() as store, store.transaction():
        store.add_prompts([[{"role": "user", "content": "How do I boil an egg?"}]])
        prompt = store.prompts()[0].id
        for number in range(PAIRS):
            store.add_pair(prompt, f"{number} minutes", f"{number} hours", origin="test")
    return found


@pytest.fixture
def prepare(project: Project, tmp_path: Path) -> Callable[[str], stages.Prepared]:
    def with_judge(source: str) -> stages.Prepared:
        file = tmp_path / "judge.py"
        file.write_text(source)
        return stages.label(project, Preset(), stages.NamedFunction.find(f"{file}:prefer"), None)

    return with_judge


def start(prepared: stages.Prepared) -> subprocess.Popen[bytes]:
    return jobs.spawn(prepared.run, trusted_function=prepared.trusted_function)


def wait_for_labels(run: Run) -> None:
    until = time.monotonic() + 20
    while run.status().progress.get("labels", (0, 0))[0] < 2:
        assert time.monotonic() < until, run.log_path.read_text()
        time.sleep(0.05)


def labelled(project: Project) -> int:
    with project.labels() as store:
        return store.counts().labelled


def test_a_job_is_told_from_its_start_to_its_result(
    project: Project, prepare: Callable[[str], stages.Prepared]
) -> None:
    prepared = prepare("def prefer(prompt, a, b):\n    return len(b) - len(a)\n")
    said = list(jobs.watch(prepared.run, start(prepared)))
    assert isinstance(said[0], events.Started)
    assert isinstance(said[-1], events.Finished)
    status = prepared.run.status()
    assert status.ended == "finished"
    assert status.result["labelled"] == PAIRS == labelled(project)
    assert said == list(jobs.watch(prepared.run))  # told again afterwards, by whoever comes later
    assert not jobs.alive(prepared.run)


def test_a_stop_keeps_what_was_done_and_says_so(
    project: Project, prepare: Callable[[str], stages.Prepared]
) -> None:
    prepared = prepare(SLOW)
    process = start(prepared)
    wait_for_labels(prepared.run)
    assert jobs.alive(prepared.run)
    jobs.stop(prepared.run)
    said = list(jobs.watch(prepared.run, process))
    assert isinstance(said[-1], events.Stopped)
    assert process.wait() == 130
    assert 2 <= labelled(project) < PAIRS
    assert not jobs.alive(prepared.run)


def test_a_job_can_be_stopped_through_its_control_file(prepare: Callable[[str], stages.Prepared]) -> None:
    prepared = prepare(SLOW)
    process = start(prepared)
    wait_for_labels(prepared.run)
    jobs.control(prepared.run, type="stop")
    assert isinstance(list(jobs.watch(prepared.run, process))[-1], events.Stopped)


def test_a_killed_job_is_dead_at_once_and_keeps_its_labels(
    project: Project, prepare: Callable[[str], stages.Prepared]
) -> None:
    prepared = prepare(SLOW)
    process = start(prepared)
    wait_for_labels(prepared.run)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(JobDied) as caught:
        list(jobs.watch(prepared.run, process))
    assert "signal 9" in caught.value.why
    assert str(prepared.run.log_path) in caught.value.hint
    assert not jobs.alive(prepared.run)
    assert labelled(project) >= 2


def test_a_life_that_dies_at_once_is_not_covered_by_the_end_of_an_earlier_one(
    prepare: Callable[[str], stages.Prepared],
) -> None:
    prepared = prepare(SLOW)
    events.EventWriter(prepared.run.events_path).write(events.Stopped(step=1))
    tail = events.EventTail(prepared.run.events_path)
    tail.read()
    process = start(prepared)
    process.kill()
    with pytest.raises(JobDied):
        list(jobs.watch(prepared.run, process, tail=tail))


def test_a_run_is_run_by_one_process_only(prepare: Callable[[str], stages.Prepared]) -> None:
    prepared = prepare(SLOW)
    process = start(prepared)
    wait_for_labels(prepared.run)
    with pytest.raises(DeviceBusy, match="already running"):
        start(prepared)
    process.kill()
    process.wait()


def test_a_device_belongs_to_one_job_of_one_user(
    project: Project, prepare: Callable[[str], stages.Prepared]
) -> None:
    run = prepare(SLOW).run
    jobs.require_free_device()
    with jobs.hold_device(jobs.device_name(), run):
        with pytest.raises(DeviceBusy) as caught:
            jobs.require_free_device()
        assert run.name in caught.value.why
        with pytest.raises(DeviceBusy), jobs.hold_device(jobs.device_name(), run):
            pass
    jobs.require_free_device()


def test_asking_whether_a_run_is_alive_never_gets_in_the_way_of_its_start(
    prepare: Callable[[str], stages.Prepared],
) -> None:
    run = prepare(SLOW).run
    with jobs.hold_lock(jobs.lock_path(run), "1"):
        pass
    asked = subprocess.Popen(["flock", "--shared", str(jobs.lock_path(run)), "sleep", "0.2"])
    time.sleep(0.1)
    with jobs.hold_lock(jobs.lock_path(run), "2"):
        assert jobs.alive(run)
    assert asked.wait() == 0


@pytest.mark.parametrize(
    ("source", "part", "expected"),
    [
        ("def prefer(prompt, a, b):\n    return 'left'\n", "message", "'left'"),
        ("def prefer(prompt, a, b):\n    return 1 / 0\n", "why", "ZeroDivisionError"),
        ("def prefers(prompt, a, b):\n    return 'a'\n", "hint", "prefers"),
        ("import nothing_of_that_name\n", "why", "ModuleNotFoundError"),
    ],
)
def test_a_judge_that_fails_is_named_and_nothing_is_labelled(
    project: Project, prepare: Callable[[str], stages.Prepared], source: str, part: str, expected: str
) -> None:
    prepared = prepare(source)
    *_, last = jobs.watch(prepared.run, start(prepared))
    assert isinstance(last, events.Failed)
    assert last.kind == "UserError"
    assert expected in getattr(last, part)
    assert labelled(project) == 0


def test_a_judge_that_nobody_named_now_is_not_run(
    project: Project, prepare: Callable[[str], stages.Prepared]
) -> None:
    mark = project.root / "it-ran"
    prepared = prepare(f"open({str(mark)!r}, 'w')\ndef prefer(prompt, a, b):\n    return 'a'\n")
    *_, last = jobs.watch(prepared.run, jobs.spawn(prepared.run))
    assert isinstance(last, events.Failed)
    assert "named" in last.message
    assert not mark.exists()


def test_a_judge_that_changed_since_it_was_named_is_not_run(
    prepare: Callable[[str], stages.Prepared],
) -> None:
    prepared = prepare("def prefer(prompt, a, b):\n    return 'a'\n")
    Path(prepared.trusted_function.rpartition(":")[0]).write_text(
        "def prefer(prompt, a, b):\n    return 'b'\n"
    )
    *_, last = jobs.watch(prepared.run, start(prepared))
    assert isinstance(last, events.Failed)
    assert "changed" in last.message


def test_a_pause_that_was_said_to_an_earlier_life_does_not_hold_for_the_next(
    prepare: Callable[[str], stages.Prepared],
) -> None:
    prepared = prepare("def prefer(prompt, a, b):\n    return 'a'\n")
    jobs.control(prepared.run, type="pause")
    assert jobs.paused(prepared.run)
    *_, last = jobs.watch(prepared.run, start(prepared))
    assert isinstance(last, events.Finished)
    assert not jobs.paused(prepared.run)
