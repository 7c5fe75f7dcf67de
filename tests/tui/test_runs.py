"""Runs again: replayed, overlaid, started anew, deleted; their samples and logs; a bug report without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from at_the_keys import drive, footer_width, page, rows, shown, until
from made import a_run, measured
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Static

from rlhf_lite import bugreport, events, jobs, paths
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import load_preset, override, write_toml
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.feed import Feed
from rlhf_lite.tui.page import ErrorPage
from rlhf_lite.tui.screens.delete import DeletePage
from rlhf_lite.tui.screens.help import HelpPage
from rlhf_lite.tui.widgets.chart import BrailleChart


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def drawn(app: RlhfApp, title: str) -> dict[int, float]:
    """Steps and values of the first line of a chart."""
    chart = next(c for c in app.screen.query(BrailleChart) if c.title.lower() == title.lower())
    line = next(iter(chart._plot.series.values()))
    return dict(zip(line.steps, line.values, strict=True))


async def open_runs(app: RlhfApp, pilot: Pilot[None]) -> None:
    await pilot.press("r")
    await until(pilot, lambda: page(app) == "runs" and "KiB" in shown(app, "#detail"))


def test_every_run_has_a_row_with_what_came_of_it(project: Project) -> None:
    a_run(project, "generate")
    a_run(project, "ppo", 30)
    a_run(project, "ppo", 4, end="")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        died, ppo, generate = rows(app)
        assert [
            word for word in ("0002 ppo", "29", "+0.8", "0.5", "Healthy: reward") if word not in ppo
        ] == [], ppo
        assert "0003 ppo" in died
        assert "ended without a word" in died
        assert "finished" in generate
        await pilot.press("down")
        assert "KiB" in shown(app, "#detail")

    drive(steps, project.root, size=(110, 30))


def test_a_run_replays_step_by_step_as_it_stood_then(project: Project) -> None:
    run = a_run(project, "ppo", 40, samples=1)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert page(app) == "replay"
        assert "step 39 of 39" in shown(app, "#head")
        assert drawn(app, "Reward") == pytest.approx(
            {s: measured("ppo", s).values["objective/scores"] for s in range(40)}
        )
        assert "at step 35" in shown(app, "#sample")
        await pilot.press("left", "left", "left", "left", "left")
        await pilot.pause()
        assert "step 34 of 39" in shown(app, "#head")
        assert max(drawn(app, "Reward")) == 34
        assert "at step 30" in shown(app, "#sample")
        await pilot.press("home")
        await pilot.pause()
        assert "measuring" in shown(app, "#health")
        assert len(drawn(app, "KL to the reference")) == 1
        await pilot.press("end")
        await pilot.pause()
        assert "Healthy" in shown(app, "#health")
        await pilot.press("space")
        await until(pilot, lambda: "step 2 of" in shown(app, "#head") and "playing" in shown(app, "#head"))
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "runs"

    drive(steps, project.root)
    assert run.status().ended == "finished"


@pytest.mark.parametrize("stage", ["reward", "dpo", "sft"])
def test_every_training_stage_replays_and_the_others_say_why_not(project: Project, stage: str) -> None:
    a_run(project, stage, 10)
    a_run(project, "export")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert page(app) == "runs"
        assert any("measured nothing" in n.message for n in app._notifications)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert page(app) == "replay"
        assert len(drawn(app, "Loss")) == 10

    drive(steps, project.root)


def test_two_marked_runs_are_drawn_in_one_chart(project: Project) -> None:
    for scale in (1.0, 2.0, 3.0):
        a_run(project, "ppo", 20, scale=scale)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        await pilot.press("space", "o")
        await pilot.pause()
        assert page(app) == "runs"
        await pilot.press("down", "down", "space")
        assert [row[0] for row in rows(app)] == ["●", " ", "●"]
        await pilot.press("o")
        await pilot.pause()
        assert page(app) == "overlay"
        chart = app.screen.query_one(BrailleChart)
        assert chart.title == "reward"
        ends = {name: line.values[-1] for name, line in chart._plot.series.items()}
        assert ends["0003-ppo"] == pytest.approx(3 * ends["0001-ppo"])
        await pilot.press("m")
        assert chart.title.startswith("KL")

    drive(steps, project.root)


def test_a_run_is_started_again_with_its_own_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = a_run(project, "reward", 3)
    old = a_run(project, "ppo", 5, reward=str(reward.adapter))
    frozen = old.settings()
    tuned = override(load_preset("demo"), ["ppo.steps=77"])
    write_toml(old.folder / "settings.toml", type(frozen)(inputs=frozen.inputs, preset=tuned))
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": "hello"}]])
    spawned: list[Run] = []

    class Process:
        def poll(self) -> None:
            return None

    def spawn(run: Run, *, trusted_function: str = "") -> Process:
        spawned.append(run)
        return Process()

    monkeypatch.setattr(jobs, "spawn", spawn)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        await pilot.press("c")
        await pilot.pause()
        assert page(app) == "ppo"

    drive(steps, project.root)
    assert [run.name for run in spawned] == ["0003-ppo"]
    assert spawned[0].settings().preset.ppo.steps == 77
    assert spawned[0].settings().inputs.reward == str(reward.adapter)


def test_a_run_is_deleted_after_one_question_and_says_what_that_frees(project: Project) -> None:
    a_run(project, "sft", 3)
    gone = a_run(project, "ppo", 3)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        await pilot.press("x")
        await pilot.pause()
        assert isinstance(app.screen, DeletePage)
        await pilot.press("enter")
        await pilot.pause()
        assert gone.folder.exists()
        await pilot.press("x", "x")
        await until(pilot, lambda: len(rows(app)) == 1)
        assert any("0002-ppo is deleted" in n.message and "KiB" in n.message for n in app._notifications)

    drive(steps, project.root)
    assert not gone.folder.exists()
    assert [r.name for r in project.runs()] == ["0001-sft"]


@pytest.mark.parametrize("named", ["start", "reward", "policies"])
def test_a_run_that_another_one_started_from_stays_and_the_other_is_named(
    project: Project, named: str
) -> None:
    first = a_run(project, "reward" if named == "reward" else "sft", 3)
    inputs: dict[str, Any] = {named: (str(first.adapter),) if named == "policies" else str(first.adapter)}
    a_run(project, "ppo", 3, **inputs)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_runs(app, pilot)
        await pilot.press("down", "x")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert first.name in app.screen.error.message
        assert "0002-ppo" in app.screen.error.why

    drive(steps, project.root)
    assert first.folder.exists()


def test_a_running_one_is_never_deleted(project: Project) -> None:
    run = a_run(project, "ppo", 3, end="")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("r", "x")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert "is running" in app.screen.error.message

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(steps, project.root)
    assert run.folder.exists()


def test_old_runs_are_read_when_somebody_asks(project: Project) -> None:
    a_run(project, "ppo", 5)
    feed = Feed(project)
    (watched,) = feed.runs
    assert watched.untouched
    assert feed.busy == []
    assert watched.state == "finished"
    assert len(watched.status.metrics) == 5
    assert feed.poll() == []


# --- samples


def test_samples_stand_beside_what_the_base_said(project: Project) -> None:
    a_run(project, "ppo", 21, samples=2)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("samples")
        await pilot.pause()
        told = shown(app, "#samples")
        assert "prompt 0" in told
        assert "prompt 1" in told
        assert "answer 1 at step 0" in told
        assert "now  reward +2.00" in told
        assert "answer 1 at step 20" in told
        await pilot.press("left", "left")
        await pilot.pause()
        told = shown(app, "#samples")
        assert "answer 1 at step 10" in told
        assert "answer 1 at step 20" not in told
        assert "at step 10 (3 of 5)" in shown(app, "#head")
        await pilot.press("end")
        await pilot.pause()
        assert "answer 1 at step 20" in shown(app, "#samples")

    drive(steps, project.root)


def test_without_samples_the_page_says_what_it_will_show(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("samples")
        await pilot.pause()
        assert "No samples yet" in shown(app, "#samples")

    drive(steps, project.root)


# --- log and bug report


def test_the_log_shows_the_last_lines_and_grows_with_the_run(project: Project) -> None:
    old, run = a_run(project, "sft", 1), a_run(project, "ppo", 1, end="")
    run.log_path.write_text(
        "".join(f"line {n}\n" for n in range(900)) + "10%\r20%\r30% [red]\n", encoding="utf-8"
    )

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+l")
        await pilot.pause()
        told = shown(app, "#lines").splitlines()
        assert (len(told), told[0], told[-1]) == (500, "line 401", "30% [red]")
        box = app.screen.query_one("#scroll", VerticalScroll)
        await until(pilot, lambda: box.scroll_y == box.max_scroll_y)
        with run.log_path.open("a", encoding="utf-8") as file:
            file.write("the newest line\n")
        log = EventWriter(run.events_path)
        log.write(events.Note(text="hello"))
        await until(pilot, lambda: "the newest line" in shown(app, "#lines"))
        await pilot.press("p")
        assert f"{old.name} says hello" in shown(app, "#lines")
        await pilot.press("a")
        assert "Nothing went wrong" in shown(app, "#lines")

    with jobs.hold_lock(jobs.lock_path(run), "1"):
        drive(steps, project.root)


def test_a_bug_report_is_copied_and_written_without_secrets(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = a_run(project, "ppo", 2)
    run.log_path.write_text("using hf_abcdefGHIJKLmnopqrstuv\nOSError: no file\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+l", "c")
        await until(pilot, lambda: "written to" in shown(app, "#written"))
        (file,) = paths.state().glob("bug-report-*.txt")
        assert str(file) in shown(app, "#written")
        text = file.read_text(encoding="utf-8")
        assert app.clipboard == text
        assert all(
            words in text
            for words in ("rlhf-lite 0", "Run 0001-ppo", "OSError: no file", "[inputs]", "textual")
        )
        assert "hf_abc" not in text
        assert str(tmp_path) not in text

    drive(steps, project.root)


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefGHIJKLmnopqrstuv",
        "ghp_0123456789abcdef0123",
        "sk-proj-0123456789abcdef0123",
        "Authorization: Bearer abc.def-ghi_jkl",
        "https://somebody:hunter22@example.com/model",
        'password = "hunter22"',
        "WANDB_API_KEY=hunter22hunter22",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefgh",
    ],
)
def test_secrets_are_hidden(secret: str) -> None:
    told = bugreport.redacted(f"before {secret} after")
    assert told.startswith("before ")
    assert told.endswith(" after")
    for part in ("abcdef", "hunter22", "abc.def", "eyJ"):
        assert part not in told
    assert bugreport.HIDDEN in told


def test_values_of_secret_variables_home_and_name_are_hidden_and_words_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-strange-looking-one")
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("LOGNAME", "jane")
    text = "a-strange-looking-one /home/jane/models /home/janet/x /media/jane/disk 512 tokens: many, token ids the same"
    told = bugreport.redacted(text)
    assert (
        told
        == f"{bugreport.HIDDEN} ~/models /home/janet/x /media/<me>/disk 512 tokens: many, token ids the same"
    )


# --- all of them


@pytest.mark.parametrize("size", [(60, 20), (80, 24)])
@pytest.mark.parametrize("name", ["runs", "log", "samples", "settings"])
def test_every_key_of_the_footer_fits(name: str, size: tuple[int, int], project: Project) -> None:
    for _ in range(2):
        a_run(project, "ppo", 6, samples=1)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show(name)
        await pilot.pause()
        if name == "runs":
            await pilot.press("space", "down", "space")
        assert 10 < footer_width(app) <= size[0]
        if name == "runs":
            for keys, inner in (("enter", "replay"), ("o", "overlay")):
                await pilot.press(keys)
                await pilot.pause()
                assert page(app) == inner
                assert 10 < footer_width(app) <= size[0]
                await pilot.press("escape")
                await pilot.pause()

    drive(steps, project.root, size=size, ascii=size[0] == 80)


@pytest.mark.parametrize("size", [(60, 20), (120, 36)])
def test_the_help_fits_scrolls_and_closes(size: tuple[int, int], project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("r", "question_mark")
        await pilot.pause()
        assert isinstance(app.screen, HelpPage)
        box = app.screen.query_one(VerticalScroll)
        assert app.screen.query_one("Footer").region.bottom <= size[1]
        assert "Every run stays here" in read(app)
        await pilot.press("pagedown", "pagedown", "pagedown")
        await pilot.pause()
        assert box.scroll_y == box.max_scroll_y
        assert "left hand alone" in " ".join(read(app).split())
        await pilot.press("question_mark")
        await pilot.pause()
        assert page(app) == "runs"

    drive(steps, project.root, size=size)


def read(app: RlhfApp) -> str:
    """What the screen shows."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def test_help_knows_the_keys_that_were_moved(project: Project) -> None:
    from rlhf_lite import config

    config.set_value("keys.home.runs", "f7")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await pilot.pause()
        assert app.screen.query_one("#keys", Static)
        (row,) = [line for line in read(app).splitlines() if "home.runs" in line]
        assert " f7 " in row

    drive(steps, project.root, size=(100, 40))
