"""``rlhf-lite chat`` on a project that has not been exported: the base it was made with answers."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from rlhf_lite import chats
from rlhf_lite.cli import main
from rlhf_lite.conversation import Conversation
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
    (name,) = chats.saved(untrained)
    assert chats.load(untrained, name).messages == found["messages"]


def test_a_saved_conversation_is_gone_on_with(
    untrained: Project, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = Conversation()
    earlier.say("How do I boil an egg?")
    earlier.reply("In water.")
    chats.save(untrained, earlier, "eggs")
    lines = "/load\n/load nothing\n/load 1\nThank you!\n/save more eggs\n/save a/b\n/reset\nBye?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main(["chat", str(untrained.root), "--json"]) == 0
    printed = capfd.readouterr()
    assert "1 eggs" in printed.err
    assert "no conversation nothing" in printed.err
    assert "assistant: In water." in printed.err
    assert "no name" in printed.err
    assert json.loads(printed.out)["messages"][0]["content"] == "Bye?"
    whole = chats.load(untrained, "more eggs").messages
    assert [m["content"] for m in whole[:3]] == ["How do I boil an egg?", "In water.", "Thank you!"]
    assert (
        len(chats.saved(untrained)) == 3
    )  # a name that is given makes another of it, and the last has none yet
