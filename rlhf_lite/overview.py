"""Where a project stands and what to do next; what ``status`` and ``runs`` show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from rlhf_lite import base_model, checklist, jobs, report, stages
from rlhf_lite.errors import UserError
from rlhf_lite.labels import Counts
from rlhf_lite.project import Project, Run


def project(found: Project) -> dict[str, Any]:
    """The project, its labels, its newest results and the next command."""
    counts = _counts(found)
    policy, reward = found.latest_policy(), found.latest("reward")
    why, following = next_step(found)
    file = found.file
    return {
        "project": str(found.root), "name": file.name, "model": file.model, "preset": file.preset, "seed": file.seed,
        "quantization": file.quantization, "labels": msgspec.to_builtins(counts),
        "reward": reward.name if reward else None,
        "policy": policy.name if policy else None, "running": [r.name for r in found.runs() if jobs.alive(r)],
        "runs": len(found.runs()), "next": {"why": why, "command": following},
    }  # fmt: skip


def run(found: Run) -> dict[str, Any]:
    """One run: its state, how far it is, and what it found."""
    status = found.status()
    state = "running" if jobs.alive(found) else status.ended or "died"
    told = {what: list(progress) for what, progress in status.progress.items()}
    failure = status.failure.message if status.failure else None
    return {
        "run": found.name,
        "stage": found.stage,
        "state": state,
        "progress": told,
        "result": status.result,
        "failure": failure,
    }


def next_step(found: Project) -> tuple[str, str]:
    """The next step of the round, as the checklist has it: why, and the command."""
    following = next(step for step in checklist.steps(found) if step.state == "next")
    match following.key:
        case "prompts" if following.words.startswith(checklist.NO_PROMPTS):
            return "it has no prompts yet", stages.command("prompts", found, "add", "FILE")
        case "prompts":
            return following.words, stages.command("generate", found)
        case "label":
            return following.words, stages.command("label", found)
        case "reward":
            return "learn what you prefer", stages.command("train", found, "reward")
        case "ppo":
            return "train the model towards it", stages.command("train", found, "ppo")
        case "compare" if following.words.endswith(checklist.UNVOTED):
            why = f"vote blind on the app's Compare page ({following.words})"
            return why, stages.command("--project", found)
        case "compare":
            return "see what changed", stages.command("eval", found)
        case _ if following.done:
            return "talk to it", stages.command("chat", found)
        case _:
            return "make a file to chat with", stages.command("export", found)


@dataclass(frozen=True)
class ChatTarget:
    """What answers in a chat: the verb and arguments of its session, and what people and scripts call it."""

    verb: Literal["chat", "talk"]
    arguments: tuple[str, ...]
    name: str


def chat_target(target: Path) -> ChatTarget:
    """A GGUF file, or a project: its newest export, and before there is one the newest policy on the base.

    Raises:
        UserError: neither a GGUF file nor a project.
    """
    if target.is_file() or exported(found := Project.open(target)):
        file = chat_file(target)
        return ChatTarget("chat", (str(file),), str(file))
    policy = found.latest_policy()
    if not policy:
        report.aside("nothing is trained yet: this is the bare base model")
        return ChatTarget("talk", (str(found.root),), found.file.model)
    report.aside(f"{policy.name} on its base, before any export: {stages.command('export', found)}")
    return ChatTarget("talk", (str(found.root), policy.name), str(policy.folder))


def chat_file(target: Path) -> Path:
    """A GGUF file: the target itself, or the newest export of a project.

    Raises:
        UserError: neither a GGUF file nor a project with an export.
    """
    if target.is_file():
        base_model.check_gguf(target)
        return target
    found = Project.open(target)
    file = exported(found)
    if not file:
        raise UserError(
            f"{found.file.name} has no exported model yet", why="this takes a GGUF file",
            hint=stages.command("export", found) if found.latest_policy() else next_step(found)[1],
        )  # fmt: skip
    newest, policy = gguf_export(found), found.latest_policy()
    if newest and policy and policy.number > newest.number:
        report.aside(f"{policy.name} is newer than this file: {stages.command('export', found)}")
    return file


def gguf_export(found: Project) -> Run | None:
    """The newest export that made a GGUF file; those to other formats are nothing to chat with."""
    runs = (
        run for run in reversed(found.runs()) if run.stage == "export" and run.status().ended == "finished"
    )
    return next((run for run in runs if run.status().result.get("format", "gguf") == "gguf"), None)


def exported(found: Project) -> Path | None:
    """The file of the newest GGUF export, where it still is."""
    newest = gguf_export(found)
    path = Path(str(newest.status().result.get("path", ""))) if newest else Path()
    return path if path.is_file() else None


def _counts(found: Project) -> Counts:
    with found.labels() as store:
        return store.counts()
