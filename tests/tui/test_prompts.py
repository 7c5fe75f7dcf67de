"""Prompts & answers: taking prompts in, seeing them as the model does, and sampling pairs."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from at_the_keys import drive, footer_width, highlighted, page, rows, shown, until, write
from textual import events as textual_events
from textual.pilot import Pilot

from rlhf_lite import events, jobs, starting
from rlhf_lite.errors import DataError
from rlhf_lite.events import EventWriter
from rlhf_lite.formats import read_prompts
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import ErrorPage
from rlhf_lite.tui.screens import preview
from rlhf_lite.tui.widgets.ask import AskLine

RENDERED = preview.rendered


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


@pytest.fixture(autouse=True)
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that renders, without its five seconds of loading."""
    monkeypatch.setattr(
        preview, "rendered", lambda root, wanted: [(f"[user] {m[-1]['content']} [/user]", 7) for m in wanted]
    )


def ask(project: Project, *prompts: str) -> None:
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": text}] for text in prompts])


def texts(project: Project) -> list[str]:
    with project.labels() as store:
        return [p.text for p in store.prompts()]


def test_every_pack_is_read_without_a_refusal_and_without_repeats() -> None:
    packs = starting.packs()
    assert {"examples", "everyday", "writing"} <= set(packs)
    for path in packs.values():
        good, bad = read_prompts(path)
        found = [messages[-1]["content"] for messages in good]
        assert len(found) >= 30
        assert len(set(found)) == len(found)
        assert bad == []


def test_enter_adds_the_pack_then_samples_and_the_first_prompts_are_seen_as_the_model_sees_them(
    project: Project,
) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert page(app) == "prompts"
        assert "No prompts yet. Enter adds" in shown(app, "#state")
        await pilot.press("enter")
        await until(pilot, lambda: "300 prompts added" in shown(app, "#state"))
        await until(pilot, lambda: "[user]" in shown(app, "#preview"))
        assert "7 tokens" in shown(app, "#preview")
        assert highlighted(app) == "generate"

    drive(steps, project.root)
    assert len(texts(project)) == 300


