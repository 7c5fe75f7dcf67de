"""What is said before a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite import events, memory, stages
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import Inputs, override


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    with made.labels() as store:
        store.add_prompts([[{"role": "user", "content": "hello"}]])
    return made


def reward_model(project: Project, interval: list[float], *settings: str) -> None:
    inputs = Inputs(stage="reward", project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, override(stages.preset_of(project, []), list(settings)))
    log = EventWriter(run.events_path)
    for event in (
        events.Started(stage="reward", pid=1),
        events.Result(values={"accuracy": sum(interval) / 2, "accuracy_interval": interval}),
        events.Finished(),
    ):
        log.write(event)
    run.adapter.mkdir()


def warnings(project: Project) -> tuple[str, ...]:
    return stages.train(project, stages.preset_of(project, []), "ppo", None).warnings


def test_ppo_on_a_sound_reward_model_warns_of_nothing(project: Project) -> None:
    reward_model(project, [0.8, 0.95])
    assert warnings(project) == ()


def test_ppo_on_a_reward_model_that_may_guess_says_so(project: Project) -> None:
    reward_model(project, [0.4, 0.7])
    (said,) = warnings(project)
    assert "guessing" in said
    assert "40% to 70%" in said


def test_ppo_on_a_quick_refit_says_so(project: Project) -> None:
    reward_model(project, [0.8, 0.95], "reward.epochs=2")
    (said,) = warnings(project)
    assert "2 epochs" in said


def test_what_the_plan_says_of_the_free_memory_is_told_and_kept_in_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward_model(project, [0.8, 0.95])
    preset = stages.preset_of(project, [])
    for gigabytes, warned, checkpointing in ((24.0, False, False), (0.75, True, True)):
        free = int(gigabytes * memory.GIB)
        monkeypatch.setattr(memory, "read", lambda free=free: memory.Memory("gpu", "card", free, 0, free))
        prepared = stages.train(project, preset, "ppo", None)
        assert any("may run out of memory" in w for w in prepared.warnings) is warned
        assert prepared.run.settings().inputs.checkpointing is checkpointing
    monkeypatch.undo()
    assert stages.resume(project, "ppo", None).run.settings().inputs.checkpointing, "as it was begun"
