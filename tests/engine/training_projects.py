"""Small labelled projects that the tests of the TRL stages share, and what is asked of their runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_lite import paths, settings
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.events import AnyEvent, Metrics
from rlhf_lite.labels import MUCH_BETTER, Preference
from rlhf_lite.project import Project, ProjectFile, Run

SMALL = [
    "lora.rank=4",
    "sampling.max_new_tokens=8",
    "reward.epochs=2",
    "reward.min_steps=1",
    "sft.epochs=2",
    "dpo.epochs=2",
    "dpo.min_steps=1",
]
FRUIT = ("apples", "pears", "plums", "figs", "dates", "limes", "kiwis", "grapes", "melons", "cherries")
ROOMS = ("the hall", "the kitchen", "the cellar", "the attic", "the garden", "the office")


def preferences(count: int) -> list[Preference]:
    """The chosen answers ask back, the rejected do not; otherwise they are alike. Every third is much better."""
    found: list[Preference] = []
    for i in range(count):
        fruit, room, other = FRUIT[i % 10], ROOMS[i // 10 % 6], FRUIT[(i * 7 + 3) % 10]
        prompt = [{"role": "user", "content": f"Where do I keep {fruit} in {room}, number {i}?"}]
        answer = f"Keep the {fruit} with the {other}."
        margin = MUCH_BETTER if i % 3 == 0 else 0.0
        found.append(Preference(prompt, f"{answer} What for?", f"{answer} That works.", margin))
    return found


def make_project(
    folder: Path,
    pairs: list[Preference],
    model: Path | None = None,
    *,
    quantization: settings.Quantization = "nf4",
) -> Project:
    """A project on the built-in model, or on another, whose pairs are decided."""
    file = ProjectFile(
        name="p", model=str(model or paths.demo_model()), preset="demo", quantization=quantization
    )
    project = Project.create(folder, file)
    with project.labels() as store, store.transaction():
        for pair in pairs:
            store.add_preference(pair, origin="import:pairs.jsonl")
    return project


def new_run(project: Project, stage: str, *assignments: str, start: str = "") -> Run:
    preset = settings.override(settings.load_preset("demo"), [*SMALL, *assignments])
    file = project.file
    inputs = settings.Inputs(
        stage=stage, project=str(project.root), model=file.model, quantization=file.quantization, seed=0,
        start=start,
    )  # fmt: skip
    return project.new_run(inputs, preset)


def new_job(project: Project, stage: str, *assignments: str, start: str = "") -> tuple[Job, SharedBase]:
    """A job that a test takes step by step, and its base."""
    job = Job(new_run(project, stage, *assignments, start=start))
    return job, SharedBase.load(job.inputs)


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Have the user ask for a stop, as the command line does, while that step runs."""
    emit = Job.emit

    def emit_and_ask(job: Job, event: AnyEvent) -> None:
        emit(job, event)
        if isinstance(event, Metrics) and event.step == step and "loss" in event.values:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Job, "emit", emit_and_ask)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "adapter_model.safetensors"))
