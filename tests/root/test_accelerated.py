"""PPO in several processes and with a tracker: what is frozen into the run, and what is refused before there is one."""

from __future__ import annotations

import pytest
from command_line import Command, add_run, refused

from rlhf_lite import accelerated, history, memory, stages
from rlhf_lite.errors import ToolMissing, UserError
from rlhf_lite.events import Started
from rlhf_lite.project import Project, Run


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "gpus", lambda: 0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "find_spec", lambda name: name)


def ppo(project: Project, *assignments: str, processes: int = 1, report_to: str = "") -> Run:
    if project.latest("reward") is None:
        add_run(project, "reward", adapter=True)
    preset = stages.preset_of(project, list(assignments))
    return stages.train(project, preset, "ppo", None, processes, report_to).run


def runs_of_ppo(project: Project) -> list[Run]:
    return [run for run in project.runs() if run.stage == "ppo"]


@pytest.mark.usefixtures("installed")
def test_processes_and_tracker_are_frozen_into_the_run_and_kept_by_another_like_it(project: Project) -> None:
    run = ppo(project, processes=3, report_to="trackio")
    for made in (run, history.again(project, run).run):
        inputs = made.settings().inputs
        assert (inputs.processes, inputs.report_to) == (3, "trackio")
    plain = ppo(project).settings().inputs
    assert (plain.processes, plain.report_to) == (1, "")


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
@pytest.mark.parametrize("option", [("--processes", 2), ("--report-to", "tensorboard")])
def test_only_ppo_takes_them(
    command: Command, project: Project, stage: str, option: tuple[str, object]
) -> None:
    refused(command("train", project.root, stage, *option), 2, option[0], "only ppo", "leave it out")
    assert project.runs() == []


@pytest.mark.parametrize("there", [1, 2])
def test_more_processes_than_gpus_are_refused_with_how_many_there_are(
    command: Command, project: Project, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    monkeypatch.setattr(memory, "gpus", lambda: there)
    add_run(project, "reward", adapter=True)
    done = command("train", project.root, "ppo", "--processes", 3)
    refused(done, 2, "3 processes want 3 GPUs", f"can use {there}", f"--processes {there}")
    assert runs_of_ppo(project) == []
    assert ppo(project, processes=there).settings().inputs.processes == there


def test_a_resume_is_refused_where_the_gpus_are_gone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ppo(project, processes=2)
    (run.events_path).write_bytes(b"")
    monkeypatch.setattr(memory, "gpus", lambda: 1)
    with pytest.raises(UserError, match="2 GPUs"):
        stages.resume(project, "ppo", None)


def test_every_process_has_an_episode_to_make(project: Project) -> None:
    with pytest.raises(UserError, match="share 2 episodes"):
        ppo(project, "ppo.episodes=2", processes=3)
    assert runs_of_ppo(project) == []


def test_a_tracker_that_is_not_installed_is_named_with_how_to_get_it(
    command: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerated, "find_spec", lambda name: None)
    add_run(project, "reward", adapter=True)
    done = command("train", project.root, "ppo", "--report-to", "wandb")
    refused(done, ToolMissing.exit_code, "wandb is not installed", "pip install wandb")
    assert runs_of_ppo(project) == []


def test_an_unknown_tracker_is_refused_with_the_known_ones(command: Command, project: Project) -> None:
    add_run(project, "reward", adapter=True)
    done = command("train", project.root, "ppo", "--report-to", "tensorbord")
    refused(done, 2, "tensorbord", "tensorboard", "wandb", "trackio")


@pytest.mark.parametrize("option", [("--processes", 2), ("--report-to", "wandb"), ("--set", "ppo.steps=2")])
def test_a_run_that_goes_on_keeps_what_it_was_started_with(
    command: Command, project: Project, option: tuple[str, object]
) -> None:
    add_run(project, "ppo", Started(stage="ppo", pid=1))
    done = command("train", project.root, "ppo", "--resume", *option)
    refused(done, 2, f"{option[0]} cannot change a run that goes on", f"leave out {option[0]}")


class Driver:
    """As pynvml, with four GPUs."""

    NVMLError = NVMLLibraryMismatchError = OSError

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetCount(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 4), ("0", 1), ("2,3", 2), ("GPU-1a,GPU-2b,GPU-3c", 3), ("", 0), ("-1", 0), ("1,-1,2", 1)],
)
def test_gpus_that_are_hidden_do_not_count(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    """As CUDA reads the variable: what follows a wrong name is hidden too."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert memory.Gauge(Driver()).count() == expected  # pyright: ignore[reportArgumentType]


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Driver) -> None:
        raise OSError("no driver")

    monkeypatch.setattr(Driver, "nvmlInit", fail)
    assert memory.Gauge(Driver()).count() == 0  # pyright: ignore[reportArgumentType]
