"""Who has neither a reward model nor a judge compares all the same: by votes, and no score is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, add_run, decide, refused

from rlhf_lite import checklist, events, report, stages
from rlhf_lite.checklist import Step
from rlhf_lite.project import Project, Run
from rlhf_lite.settings import Preset
from rlhf_lite.votes import Ballot

SIDE = {"score": None, "tokens": 12.0, "eos_rate": 1.0, "eos_rate_interval": [0.9, 1.0], "distinct_2": 0.5}
ONE: dict[str, Any] = {
    "tuned": SIDE, "kl": 1.25, "wins": None, "losses": None, "ties": None, "win_rate": None,
    "win_rate_interval": None, "decided_win_rate": None, "decided_share": None,
    "greedy": {"wins": None, "losses": None, "ties": None},
}  # fmt: skip
RESULT: dict[str, Any] = {"judge": None, "prompts": 8, "base": SIDE, **ONE, "runs": {"0001-dpo": ONE}}


@pytest.fixture
def tuned(project: Project) -> Project:
    """Labelled, and tuned by DPO alone."""
    decide(project, count=60)
    add_run(project, "dpo", adapter=True)
    return project


def evaluate(project: Project, different: int, same: int = 0) -> Run:
    """An evaluation that nothing scored, with so many pairs of answers."""
    run = add_run(project, "eval", events.Result(values=RESULT), events.Finished())
    rows = [
        {"prompt": f"Q{n}?", "mode": "sampled", "base": "one", "0001-dpo": "two" if n < different else "one"}
        for n in range(different + same)
    ]
    (run.folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def vote(project: Project, run: Run, count: int) -> None:
    ballot = Ballot(run.folder, project.file.seed)
    for _ in range(count):
        ask = ballot.current
        assert ask
        ballot.choose("left" if ask.tuned_left else "right")


def row(project: Project, key: str) -> Step:
    return next(step for step in checklist.steps(project) if step.key == key)


def following(project: Project) -> str:
    return next(step.key for step in checklist.steps(project) if step.state == "next")


def test_an_evaluation_is_prepared_without_a_scorer(tuned: Project) -> None:
    prepared = stages.evaluate(tuned, Preset(), [], None, None)
    inputs = prepared.run.settings().inputs
    assert (inputs.reward, inputs.function) == ("", "")
    assert [Path(p).parent.name for p in inputs.policies] == ["0001-dpo"]


@pytest.mark.parametrize("judge", ["nowhere.py:prefer", "judge.py"])
def test_a_judge_that_was_asked_for_and_is_missing_is_refused(
    command: Command, tuned: Project, judge: str
) -> None:
    refused(command("eval", tuned.root, "--judge", judge), 2, judge.split(":")[0])
    assert [run.stage for run in tuned.runs()] == ["dpo"], "nothing was started"


def test_the_votes_are_the_next_step_until_there_are_enough_and_their_count_is_all_that_is_told(
    tuned: Project,
) -> None:
    assert following(tuned) == "compare"
    run = evaluate(tuned, different=40)
    for votes, then in ((0, "compare"), (29, "compare"), (1, "export")):
        vote(tuned, run, votes)
        assert following(tuned) == then
        assert "preferred" not in row(tuned, "compare").words, "a result that is watched is not blind"
    assert "10 pairs to go" in row(tuned, "compare").words
    vote(tuned, run, 10)
    assert "preferred tuned in 40 of 40" in row(tuned, "compare").words


@pytest.mark.parametrize(("different", "same"), [(3, 5), (0, 8)])
def test_who_has_voted_on_all_there_is_goes_on(tuned: Project, different: int, same: int) -> None:
    run = evaluate(tuned, different, same)
    vote(tuned, run, different)
    assert following(tuned) == "export"
    assert "not enough to tell" in row(tuned, "compare").words


def test_answers_that_are_gone_or_damaged_are_compared_again(command: Command, tuned: Project) -> None:
    run = evaluate(tuned, different=40)
    for damage in ("{}\n", ""):
        (run.folder / "samples.jsonl").write_text(damage)
        assert following(tuned) == "compare"
        assert command("status", tuned.root, "--json").json["next"]["command"].startswith("rlhf-lite eval")


def test_status_leads_from_dpo_to_the_votes(command: Command, tuned: Project) -> None:
    def next_step() -> dict[str, str]:
        return command("status", tuned.root, "--json").json["next"]

    assert next_step()["command"] == f"rlhf-lite eval {tuned.root}"
    evaluate(tuned, different=40)
    assert next_step()["command"] == f"rlhf-lite --project {tuned.root}", "the app, which opens at this step"
    for words in ("Compare page", "0 of 30 votes", "no reward model, no judge"):
        assert words in next_step()["why"]
    text = command("runs", tuned.root).out
    assert "no reward model or judge scored these answers" in text


def test_the_table_shows_what_was_measured_and_says_what_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    report.evaluation(RESULT)
    said = capsys.readouterr().out
    for measured in ("12.0", "100%", "0.50", "1.25"):
        assert measured in said
    for absent in ("None", "reward  ", "wins", "0/0/0", "greedy"):
        assert absent not in said
    assert "No reward model or judge scored these answers" in said
    assert "blind votes" in said


def test_a_warm_up_alone_can_be_compared_and_the_reward_model_still_comes_next(project: Project) -> None:
    decide(project, count=60)
    assert row(project, "compare").state == "blocked"
    add_run(project, "sft", adapter=True)
    assert row(project, "compare").state == "ready"
    assert following(project) == "reward"
