"""A project folder, its runs, and which adapter comes from which.

A run is a folder ``runs/0003-ppo``: frozen ``settings.toml`` in, ``events.jsonl`` and ``adapter/`` out. What any
screen or command shows of a run is :func:`fold` over its events; nothing else is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rlhf_lite import events, settings
from rlhf_lite.errors import UserError
from rlhf_lite.labels import LabelStore

POLICY_STAGES = ("sft", "dpo", "ppo")


class ProjectFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``project.toml``: small enough to edit by hand."""

    name: str
    model: str
    preset: str = "default"
    seed: int = 0
    quantization: settings.Quantization = "nf4"
    trust_remote_code: bool = False
    plain_template: Annotated[
        bool, msgspec.Meta(description="use ChatML where the model has no template")
    ] = False


@dataclass
class RunStatus:
    """What a run's events add up to."""

    stage: str = ""
    ended: Literal["", "finished", "stopped", "failed"] = ""
    progress: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    metrics: list[events.Metrics] = field(default_factory=list[events.Metrics])
    samples: list[events.Sample] = field(default_factory=list[events.Sample])
    notes: list[str] = field(default_factory=list[str])
    warnings: list[events.Warn] = field(default_factory=list[events.Warn])
    changes: list[events.Changed] = field(default_factory=list[events.Changed])
    result: dict[str, object] = field(default_factory=dict[str, object])
    failure: events.Failed | None = None
    saved_step: int = -1


def fold(stream: list[events.AnyEvent], status: RunStatus | None = None) -> RunStatus:
    """Add events to a status, in order; a ``Resumed`` forgets the later steps of the interrupted life."""
    status = status or RunStatus()
    for event in stream:
        _fold_one(status, event)
    return status


def _fold_one(status: RunStatus, event: events.AnyEvent) -> None:
    match event:
        case events.Started():
            status.stage, status.ended, status.failure = event.stage, "", None
        case events.Resumed():
            step = event.from_step
            status.metrics = [m for m in status.metrics if m.step <= step]
            status.samples = [s for s in status.samples if s.step <= step]
            status.changes = [c for c in status.changes if c.step <= step]
        case events.Progress():
            status.progress[event.what] = (event.done, event.total)
        case events.Metrics():
            status.metrics.append(event)
        case events.Sample():
            status.samples.append(event)
        case events.Note():
            status.notes.append(event.text)
        case events.Warn():
            status.warnings.append(event)
        case events.Changed():
            status.changes.append(event)
        case events.Saved():
            status.saved_step = event.step
        case events.Result():
            status.result = event.values
        case events.Finished():
            status.ended = "finished"
        case events.Stopped():
            status.ended = "stopped"
        case events.Failed():
            status.ended, status.failure = "failed", event


_folded: dict[Path, tuple[int, events.EventTail, RunStatus]] = {}
"""Log → its inode, how far it was read, what it added up to. Logs only grow, so what was read stays true."""


def unscored(result: Mapping[str, Any]) -> bool:
    """Whether these are the results of an evaluation that had neither a judge nor a reward model."""
    return "judge" in result and result["judge"] is None


@dataclass(frozen=True)
class Run:
    """One job and its folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def number(self) -> int:
        return int(self.name.split("-")[0])

    @property
    def stage(self) -> str:
        return self.name.split("-", 1)[1]

    @property
    def adapter(self) -> Path:
        """Where the result lies once the run has finished."""
        return self.folder / "adapter"

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def control_path(self) -> Path:
        return self.folder / "control.jsonl"

    @property
    def log_path(self) -> Path:
        return self.folder / "job.log"

    def settings(self) -> settings.RunSettings:
        return settings.read_run(self.folder / "settings.toml")

    def status(self) -> RunStatus:
        """What its events add up to; reads only what was appended since this process last asked."""
        try:
            found = self.events_path.stat()
        except FileNotFoundError:
            return RunStatus()
        kept = _folded.get(self.events_path)
        if kept is None or kept[0] != found.st_ino or found.st_size < kept[1].offset:
            kept = (found.st_ino, events.EventTail(self.events_path), RunStatus())
            _folded[self.events_path] = kept
        return fold(kept[1].read(), kept[2])

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.folder / "checkpoints").glob("*") if re.fullmatch(r"\d{6,}", p.name))


class Project:
    """A project folder that exists and is readable."""

    def __init__(self, root: Path, file: ProjectFile) -> None:
        self.root = root
        self.file = file

    @classmethod
    def create(cls, root: Path, file: ProjectFile) -> Project:
        """Make a new project folder.

        Raises:
            UserError: the folder exists and is not empty, or cannot be made.
        """
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"{root} is not empty",
                why="a new project wants a new or empty folder",
                hint="name another folder",
            )
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / "runs").mkdir()
            settings.write_toml(root / "project.toml", file)
        except OSError as error:
            raise UserError(
                f"cannot make {root}", why=error.strerror or str(error), hint="name another folder"
            ) from error
        project = cls(root.resolve(), file)
        with project.labels():
            pass
        return project

    @classmethod
    def open(cls, root: Path) -> Project:
        """Open an existing project.

        Raises:
            UserError: no such folder, or it holds no project.
            SettingsError: ``project.toml`` is damaged.
        """
        if not (root / "project.toml").is_file():
            what = "is not a project folder" if root.is_dir() else "does not exist"
            raise UserError(
                f"{root} {what}",
                why="it has no project.toml",
                hint=f"make one: rlhf-lite new {root} --model demo",
            )
        return cls(root.resolve(), settings.read_toml(root / "project.toml", ProjectFile))

    @property
    def labels_path(self) -> Path:
        return self.root / "labels.db"

    def labels(self) -> LabelStore:
        """Open the label store; a context manager."""
        return LabelStore.open(self.labels_path, seed=self.file.seed)

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        found = [p for p in (self.root / "runs").glob("*-*") if re.fullmatch(r"\d{4,}-[a-z]+", p.name)]
        return sorted((Run(p) for p in found if (p / "settings.toml").exists()), key=lambda run: run.number)

    def run(self, name: str) -> Run:
        """The run of that name or number.

        Raises:
            UserError: there is none.
        """
        for run in self.runs():
            if name == run.name or (name.isdigit() and int(name) == run.number):
                return run
        known = ", ".join(r.name for r in self.runs()) or "none yet"
        raise UserError(f"no run {name} in {self.root}", hint=f"runs: {known}")

    def latest(self, *stages: str, ended: str = "finished") -> Run | None:
        """The newest run of these stages that ended so."""
        for run in reversed(self.runs()):
            if run.stage in stages and run.status().ended == ended:
                return run
        return None

    def latest_policy(self) -> Run | None:
        """What "the current policy" is: the newest finished SFT, DPO or PPO run."""
        return self.latest(*POLICY_STAGES)

    def new_run(self, inputs: settings.Inputs, preset: settings.Preset) -> Run:
        """Make the next run's folder with its frozen settings."""
        number = 1 + max(
            (int(p.name.split("-")[0]) for p in (self.root / "runs").glob("[0-9]*-*")), default=0
        )
        folder = self.root / "runs" / f"{number:04d}-{inputs.stage}"
        folder.mkdir(parents=True)
        settings.write_toml(folder / "settings.toml", settings.RunSettings(inputs=inputs, preset=preset))
        return Run(folder)
