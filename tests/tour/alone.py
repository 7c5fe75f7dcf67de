"""A world of its own for the tour: nothing of the user's is read or written, and nothing is left running."""

from __future__ import annotations

import os
from pathlib import Path

from person import COMMAND


def alone(home: Path) -> None:
    """An environment in which nothing of the user's own is read or written; jobs and terminal inherit it."""
    os.environ.update(
        HOME=str(home), RLHF_LITE_STATE=str(home / "state"), RLHF_LITE_CONFIG=str(home / "config.toml"),
        RLHF_LITE_PROJECTS=str(home / "projects"), PATH=f"{COMMAND.parent}:{os.environ['PATH']}",
        LC_ALL="C.UTF-8", XDG_DATA_HOME=str(home), XDG_STATE_HOME=str(home), XDG_CACHE_HOME=str(home),
    )  # fmt: skip
    for name in ("NO_COLOR", "TMUX", "TMUX_PANE", "RLHF_LITE_NAME", "RLHF_LITE_THEME", "RLHF_LITE_ASCII"):
        os.environ.pop(name, None)


def end_jobs(project: Path) -> list[str]:
    """Stop the project's own jobs at once; returns the last words of a job that failed."""
    from rlhf_lite import jobs
    from rlhf_lite.project import Project

    if not (project / "project.toml").exists():
        return []
    runs = Project.open(project).runs()
    for run in runs:
        jobs.stop(run, at_once=True)
    return [f"{runs[-1].log_path}:\n{runs[-1].log_path.read_text('utf-8')[-2000:]}"] if runs else []
