"""What is done with a run that has ended: its size told, started again with its settings, deleted.

Nothing that something else stands on is deleted: another run's frozen settings name the adapters that it began with,
and without them it could neither be resumed nor explained.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rlhf_lite import jobs, stages
from rlhf_lite.errors import MachineError, RlhfLiteError, UserError
from rlhf_lite.project import Project, Run


def size(run: Run) -> int:
    """Bytes of all its files."""
    total = 0
    for folder, _, names in os.walk(run.folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # a checkpoint that is being replaced
                continue
    return total


def users(project: Project, run: Run) -> list[Run]:
    """The runs whose settings name this one as what they start from."""
    return [other for other in project.runs() if other.name != run.name and run.name in _inputs(other)]


def _inputs(run: Run) -> set[str]:
    """The runs that it names: by name, for a project's folder may have moved since. Unreadable settings name none."""
    try:
        inputs = run.settings().inputs
    except RlhfLiteError:
        return set()
    return {Path(named).parent.name for named in (inputs.start, inputs.reward, *inputs.policies) if named}


def check_deletable(project: Project, run: Run) -> None:
    """Raise UserError where a run is alive, or another one stands on it."""
    if jobs.alive(run):
        raise UserError(f"{run.name} is running", why="it is writing to its folder", hint="stop it first")
    if named := users(project, run):
        names = ", ".join(other.name for other in named)
        raise UserError(
            f"{run.name} is needed", why=f"what {names} started from is in it", hint=f"delete {names} first"
        )


def delete(project: Project, run: Run) -> None:
    """Remove a run's folder for good.

    Raises:
        UserError: it is alive, or another one stands on it.
        MachineError: files of it cannot be removed; what is left of it is no run any more.
    """
    check_deletable(project, run)
    # First out of sight: a folder half gone must not be taken for a run.
    gone = run.folder.with_name(f".deleted-{run.name}")
    try:
        os.replace(run.folder, gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise MachineError(
            f"cannot delete {run.name}", why=error.strerror or str(error), hint=f"see {gone.parent}"
        ) from error


def again(project: Project, run: Run) -> stages.Prepared:
    """A new run of the same stage with the same tunable settings, from what the project has now.

    Raises:
        UserError: it ran a judge or reward file, which only runs when named again, or what it stands on is missing.
    """
    frozen = run.settings()
    inputs, preset = frozen.inputs, frozen.preset
    if inputs.function:
        raise UserError(
            f"{run.name} ran a file of yours, which runs only when named again", why=inputs.function,
            hint="start it by its command, with --judge or --reward",
        )  # fmt: skip
    match run.stage:
        case "generate":
            return stages.generate(project, preset, inputs.limit)
        case "eval":
            return stages.evaluate(project, preset, [], None, Path(inputs.gguf) if inputs.gguf else None)
        case "export":
            return stages.export(project, preset, "", inputs.quants, Path(inputs.output), inputs.format)
        case "download":
            return stages.download(project)
        case _:
            return stages.train(project, preset, run.stage, None, inputs.processes, inputs.report_to)
