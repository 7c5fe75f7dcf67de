"""The blind page: what is asked, what stays hidden, and what the votes come to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from at_the_keys import footer_width, shown, until
from textual.pilot import Pilot

from rlhf_lite import events, stages
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, Preset
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.screens.compare import ComparePage
from rlhf_lite.tui.widgets.answers import AnswerPane, AnswerPanes
from rlhf_lite.votes import Ballot

Steps = Callable[[RlhfApp, Pilot[None], ComparePage], Awaitable[None]]
RESULT = {
    "judge": "the reward model", "prompts": 4, "win_rate": 0.83, "win_rate_interval": [0.76, 0.9], "kl": 3.2,
    "base": {"tokens": 41.0}, "tuned": {"tokens": 55.0},
}  # fmt: skip


def add_run(project: Project, stage: str, *said: events.AnyEvent) -> Run:
    inputs = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, Preset())
    log = EventWriter(run.events_path)
    for event in (events.Started(stage=stage, pid=1), *said):
        log.write(event)
    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("RLHF_LITE_NAME", "me")
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def answer(run: Run, policy: str, prompts: int = 20, samples: int = 2) -> None:
    """What an evaluation leaves; the first sampled pair is identical, and half of the likeliest answers."""
    rows = [
        {"prompt": f"Q{p}?", "mode": mode, "base": f"base {p} {s}", policy: f"tuned {p} {s}"}
        for mode, n in (("sampled", samples), ("greedy", 1))
        for p in range(prompts)
        for s in range(n)
    ]
    for row in (rows[0], *rows[-prompts // 2 :]):
        row[policy] = row["base"]
    (run.folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def evaluated(project: Project) -> Run:
    """A project whose policy has been evaluated."""
    policy = add_run(project, "ppo", events.Finished())
    run = add_run(project, "eval", events.Result(values=dict(RESULT)), events.Finished())
    answer(run, policy.name)
    return run


def at_compare(project: Project, steps: Steps, size: tuple[int, int] = (80, 24)) -> None:
    async def main() -> None:
        app = RlhfApp(project.root, page="compare")
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            page = app.screen
            assert isinstance(page, ComparePage)
            await steps(app, pilot, page)

    asyncio.run(main())


def everything(page: ComparePage) -> str:
    return "\n".join("".join(s.text for s in line) for line in page._compositor.render_strips())


def tuned_side(page: ComparePage) -> str:
    return "a" if page.query_one(AnswerPanes).shown["left"].startswith("tuned") else "b"


async def vote_tuned(pilot: Pilot[None], page: ComparePage, count: int, against: int = 0) -> None:
    for turn in range(count + against):
        side = tuned_side(page)
        await pilot.press(side if turn < count else {"a": "b", "b": "a"}[side])


def test_votes_are_kept_and_nothing_is_told_before_it_is_asked_for(project: Project, evaluated: Run) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        await vote_tuned(pilot, page, 3, against=1)
        await pilot.press("t", "x", "s", "u")
        seen = everything(page)
        assert "preferred" not in seen
        assert "votes:" not in seen
        assert "0001-ppo" not in seen
        assert [str(p.border_title) for p in page.query(AnswerPane)] == ["A", "B"]

    at_compare(project, steps)
    tally = Ballot(evaluated.folder, seed=0).tally
    assert (tally.tuned, tally.base, tally.ties, tally.skipped) == (3, 1, 2, 0)
    assert tally.unchanged == 1


def test_revealing_names_the_sides_and_spends_the_pair(project: Project, evaluated: Run) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        side = tuned_side(page)
        first = shown(app, "#prompt-text")
        await pilot.press("o")
        titles = [str(p.border_title) for p in page.query(AnswerPane)]
        assert titles[0 if side == "a" else 1].endswith("0001-ppo")
        assert titles[1 if side == "a" else 0].endswith("base")
        assert "tuned wins 83%" in shown(app, "#advice")
        await pilot.press("a", "b", "t")
        assert "o goes on" in shown(app, "#echo")
        await pilot.press("o")
        assert [str(p.border_title) for p in page.query(AnswerPane)] == ["A", "B"]
        assert shown(app, "#prompt-text") != first
        await pilot.press("u")
        assert shown(app, "#echo").strip() == "Nothing to undo"

    at_compare(project, steps)
    tally = Ballot(evaluated.folder, seed=0).tally
    assert (tally.votes, tally.skipped) == (0, 1)


def test_the_end_tells_the_win_rate_with_its_interval(project: Project, evaluated: Run) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        await vote_tuned(pilot, page, 30, against=8)
        await pilot.press("t")
        text = shown(app, "#words-text")
        assert "You preferred tuned in 30 of 38 (79 %, 95 % 64-89 %), 1 tie" in text
        assert "better by your own taste" in text
        assert "the reward model: tuned wins 83%" in text
        assert "KL to the base 3.20" in text
        assert "41, tuned 55" in text
        assert "changed on 10 of 20 prompts" in text
        assert footer_width(app) <= 80

    at_compare(project, steps)


def test_where_nothing_scored_the_answers_the_votes_alone_tell(project: Project) -> None:
    policy = add_run(project, "dpo", events.Finished())
    values = {**RESULT, "judge": None, "win_rate": None, "win_rate_interval": None}
    run = add_run(project, "eval", events.Result(values=values), events.Finished())
    answer(run, policy.name)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        assert page.asking
        await vote_tuned(pilot, page, 31, against=8)
        text = shown(app, "#words-text")
        assert "You preferred tuned in 31 of 39 (79 %, 95 % 64-89 %)" in text
        assert "no reward model or judge scored these answers: your votes do" in text
        assert "KL to the base 3.20" in text
        assert "tuned wins" not in text
        assert "None" not in text

    at_compare(project, steps)


def test_who_ran_out_of_pairs_before_there_were_enough_learns_how_to_get_more(project: Project) -> None:
    policy = add_run(project, "dpo", events.Finished())
    run = add_run(project, "eval", events.Result(values=dict(RESULT)), events.Finished())
    answer(run, policy.name, prompts=3)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        await vote_tuned(pilot, page, 5)
        text = " ".join(shown(app, "#words-text").split())
        assert "5 of 30 votes: not enough to tell" in text
        assert f"rlhf-lite eval {project.root} --samples N" in text

    at_compare(project, steps)


def test_votes_become_labels_after_a_second_key(project: Project, evaluated: Run) -> None:
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": f"Q{n}?"}] for n in range(20)])

    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        await vote_tuned(pilot, page, 3)
        await pilot.press("l")
        with project.labels() as store:
            assert store.counts().labelled == 0, "asked first"
        await pilot.press("l")
        assert "3 new labels" in shown(app, "#echo")

    at_compare(project, steps)
    with project.labels() as store:
        assert [p.chosen.split()[0] for p in store.preferences()] == ["tuned"] * 3


def test_without_an_evaluation_enter_starts_one_and_the_page_fills_when_it_ends(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = add_run(project, "ppo", events.Finished())
    started: list[Run] = []

    def evaluate(*_: object) -> stages.Prepared:
        started.append(add_run(project, "eval"))
        return stages.Prepared(started[0])

    monkeypatch.setattr("rlhf_lite.stages.evaluate", evaluate)
    monkeypatch.setattr("rlhf_lite.jobs.spawn", lambda *_, **__: None)
    monkeypatch.setattr("rlhf_lite.jobs.alive", lambda run: run.stage == "eval" and not done)
    done: list[bool] = []

    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        assert "0001-ppo has not been compared" in shown(app, "#words-text")
        await pilot.press("enter")
        assert "answer the held-out prompts" in shown(app, "#words-text")
        await pilot.press("enter")
        assert len(started) == 1
        log = EventWriter(started[0].events_path)
        log.write(events.Progress(what="answers of base", done=3, total=8))
        await until(pilot, lambda: "answers of base 3/8" in everything(page))
        answer(started[0], policy.name)
        log.write(events.Finished())
        done.append(True)
        await until(pilot, lambda: page.asking)

    at_compare(project, steps)


def test_an_older_evaluation_is_not_of_the_newer_policy(project: Project, evaluated: Run) -> None:
    add_run(project, "ppo", events.Finished())

    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        assert "0003-ppo has not been compared" in shown(app, "#words-text")

    at_compare(project, steps)


def test_before_anything_is_tuned_it_says_what_is_missing(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        assert "Nothing is tuned yet" in shown(app, "#words-text")
        assert "DPO, which needs no reward model" in shown(app, "#words-text")
        await pilot.press("a", "o", "l", "u", "z")
        assert app.screen is page

    at_compare(project, steps)


def test_damaged_votes_are_an_error_page_not_a_crash(project: Project, evaluated: Run) -> None:
    (evaluated.folder / "votes.jsonl").write_text("{}\n")

    async def steps(app: RlhfApp, pilot: Pilot[None], page: ComparePage) -> None:
        await pilot.press("enter", "enter")

    async def main() -> None:
        app = RlhfApp(project.root, page="compare")
        async with app.run_test() as pilot:
            await pilot.pause()
            assert "damaged at line 1" in shown(app, ".what")
            await pilot.press("escape")
            await pilot.pause()
            assert app.screen.is_attached

    asyncio.run(main())
