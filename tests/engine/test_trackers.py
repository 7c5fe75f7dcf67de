"""PPO's metrics in a tracker of Accelerate's: the numbers of the run's own events, under the same names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.state import AcceleratorState
from accelerate.utils import LoggerType

from rlhf_lite import paths, settings
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.events import EventTail, Metrics
from rlhf_lite.functions import hash_file
from rlhf_lite.project import Project, ProjectFile, Run

SMALL = ["ppo.steps=2", "ppo.episodes=4", "ppo.minibatch=4", "ppo.validation_samples=4",
         "ppo.evaluate_every=2", "sampling.max_new_tokens=8"]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    file = tmp_path / "reward.py"
    file.write_text("def short(prompts, completions):\n    return [-float(len(c)) for c in completions]\n")
    project = Project.create(
        tmp_path / "p", ProjectFile(name="p", model=str(paths.demo_model()), preset="demo")
    )
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": f"How do I keep plant {n}?"}] for n in range(12)])
    inputs = settings.Inputs(
        stage="ppo", project=str(project.root), model=project.file.model, quantization="nf4", seed=0,
        function=f"{file}:short", function_sha256=hash_file(file), report_to=request.param,
    )  # fmt: skip
    return project.new_run(inputs, settings.override(settings.load_preset("demo"), SMALL))


def told(run: Run) -> list[tuple[int, dict[str, float]]]:
    return [(e.step, e.values) for e in EventTail(run.events_path).read() if isinstance(e, Metrics)]


class Listener(tracking.GeneralTracker):
    """A tracker that remembers; by Accelerate's interface, so that no service or package is wanted."""

    name = "trackio"
    requires_logging_directory = False
    made: list[Listener] = []  # noqa: RUF012

    def __init__(self, project: str, **named: Any) -> None:
        super().__init__()
        self.project, self.named = project, named
        self.config: dict[str, Any] = {}
        self.heard: list[tuple[int | None, dict[str, float]]] = []
        self.finished = False
        self.made.append(self)

    @property
    def tracker(self) -> Listener:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.heard.append((step, dict(values)))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Listener]]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Listener)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setattr(Listener, "made", [])
    yield Listener
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("run", ["trackio"], indirect=True)
def test_a_tracker_is_told_what_the_events_say(
    run: Run, listener: type[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_LITE_TRUSTED_FUNCTION", run.settings().inputs.function)
    assert run_job("ppo", run) == 0
    [made] = listener.made
    assert made.heard == told(run)
    assert [step for step, _ in made.heard] == [0, 1, 2, 2], "held-out answers before, and at the end"
    assert (made.project, made.named) == ("rlhf-lite", {"name": run.name})
    assert (made.config["episodes"], made.config["seed"], made.config["processes"]) == (4, 0, 1)
    assert made.finished


@pytest.mark.long
@pytest.mark.parametrize("run", ["tensorboard"], indirect=True)
def test_tensorboard_reads_them_from_the_runs_folder(run: Run) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    environment = {**os.environ, "RLHF_LITE_TRUSTED_FUNCTION": run.settings().inputs.function}
    command = [sys.executable, "-m", "rlhf_lite.engine", "ppo", str(run.folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    [folder] = {path.parent for path in run.folder.glob("tracker/*/events.*")}
    board = EventAccumulator(str(folder))
    board.Reload()
    expected = {(name, step): value for step, values in told(run) for name, value in values.items()}
    found = {(name, s.step): s.value for name in board.Tags()["scalars"] for s in board.Scalars(name)}
    assert found == pytest.approx(expected, rel=1e-6)
