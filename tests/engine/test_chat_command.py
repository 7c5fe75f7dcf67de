"""``rlhf-lite chat`` on a project that has not been exported: the base it was made with answers."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from rlhf_lite.cli import main
from rlhf_lite.project import Project, ProjectFile


@pytest.fixture
def untrained(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "new", ProjectFile(name="new", model="demo", preset="demo"))


def test_one_question_is_answered_before_anything_is_trained(
    untrained: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", str(untrained.root), "--prompt", "How do I boil an egg?", "--json"]) == 0
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert found["answer"]
    assert (found["model"], found["reason"]) == ("demo", "stop")
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"]
    assert "bare base model" in printed.err


def test_a_conversation_goes_on_over_lines(
    untrained: Project, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("How do I boil an egg?\nThank you!\n/bye\n"))
    assert main(["chat", str(untrained.root), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"] * 2