def test_own_prompts_are_typed_or_pasted_and_letters_are_no_keys_meanwhile(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await pilot.pause()
        await pilot.press("w")
        await write(pilot, "why sing?")
        await pilot.press("enter")
        app.screen.query_one(AskLine).line.post_message(
            textual_events.Paste("One\n\nTwo?\n  Three [b]x[/b]  ")
        )
        await pilot.pause()
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "prompts"
        assert shown(app, "#counts").startswith("4 prompts")
        await until(pilot, lambda: "Three [b]x[/b]" in shown(app, "#preview"))

    drive(steps, project.root)
    assert texts(project) == ["why sing?", "One", "Two?", "Three [b]x[/b]"]


def test_a_file_is_taken_by_its_path_and_a_wrong_path_is_told(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("First?\nSecond?\nFirst?\n")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await pilot.pause()
        for name in ("mine.txt", "nowhere.txt"):
            await pilot.press("f")
            app.screen.query_one(AskLine).line.value = str(tmp_path / name)
            await pilot.press("enter")
            if name == "mine.txt":
                await until(
                    pilot, lambda: "2 prompts added, 1 known already, 0 refused" in shown(app, "#state")
                )
        await until(pilot, lambda: isinstance(app.screen, ErrorPage))

    drive(steps, project.root)


def test_imported_preferences_are_counted_and_refused_rows_are_shown_with_file_and_line(
    project: Project, tmp_path: Path
) -> None:
    good = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}
    (tmp_path / "p.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps({'prompt': 'x'})}\nnonsense\n")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await pilot.pause()
        await pilot.press("i")
        app.screen.query_one(AskLine).line.value = str(tmp_path / "p.jsonl")
        await pilot.press("enter")
        await until(pilot, lambda: "1 rows imported, 0 known already, 2 refused" in shown(app, "#state"))
        assert "p.jsonl:2:" in shown(app, "#state")
        assert "p.jsonl:3:" in shown(app, "#state")
        assert "1 labelled" in shown(app, "#counts")

    drive(steps, project.root)


def test_rendering_is_said_at_once_and_why_it_cannot_be_is_said_in_words(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(project, "Tea?")
    go = threading.Event()

    def broken(root: Path, wanted: object) -> list[preview.Rendered]:
        go.wait(5)
        raise DataError("the chat template fails", why="line 3", hint="mend it")

    monkeypatch.setattr(preview, "rendered", broken)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await pilot.pause()
        assert "Rendering" in shown(app, "#preview")
        go.set()
        await until(pilot, lambda: "the chat template fails\nline 3\nmend it" in shown(app, "#preview"))

    drive(steps, project.root)


def test_sampling_shows_its_progress_and_labelling_is_offered_while_it_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(project, *(f"Question {n}?" for n in range(20)))
    stopped: list[str] = []
    monkeypatch.setattr(jobs, "spawn", lambda run, **_: None)
    monkeypatch.setattr(jobs, "stop", lambda run: stopped.append(run.name))

    def sampled(log: EventWriter, count: int) -> None:
        with project.labels() as store:
            for prompt in store.prompts()[:count]:
                store.add_pair(prompt.id, "Yes.", "No, never.", origin="0001-generate")
        log.write(events.Progress(what="pairs", done=count, total=15))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await pilot.press("n", "backspace", "backspace", "backspace", "1", "5", "enter")
        assert any("Sample 15 pairs" in text for text in rows(app))
        with ExitStack() as lock:
            await pilot.press("g")
            run = project.runs()[0]
            assert run.settings().inputs.limit == 15
            assert highlighted(app) != "stop", "a second Enter must not stop what the first began"
            lock.enter_context(jobs.hold_lock(jobs.lock_path(run), "1"))
            log = EventWriter(run.events_path)
            log.write(events.Started(stage="generate", pid=1))
            sampled(log, 5)
            await until(pilot, lambda: "pairs 5/15" in shown(app, "#line"))
            assert "l labels them while" not in shown(app, "#state")
            sampled(log, 12)
            await until(pilot, lambda: "12 pairs are ready: l labels them while" in shown(app, "#state"))
            await pilot.press("s")
            assert stopped == [run.name]
            log.write(
                events.Result(values={"pairs": 12, "prompts": 20, "skipped_identical": 3, "seconds": 2.5})
            )
            log.write(events.Finished())
        await until(pilot, lambda: "3 left out, their answers being alike" in shown(app, "#state"))
        assert highlighted(app) == "label"

    drive(steps, project.root)


def test_without_prompts_sampling_says_what_is_missing(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await until(pilot, lambda: "No prompts yet" in shown(app, "#state"))
        await pilot.press("g")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert "no prompts" in app.screen.error.message

    drive(steps, project.root)
    assert project.runs() == []


def test_a_model_that_is_not_here_leads_to_its_download(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "big", ProjectFile(name="big", model="Qwen/Qwen3-0.6B"))
    ask(project, "Tea?")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await until(pilot, lambda: "is not on this machine yet: m, then d" in shown(app, "#state"))
        await pilot.press("g")
        await pilot.pause()
        assert page(app) == "model"

    drive(steps, project.root)
    assert project.runs() == []


@pytest.mark.parametrize("size", [(60, 20), (250, 80)])
def test_every_key_of_the_footer_fits(project: Project, size: tuple[int, int]) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.show("prompts")
        await pilot.pause()
        assert 10 < footer_width(app) <= size[0]

    drive(steps, project.root, size=size, ascii=True)


@pytest.mark.long
def test_the_real_session_renders_with_the_models_own_template(project: Project) -> None:
    [(text, tokens)] = RENDERED(project.root, [[{"role": "user", "content": "Tea?"}]])
    assert text == "<|im_start|>user\nTea?<|im_end|>\n<|im_start|>assistant\n"
    assert tokens > 3
