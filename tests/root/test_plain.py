"""Labelling over a pipe, as someone with a Braille line or a script does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from command_line import Command

from rlhf_lite import plain
from rlhf_lite.labels import Pair, Prompt, Question
from rlhf_lite.project import Project


def test_a_better_answer_is_asked_for_on_one_line_and_refused_where_it_is_none(
    command: Command, project: Project
) -> None:
    done = command("label", project.root, "--json", stdin="e\nShort.\nShorter.\na\nq\n")
    assert done.code == 0
    assert "one of the two" in done.err
    assert done.json == {"labelled": 1, "a": 1, "b": 0, "tie": 0, "both_bad": 0, "skipped": 1}
    with project.labels() as store:
        assert [text for _, text in store.demonstrations()] == ["Shorter."]
        assert (store.decided(), store.waiting()) == (3, 4)
    assert command("label", project.root, "--json", stdin="u\nu\nq\n").json["labelled"] == 0
    with project.labels() as store:
        assert (store.decided(), store.waiting(), store.demonstrations()) == (0, 6, [])


@pytest.mark.parametrize("after", ["\na\nq\n", ""])
def test_an_empty_line_or_the_end_of_input_gives_no_better_answer(
    command: Command, project: Project, after: str
) -> None:
    done = command("label", project.root, "--json", stdin=f"e\n{after}")
    assert (done.code, done.json["skipped"]) == (0, 0)
    with project.labels() as store:
        assert store.demonstrations() == []


def test_a_long_sitting_asks_again_says_what_it_sees_and_counts_each_pair_once(
    command: Command, project: Project
) -> None:
    with project.labels() as store, store.transaction():
        for prompt in store.prompts():
            for n in range(3):
                store.add_pair(prompt.id, f"{n} yes.", f"{n} perhaps not.", origin="test")
    done = command("label", project.root, "--json", stdin="a\n" * 80)
    with project.labels() as store:
        counts = store.counts()
        (judge,) = {judge for (judge,) in store._rows("SELECT judge FROM labels")}
        repeats = store.rhythm(judge)[0]
    assert repeats > 2
    assert done.json["labelled"] == done.json["a"] + done.json["b"] == 80 - repeats == counts.labelled
    assert "25 pairs are decided" in done.err
    assert done.err.count("25 pairs are decided") == 1
    assert "You chose answer A in 100%" in done.err
    assert "repeat" not in done.err
    assert "80 of" in done.err


def test_the_sides_are_those_of_the_question() -> None:
    said: list[str] = []
    pair = Pair(1, Prompt(1, [{"role": "user", "content": "q"}], "train"), "first", "second", "x")
    plain._show(said.append, Question(pair, swapped=True), "pair 1 of 1")
    assert "A) second" in said[0]
    assert "B) first" in said[0]


class Speaker:
    """In place of a session: answers with "Yes.", and says that so many turns were left out each time."""

    dropped: ClassVar[list[int]] = []

    def __init__(self, *_: str) -> None:
        answers = [[{"type": "token", "text": "Yes."}, {"type": "done", "dropped": n}] for n in self.dropped]
        self._says = iter(
            [{"type": "ready", "name": "it"}, *(reply for answer in answers for reply in answer)]
        )

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, **_: object) -> None: ...

    def receive(self) -> dict[str, Any]:
        return next(self._says)


def test_turns_left_out_are_told_when_they_become_more_and_anew_in_another_conversation(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF and so on")
    monkeypatch.setattr(plain.jobs, "Session", Speaker)
    monkeypatch.setattr(Speaker, "dropped", [0, 1, 1, 3, 1])
    done = command("chat", tmp_path / "x.gguf", "--json", stdin="a\nb\nc\nd\n/reset\ne\n/save it\n")
    assert done.code == 0
    assert done.err.count("oldest turn no longer fits") == 2
    assert done.err.count("oldest 3 turns no longer fit") == 1
    assert "saved in a project" in done.err
    assert [m["content"] for m in done.json["messages"]] == ["e", "Yes."]
