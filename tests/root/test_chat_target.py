"""What ``rlhf-lite chat`` talks to: a file, a project's export, and before there is one its policy on the base."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Command, add_run, refused

from rlhf_lite import events, overview
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.project import Project


def export(project: Project, path: Path) -> None:
    path.write_bytes(b"GGUF and so on")
    add_run(project, "export", events.Result(values={"path": str(path)}), events.Finished())


def test_a_project_is_chatted_with_before_it_is_trained_and_before_it_is_exported(
    project: Project, tmp_path: Path
) -> None:
    found = overview.chat_target(project.root)
    assert (found.verb, found.arguments) == ("talk", (str(project.root),))
    run = add_run(project, "ppo", adapter=True)
    found = overview.chat_target(project.root)
    assert (found.verb, found.arguments) == ("talk", (str(project.root), run.name))
    export(project, tmp_path / "model.gguf")
    found = overview.chat_target(project.root)
    assert (found.verb, found.arguments) == ("chat", (str(tmp_path / "model.gguf"),))
    assert found == overview.chat_target(tmp_path / "model.gguf")


def test_an_export_that_was_deleted_is_not_chatted_with(project: Project, tmp_path: Path) -> None:
    run = add_run(project, "ppo", adapter=True)
    export(project, tmp_path / "model.gguf")
    (tmp_path / "model.gguf").unlink()
    assert overview.chat_target(project.root).arguments == (str(project.root), run.name)
    with pytest.raises(UserError, match="no exported model"):
        overview.chat_file(project.root)


def test_what_is_no_target_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Hello")
    with pytest.raises(DataError, match="not a GGUF"):
        overview.chat_target(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="does not exist"):
        overview.chat_target(tmp_path / "nothing")


def test_serving_takes_an_exported_file(command: Command, project: Project) -> None:
    refused(command("serve", project.root), 2, "no exported model", "GGUF", f"rlhf-lite label {project.root}")
