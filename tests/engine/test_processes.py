"""PPO in several processes: the same numbers as in one, one voice, and no waiting for what has died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import update_together
from safetensors.torch import load_file

from rlhf_lite import cli, jobs, paths, settings, stages
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.rollout import Rollout, make_rollout
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.events import EventTail, Metrics, Started
from rlhf_lite.project import Project, ProjectFile, Run

MODEL = str(paths.demo_model())
UPDATES = [
    "ppo.episodes=10", "ppo.micro_batch=2", "ppo.minibatch=6", "ppo.epochs=2", "ppo.learning_rate=1e-3",
    "ppo.max_approx_kl=1e3", "lora.rank=4",
]  # fmt: skip
SMALL = ["ppo.episodes=8", "ppo.micro_batch=4", "ppo.minibatch=8", "ppo.validation_samples=4",
         "ppo.evaluate_every=2", "sampling.max_new_tokens=12"]  # fmt: skip
REWARD = "def asks(prompts, completions):\n    return [float('?' in c) for c in completions]\n"


@dataclass
class Updated:
    """What the processes of a run had in the end, by rank."""

    first: list[dict[str, torch.Tensor]]
    second: list[dict[str, torch.Tensor]]
    found: list[dict[str, Any]]


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Updated]:
    """The same two updates by one process and by two. Five micro-batches in minibatches of three: the shares differ."""
    project = Project.create(
        tmp_path_factory.mktemp("updates") / "p", ProjectFile(name="p", model=MODEL, preset="demo")
    )
    preset = settings.override(settings.load_preset("demo"), UPDATES)
    inputs = settings.Inputs(
        stage="ppo", project=str(project.root), model=MODEL, quantization="32bit", seed=0
    )
    made = {n: project.new_run(msgspec.structs.replace(inputs, processes=n), preset) for n in (1, 2)}
    rollout = a_rollout(inputs, preset)
    for run in made.values():
        torch.save(rollout, run.folder / update_together.GIVEN)
    command = [sys.executable, update_together.__file__, str(made[2].folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    together = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    update_together.run(Job(made[1]))
    _, complaint = together.communicate(timeout=120)
    assert together.returncode == 0, complaint
    return {
        n: Updated(
            *([state(run.folder / f"{name}-{rank}") for rank in range(n)] for name in ("first", "second")),
            found=[json.loads((run.folder / f"found-{rank}.json").read_text()) for rank in range(n)],
        )
        for n, run in made.items()
    }


def a_rollout(inputs: settings.Inputs, preset: settings.Preset) -> Rollout:
    """Answers of the untrained policy with a part of the score for each token, made up at random."""
    base = SharedBase.load(inputs)
    Learner(base, preset.ppo, preset.lora, start=None)
    kept = ("a", "bcd", "efghij", "k", "lm", "nopq", "r", "s", "tuv", "w")
    prompts = [base.tokenizer.encode(f"How do I keep {what}?") for what in kept]
    rollout = make_rollout(
        base, prompts, reference=None, score=lambda _, answers, rows: [float(len(a)) for a in answers],
        trust_sampled=False, no_eos_penalty=0.0, max_new_tokens=10, sampling_batch=10,
        micro_batch=preset.ppo.micro_batch, generator=seeded(base.device, 0, 0), on_batch=lambda _: None,
    )  # fmt: skip
    parts = torch.randn(rollout.logprobs.shape, generator=seeded(base.device, 0, 1))
    return replace(rollout, parts=torch.where(rollout.response_mask, parts, 0))


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: adapter, critic, optimizer moments."""
    return {
        f"{path.relative_to(folder)}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(str(path)).items()
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert any("critic" in name for name in found)
    assert sum("optimizer" in name for name in found) > 50
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_two_processes_make_the_update_of_one(updated: dict[int, Updated]) -> None:
    """To 1e-5, where the weights have moved by a hundred times as much."""
    assert_same(updated[2].first[0], updated[1].first[0])
    moved = [t for name, t in updated[1].first[0].items() if name.startswith("policy/") and "lora_B" in name]
    assert all(float(t.abs().max()) > 1e-3 for t in moved), "from 0"
    for one, two in zip(updated[1].found[0]["told"], updated[2].found[0]["told"], strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_processes_stay_alike_to_the_bit(updated: dict[int, Updated]) -> None:
    for states in (updated[2].first, updated[2].second):
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert updated[2].found[0] == updated[2].found[1]


def test_memory_that_ends_in_one_process_halves_the_micro_batch_in_all(updated: dict[int, Updated]) -> None:
    assert [f["rows"] for f in updated[2].found] == [1, 1]
    assert updated[1].found[0]["rows"] == 1, "the only process is the last one too"
    assert_same(updated[2].second[0], updated[1].second[0])


def test_what_one_process_meets_all_meet(updated: dict[int, Updated]) -> None:
    expected = [
        "UserError: it returned NaN, one answer",
        "FloatingPointError: not finite, ",
        "JobError: process 2 of 2 failed, KeyError: 7",
    ]
    assert [f["met"] for f in updated[2].found] == [expected, expected]
    assert [f["decided"] for f in updated[2].found] == [0, 0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.create(tmp_path / "p", ProjectFile(name="p", model=MODEL, preset="demo"))
    questions = (paths.examples() / "prompts.txt").read_text().splitlines()[:40]
    with made.labels() as store:
        store.add_prompts([[{"role": "user", "content": q}] for q in questions])
    (tmp_path / "reward.py").write_text(REWARD)
    return made


def prepared(project: Project, *assignments: str) -> stages.Prepared:
    """A run by two processes."""
    named = stages.NamedFunction.find(f"{project.root.parent / 'reward.py'}:asks")
    preset = stages.preset_of(project, [*SMALL, *assignments])
    return stages.train(project, preset, "ppo", named, processes=2)


def start(project: Project, *assignments: str) -> tuple[Run, subprocess.Popen[bytes]]:
    found = prepared(project, *assignments)
    return found.run, jobs.spawn(found.run, trusted_function=found.trusted_function)


def wait_for_step(run: Run, step: int) -> None:
    until = time.monotonic() + 120
    while not any(m.step >= step and "seconds" in m.values for m in run.status().metrics):
        assert time.monotonic() < until, run.log_path.read_text()
        time.sleep(0.05)


def helpers_of(pid: int) -> list[int]:
    """The process ids of a run's other processes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True


@pytest.mark.long
@pytest.mark.sample
def test_a_run_by_two_processes_is_one_run_that_stops_and_goes_on(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    run, process = start(project, "ppo.steps=3")
    wait_for_step(run, 1)
    jobs.stop(run)
    assert process.wait(timeout=60) == 130
    stopped = run.status()
    assert stopped.ended == "stopped"
    function = run.settings().inputs.function
    arguments = ["train", str(project.root), "ppo", "--resume", "--reward", function, "--json"]
    assert cli.main(arguments) == 0, run.log_path.read_text()
    result = json.loads(capfd.readouterr().out)
    assert (result["steps"], result["episodes"]) == (3, 24)
    told = EventTail(run.events_path).read()
    assert sum(isinstance(event, Started) for event in told) == 2, "one voice in each of two lives"
    assert [e.step for e in told if isinstance(e, Metrics) and "seconds" in e.values] == [1, 2, 3]
    assert run.log_path.read_text() == ""
    best = run.folder / "checkpoints" / f"{result['best_step']:06d}" / "policy"
    name = "adapter_model.safetensors"
    assert (run.adapter / name).read_bytes() == (best / name).read_bytes()


@pytest.mark.long
def test_a_process_that_dies_ends_the_run_with_an_error(project: Project) -> None:
    run, process = start(project, "ppo.steps=1000")
    wait_for_step(run, 1)
    [helper] = helpers_of(process.pid)
    os.kill(helper, signal.SIGKILL)
    assert process.wait(timeout=60) == 5
    failure = run.status().failure
    assert failure
    assert (failure.kind, "signal 9" in failure.why) == ("JobDied", True)
    assert not jobs.alive(run)


@pytest.mark.long
def test_no_process_outlives_a_run_that_is_killed(project: Project) -> None:
    run, process = start(project, "ppo.steps=1000")
    wait_for_step(run, 1)
    [helper] = helpers_of(process.pid)
    jobs.stop(run, at_once=True)
    process.wait(timeout=60)
    until = time.monotonic() + 20
    while not gone(helper):
        assert time.monotonic() < until
        time.sleep(0.05)
