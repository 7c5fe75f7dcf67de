"""The model page: what fits is said against free memory, other models can be named, and a download can be watched."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from at_the_keys import drive, highlighted, page, rows, shown, until, write
from textual.pilot import Pilot
from textual.widgets import OptionList

from rlhf_lite import catalog, events, hub, jobs, memory, paths, planning, starting
from rlhf_lite.errors import UserError
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import ErrorPage
from rlhf_lite.tui.screens import modelwords

GIB = memory.GIB
SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def card(total: float, free: float) -> memory.Memory:
    return memory.Memory("gpu", "RTX", int(total * GIB), int((total - free) * GIB), int(free * GIB))


@pytest.fixture(autouse=True)
def twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 12 GiB, 10 of them free, and a hub's cache without anything."""
    monkeypatch.setattr(memory, "read", lambda: card(12, 10))
    monkeypatch.setattr(starting, "_cached", list)
    monkeypatch.setattr(hub, "find", lambda model: paths.demo_model() if model == "demo" else None)


def row(app: RlhfApp, model: str) -> str:
    return next(text for text in rows(app) if model in text)


async def at_models(app: RlhfApp, pilot: Pilot[None]) -> None:
    app.show("model")
    await until(pilot, lambda: app.screen.query(OptionList) and len(rows(app)) > 10)


def test_fit_is_told_against_what_is_free_and_not_against_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    need = starting.peak(catalog.find_model("Qwen/Qwen3-1.7B"), starting.preset_of("x"), "nf4")[1].bytes / GIB

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        for free, said in ((need / 0.74, "✔ fits"), (need / 0.94, "≈ tight"), (need / 0.96, "✘ no")):
            monkeypatch.setattr(memory, "read", lambda free=free: card(48, free))
            app.show("home")
            await at_models(app, pilot)
            await until(pilot, lambda said=said: said in row(app, "Qwen3-1.7B"))

    drive(steps)


def test_the_largest_that_fits_is_recommended_and_another_card_recommends_another() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n", "m")
        await until(pilot, lambda: app.screen.query(OptionList) and len(rows(app)) > 10)
        assert highlighted(app) == "demo", "what the new project had"
        await pilot.press("S")
        await write(pilot, "12")
        await pilot.press("enter")
        await pilot.pause()
        assert highlighted(app) == "Qwen/Qwen3-4B"
        assert "a card of 12 GiB" in shown(app, "#detail")
        await pilot.press("S")
        await write(pilot, "80")
        await pilot.press("enter")
        await pilot.pause()
        assert highlighted(app) == "Qwen/Qwen2.5-7B-Instruct"
        await pilot.press("enter")
        await pilot.pause()
        assert page(app) == "new"
        assert any("Qwen2.5-7B" in text for text in rows(app))

    drive(steps)


def test_without_a_project_enter_makes_one_on_the_row() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at_models(app, pilot)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert page(app) == "new"
        assert "Llama-3.2-3B" in rows(app)[3], "the one below Qwen2.5-3B, which fits into 10 GiB"
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "home"

    drive(steps)


def test_what_does_not_fit_names_the_nearest_change_and_the_sum_can_be_seen() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at_models(app, pilot)
        await pilot.press("end")
        await pilot.pause()
        detail = shown(app, "#detail")
        assert "It does not fit: 10.0 of 12.0 GiB free" in detail
        assert "Nearest that fits:" in detail
        assert "optimizer" not in detail
        await pilot.press("i")
        await pilot.pause()
        assert "optimizer" in shown(app, "#detail")
        assert "would be on for the warm-up, the reward model, PPO, DPO; off for nothing" in shown(
            app, "#detail"
        )

    drive(steps)


def test_every_stage_of_the_plan_has_a_name_for_people() -> None:
    stages = planning.plan(catalog.find_model("demo"), starting.preset_of("demo"), "nf4").stages
    assert set(stages) == set(modelwords.STAGES)


