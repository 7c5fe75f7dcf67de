"""Blind votes: what is asked, what is kept, and what the numbers say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lite.errors import DataError, UserError
from rlhf_lite.intervals import wilson
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.votes import Ballot, Tally

POLICY = "0003-ppo"


def answers(folder: Path, prompts: int = 10, samples: int = 3, same: int = 0) -> Path:
    """What an evaluation leaves: sampled answers, the first ``same`` of them identical, then the most likely ones."""
    folder.mkdir(parents=True, exist_ok=True)
    sampled = [
        {"prompt": f"Q{p}", "mode": "sampled", "base": f"base {p} {s}", POLICY: f"tuned {p} {s}"}
        for p in range(prompts)
        for s in range(samples)
    ]
    for row in sampled[:same]:
        row[POLICY] = row["base"]
    greedy = [
        {"prompt": f"Q{p}", "mode": "greedy", "base": "same", POLICY: "same" if p % 2 else "other"}
        for p in range(prompts)
    ]
    lines = [json.dumps(row) for row in sampled + greedy]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def vote(ballot: Ballot, for_tuned: bool) -> None:
    ask = ballot.current
    assert ask
    ballot.choose("left" if ask.tuned_left == for_tuned else "right")


def test_a_side_that_is_chosen_counts_for_whoever_was_there(tmp_path: Path) -> None:
    ballot = Ballot(answers(tmp_path / "run"), seed=1)
    for turn in range(10):
        ask = ballot.current
        assert ask
        assert {ask.left, ask.right} == {ask.base, ask.tuned}
        assert ask.tuned.startswith("tuned")
        vote(ballot, for_tuned=turn < 7)
    ballot.choose("tie")
    ballot.choose("both_bad")
    ballot.choose("skip")
    assert (ballot.tally.tuned, ballot.tally.base, ballot.tally.ties, ballot.tally.skipped) == (7, 3, 2, 1)


def test_every_prompt_is_asked_once_before_any_is_asked_again(tmp_path: Path) -> None:
    ballot, asked, left = Ballot(answers(tmp_path / "run"), seed=2), [], []
    while ask := ballot.current:
        asked.append(ask.prompt)
        left.append(ask.tuned_left)
        ballot.choose("tie")
    assert len(asked) == 30
    rounds = [asked[i : i + 10] for i in (0, 10, 20)]
    assert all(len(set(r)) == 10 for r in rounds)
    assert rounds[0] != rounds[1], "shuffled"
    assert 5 < sum(left) < 25, "sides are shuffled"


def test_identical_answers_are_not_asked_but_counted(tmp_path: Path) -> None:
    ballot = Ballot(answers(tmp_path / "run", same=4), seed=1)
    assert ballot.waiting == 26
    assert ballot.tally.unchanged == 4
    assert (ballot.tally.greedy, ballot.tally.greedy_changed) == (10, 5)
    while ask := ballot.current:
        assert ask.base != ask.tuned
        ballot.choose("tie")


def test_votes_and_undo_outlive_the_program(tmp_path: Path) -> None:
    folder = answers(tmp_path / "run")
    ballot = Ballot(folder, seed=1)
    vote(ballot, True)
    asked = ballot.current
    vote(ballot, False)
    again = Ballot(folder, seed=1)
    assert again.votes == 2
    assert again.undo()
    assert again.current == asked, "asked again, on the same sides"
    assert Ballot(folder, seed=1).tally.base == 0
    assert again.undo()
    assert not again.undo()
    assert (folder / "votes.jsonl").read_text().count("\n") == 4, "nothing is erased"


def test_a_torn_last_line_is_dropped_and_the_next_vote_is_whole(tmp_path: Path) -> None:
    folder = answers(tmp_path / "run")
    for _ in range(2):
        vote(Ballot(folder, seed=1), True)
    file = folder / "votes.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    ballot = Ballot(folder, seed=1)
    assert ballot.votes == 1
    vote(ballot, True)
    assert Ballot(folder, seed=1).votes == 2


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = answers(tmp_path / "run")
    (folder / "votes.jsonl").write_text('{"type":"vote","row":"one"}\n')
    with pytest.raises(DataError, match=r"votes\.jsonl is damaged at line 1"):
        Ballot(folder, seed=1)
    (folder / "samples.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl is damaged at line 1"):
        Ballot(folder, seed=1)
    with pytest.raises(UserError, match="left no answers"):
        Ballot(tmp_path, seed=1)


def test_kill_9_loses_no_vote_that_was_acknowledged(tmp_path: Path) -> None:
    folder = answers(tmp_path / "run", prompts=40)
    script = (
        "import sys; from pathlib import Path; from rlhf_lite.votes import Ballot\n"
        "b = Ballot(Path(sys.argv[1]), 1)\n"
        "while b.current:\n    b.choose('left'); print(b.votes, flush=True)\n"
    )
    told = 0
    for wanted in (7, 15, 40):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        for line in child.stdout:  # after the kill, what it had acknowledged before
            told = int(line)
            if told == wanted:
                os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        child.wait()
        stored = Ballot(folder, seed=1).votes
        assert told <= stored <= told + 1
    rows = [json.loads(line)["row"] for line in (folder / "votes.jsonl").read_text().splitlines()]
    assert len(rows) == len(set(rows)), "none doubled"


def test_the_result_in_words() -> None:
    def tally(tuned: int, base: int, ties: int) -> Tally:
        return Tally(tuned, base, ties, 0, 0, 0, 0)

    assert tally(31, 13, 6).sentence == "You preferred tuned in 31 of 44 (70 %, 95 % 56-82 %), 6 ties"
    assert "better by your own taste" in tally(31, 13, 6).verdict
    assert tally(20, 5, 4).sentence == "29 of 30 votes: not enough to tell"
    assert tally(20, 5, 4).verdict == ""
    assert "may be chance" in tally(18, 14, 0).verdict
    assert tally(5, 40, 1).verdict.startswith("The base is better")
    assert tally(0, 0, 40).sentence == "You saw no difference: 40 ties"


def test_votes_become_labels_once(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    ballot = Ballot(answers(project.root / "runs" / "0004-eval"), seed=1)
    for turn in range(6):
        vote(ballot, for_tuned=turn != 2)
    ballot.choose("tie")
    ballot.choose("skip")
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": f"Q{n}"}] for n in range(10)])
        first, again = ballot.add_to_labels(store, "person:me"), ballot.add_to_labels(store, "person:me")
        counts, found = store.counts(), store.preferences()
    assert (first.new, first.known, first.lost) == (7, 0, 0)
    assert (again.new, again.known) == (0, 7)
    assert (counts.a + counts.b, counts.tie) == (6, 1)
    assert sum(p.chosen.startswith("tuned") for p in found) == 5
    assert sum(p.chosen.startswith("base") for p in found) == 1


def test_a_vote_whose_prompt_is_not_in_the_project_is_counted_as_lost(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    ballot = Ballot(answers(project.root / "runs" / "0004-eval"), seed=1)
    vote(ballot, True)
    with project.labels() as store:
        assert ballot.add_to_labels(store, "person:me").lost == 1
        assert store.counts().labelled == 0


@pytest.mark.parametrize(("k", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (31, 44, 0.5579, 0.8184)])
def test_wilson(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-4)
