"""Home and the training pages, driven by keys; the jobs are told by what jobs write: events, locks, controls."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from rlhf_lite import events, jobs
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, load_preset
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import ErrorPage, Page
from rlhf_lite.tui.screens.stage import StagePage
from rlhf_lite.tui.widgets.chart import BrailleChart
from rlhf_lite.tui.widgets.jobline import JobLine

Steps = Callable[[RlhfApp, Pilot[None]], Awaitable[None]]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def drive(project: Project | None, steps: Steps, size: tuple[int, int] = (80, 24)) -> None:
    async def main() -> None:
        app = RlhfApp(project.root if project else None)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(main())


def ppo_run(project: Project, steps: int) -> tuple[Run, EventWriter]:
    inputs = Inputs(stage="ppo", project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, load_preset("demo"))
    log, noise = EventWriter(run.events_path), random.Random(0)
    log.write(events.Started(stage="ppo", pid=1))
    for step in range(1, steps + 1):
        log.write(measured(step, step * 0.1 + noise.gauss(0, 0.02), step * 0.2))
        log.write(events.Progress(what="PPO steps", done=step, total=16))
    return run, log


def measured(step: int, score: float, kl: float) -> events.Metrics:
    values = {
        "objective/scores": score,
        "objective/kl": kl,
        "objective/kl_coef": 0.05,
        "objective/entropy": 0.4,
        "completion_length": 36.0,
        "val/num_eos_tokens": 1.0,
        "lr": 1e-3,
        "seconds": 5.0,
    }
    return events.Metrics(step=step, values=values)


def shown(app: RlhfApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def page(app: RlhfApp) -> str:
    assert isinstance(app.screen, Page)
    return app.screen.PAGE_NAME


def test_without_a_project_home_says_how_to_get_one() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("home")
        await pilot.pause()
        assert "n  makes a new one" in shown(app, "#empty")
        offered = {binding.binding.key for binding in app.screen.active_bindings.values() if binding.enabled}
        assert {"n", "o"} <= offered
        assert not {"c", "r"} & offered  # a chat and runs of nothing

    drive(None, steps)


def test_a_number_opens_its_step_and_escape_comes_back(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        assert page(app) == "ppo"
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "home"

    drive(project, steps)


def test_a_page_that_does_not_exist_is_told_and_the_app_stays(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("nowhere")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert "nowhere" in app.screen.error.why
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "home"

    drive(project, steps)


def test_what_cannot_start_yet_is_told_in_three_parts_and_starts_nothing(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("ppo")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert app.screen.error.hint
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "ppo"

    drive(project, steps)
    assert project.runs() == []


def test_a_live_run_is_drawn_as_it_goes_and_keys_reach_it(project: Project) -> None:
    run, log = ppo_run(project, 6)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        assert "PPO steps 6/16" in shown(app, "#line")
        assert "Healthy" in shown(app, "#health")
        log.write(measured(7, 0.7, 9.9))
        log.write(events.Progress(what="PPO steps", done=7, total=16))
        await pilot.pause(0.6)
        assert "PPO steps 7/16" in shown(app, "#line")
        await pilot.press("k", "space")
        await pilot.pause()
        assert "paused after its step; space goes on" in shown(app, "#line")
        await pilot.press("space")
        await pilot.pause()
        assert "paused" not in shown(app, "#line")

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps)
    asked = [json.loads(line) for line in run.control_path.read_text().splitlines()]
    assert asked == [
        {"type": "set", "name": "kl_coef", "value": 0.025},
        {"type": "pause"},
        {"type": "resume"},
    ]


def test_the_way_to_the_first_step_is_shown_in_words(project: Project) -> None:
    run, log = ppo_run(project, 0)
    log.write(events.Progress(what="loading the model", done=1, total=1))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        for what, done in (("answers to held-out prompts", 0), ("value updates", 3), ("PPO steps", 0)):
            log.write(events.Progress(what=what, done=done, total=16))
            await pilot.pause(0.4)
            assert f"{what} {done}/16" in shown(app, "#line")
            assert f"{done / 16:.0%}" in shown(app, "#line")

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps)


@pytest.mark.parametrize(
    ("kl", "words"),
    [
        (2.0, "At the end: healthy, reward rising, KL 2.0 under target"),
        (6.5, "At the end: KL 6.5 is over its target of 5.0."),
    ],
)
def test_a_run_that_is_over_is_told_as_over(project: Project, kl: float, words: str) -> None:
    """And nobody is told to wait for what will not happen."""
    run, log = ppo_run(project, 0)
    for step in range(1, 17):
        log.write(measured(step, step * 0.1, kl))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        assert "At the end" not in shown(app, "#health")
        log.write(events.Finished())
        held.close()
        await pilot.pause(1.5)
        assert words in shown(app, "#health")
        assert "wait" not in shown(app, "#health")

    with ExitStack() as held:
        held.enter_context(jobs.hold_lock(jobs.lock_path(run), "1"))
        drive(project, steps)


def test_a_job_that_has_the_device_is_named_until_it_ends(project: Project) -> None:
    inputs = Inputs(stage="generate", project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, load_preset("demo"))
    EventWriter(run.events_path).write(events.Started(stage="generate", pid=1))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        assert shown(app, "#result").endswith("It waits for 0001-generate.")
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert app.screen.error.message == "it waits for 0001-generate"
        await pilot.press("escape")
        held.close()
        await pilot.pause(1.5)
        assert shown(app, "#result").endswith("Enter starts it.")

    with ExitStack() as held:
        held.enter_context(jobs.hold_lock(jobs.lock_path(run), "1"))
        drive(project, steps)


def test_the_line_has_the_coefficient_as_it_is_now(project: Project) -> None:
    run, log = ppo_run(project, 3)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        assert "KL coef 0.05" in shown(app, "#line")
        log.write(events.Changed(step=3, name="kl_coef", value=0.1, why="asked for"))
        await pilot.pause(0.6)
        assert "KL coef 0.1" in shown(app, "#line")
        log.write(measured(4, 0.4, 1.0))
        await pilot.pause(0.6)
        assert "KL coef 0.05" in shown(app, "#line")

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps)


def test_a_long_run_has_its_whole_line_in_80_columns(project: Project) -> None:
    run, log = ppo_run(project, 3)
    log.write(events.Saved(step=100, path=""))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        line, watched = app.screen.query_one(JobLine), app.desk.feed and app.desk.feed.runs[0]
        assert watched
        for done in range(95, 101):
            watched.status.progress["PPO steps"] = (done, 200)
            line.note(watched, now=40.0 * done)
        told = shown(app, "#line").splitlines()[1]
        assert told == "PPO steps 100/200 · 40 s each · 1 h 07 min left · KL coef 0.05 · saved at 100"
        assert len(told) <= line.size.width

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps)


def test_before_a_run_all_of_what_it_will_do_is_on_the_page(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("ppo")
        await pilot.pause()
        about = app.screen.query_one("#about")
        assert shown(app, "#result").endswith("Enter starts it.")
        assert about.size.height >= about.virtual_size.height
        assert not about.show_vertical_scrollbar

    drive(project, steps)


def test_a_coefficient_changes_before_the_first_step_and_twice_by_two_presses(project: Project) -> None:
    run, _ = ppo_run(project, 0)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        await pilot.press("k", "k", "K", "right_square_bracket")

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps)
    asked = [json.loads(line) for line in run.control_path.read_text().splitlines()]
    assert [a["value"] for a in asked] == [0.15, 0.075, 0.15, 2e-3]


def test_steps_that_were_rolled_back_leave_the_chart_and_the_reason_is_said(project: Project) -> None:
    run, log = ppo_run(project, 6)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await pilot.pause()
        log.write(events.Resumed(from_step=4))
        log.write(events.Changed(step=4, name="learning_rate", value=5e-4, why="a loss is not finite"))
        await pilot.pause(0.6)
        chart = app.screen.query(BrailleChart).first()
        assert "step 4" in "".join(chart.render_line(y).text for y in range(chart.size.height))
        assert "learning_rate is now 0.0005 (a loss is not finite)" in shown(app, "#result")
        assert "olled back" in shown(app, "#health")

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps, size=(100, 40))


def test_the_extra_charts_come_from_110_columns_on(project: Project) -> None:
    ppo_run(project, 3)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        for width, charts in ((80, 2), (110, 4), (60, 2)):
            await pilot.resize_terminal(width, 40)
            await pilot.pause()
            assert sum(c.display for c in app.screen.query(BrailleChart)) == charts

    drive(project, steps)


def test_quitting_while_a_job_runs_asks_and_leaves_it_running(project: Project) -> None:
    run, _ = ppo_run(project, 3)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("q")
        await pilot.pause()
        assert "still running" in str(app.screen.query_one(".what", Static).render())
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "home"
        await pilot.press("q", "k")
        await pilot.pause()
        assert app.return_code == 0

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(project, steps)
        assert jobs.alive(run)


@pytest.mark.parametrize("stage", ["ppo", "reward", "sft", "dpo"])
def test_every_size_is_drawn(project: Project, stage: str) -> None:
    ppo_run(project, 5)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show(stage)
        for width, height in ((20, 8), (59, 30), (60, 20), (76, 20), (110, 32), (250, 80)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            assert isinstance(app.screen, StagePage)
            small = app.screen.query_one(".too-small")
            assert small.display == (width < 60 or height < 20)

    drive(project, steps)
