"""A command line to drive, and a project to drive it on."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from command_line import Command, Done

from rlhf_lite.cli import main
from rlhf_lite.project import Project, ProjectFile


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*arguments: object, stdin: str = "") -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main([str(a) for a in arguments])
        printed = capfd.readouterr()
        return Done(code, str(printed.out), str(printed.err))

    return run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with prompts and six pairs."""
    found = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    with found.labels() as store, store.transaction():
        store.add_prompts([[{"role": "user", "content": f"Question {n}?"}] for n in range(40)])
        for prompt in store.prompts()[:6]:
            store.add_pair(prompt.id, "Short.", "A long answer, with more words in it.", origin="test")
    return found