def test_the_filter_narrows_the_disk_key_hides_and_an_empty_list_says_what_to_press() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at_models(app, pilot)
        await pilot.press("slash")
        await write(pilot, "smol")
        assert len(rows(app)) == 3
        await write(pilot, "zzz")
        assert "Press / and change the filter" in shown(app, "#detail")
        await pilot.press(*["backspace"] * 7, "escape", "o")
        await pilot.pause()
        assert [text.split()[2] for text in rows(app)] == ["demo"]

    drive(steps)


def test_a_pasted_id_is_looked_up_and_one_that_cannot_be_is_kept_with_question_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(name: str) -> starting.Choice:
        if name == "no/where":
            raise UserError("the size of no/where is not known", hint="check the name")
        return starting.Choice(name, catalog.MODELS[1], on_disk=False)

    monkeypatch.setattr(starting, "look_up", look_up)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at_models(app, pilot)
        await pilot.press("slash")
        await write(pilot, "some/Model-1")
        await pilot.press("enter")
        await until(pilot, lambda: "362 M" in row(app, "some/Model-1"))
        assert highlighted(app) == "some/Model-1"
        await pilot.press("slash")
        await write(pilot, "no/where")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorPage))
        await pilot.press("escape")
        await pilot.pause()
        assert row(app, "no/where").count("?") == 5
        assert "nobody can say whether it fits" in shown(app, "#detail")

    drive(steps)


def test_without_a_gpu_other_models_are_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "read", lambda: memory.Memory("cpu", "RAM", 32 * GIB, 2 * GIB, 30 * GIB))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at_models(app, pilot)
        assert highlighted(app) == "demo"
        assert "✔ fits" in row(app, "demo")
        assert "≈ slow" in row(app, "Qwen3-0.6B")
        await pilot.press("down")
        await pilot.pause()
        assert "trains for days" in shown(app, "#detail")

    drive(steps)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_row_and_its_heading_stay_in_one_line_each(width: int) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at_models(app, pilot)
        heading = shown(app, "#head")
        room = app.screen.query_one(OptionList).scrollable_content_region.width
        for text in rows(app):
            assert len(text) == len(heading) <= room
            assert text.endswith(("GiB", "MiB"))
        name = "SmolLM2-360M-Instruct" if width == 60 else "SmolLM2-360M-Instruct   "
        assert name in row(app, "SmolLM2-360M")
        assert ("Chat" in heading) == (width >= 80)

    drive(steps, size=(width, 20))


def test_a_download_shows_bytes_pace_and_time_left_is_stopped_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.create(tmp_path / "mine", ProjectFile(name="mine", model=SMALL))
    stopped: list[str] = []
    monkeypatch.setattr(jobs, "spawn", lambda run, **_: None)
    monkeypatch.setattr(jobs, "stop", lambda run: stopped.append(run.name))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("model")
        await until(pilot, lambda: app.screen.query(OptionList) and highlighted(app) == SMALL)
        assert "d downloads it" in shown(app, "#detail")
        with ExitStack() as lock:
            await pilot.press("d")
            run = project.runs()[0]
            assert run.stage == "download"
            lock.enter_context(jobs.hold_lock(jobs.lock_path(run), "1"))
            log = EventWriter(run.events_path)
            log.write(events.Started(stage="download", pid=1))
            for done in (10, 30, 70):
                log.write(events.Progress(what="bytes", done=done * 10**6, total=270 * 10**6))
                await until(pilot, lambda done=done: f"{done} MB of 270 MB" in shown(app, "#line"))
            assert "MB/s" in shown(app, "#line")
            assert "left" in shown(app, "#line")
            await pilot.press("x")
            assert stopped == [run.name]
            log.write(events.Stopped(step=0))
        await until(pilot, lambda: "stopped · d goes on from there" in shown(app, "#line"))

    drive(steps, project.root)
