"""The label page by its keys: what is on disk afterwards, and what the person sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from at_the_keys import footer_width, shown, until
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from rlhf_lite import events, stages
from rlhf_lite.events import EventWriter
from rlhf_lite.labels import LabelStore
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import Inputs, Preset
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.screens.label import LabelPage
from rlhf_lite.tui.widgets.answers import AnswerPane, AnswerPanes, differing

SHORT, LONG = "Short.", "A longer answer, with more words in it."
Steps = Callable[[RlhfApp, Pilot[None], LabelPage], Awaitable[None]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("RLHF_LITE_NAME", "me")
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def add_pairs(project: Project, count: int, prompt: str = "Question {}?") -> None:
    with project.labels() as store, store.transaction():
        store.add_prompts([[{"role": "user", "content": prompt.format(n)}] for n in range(count)])
        for p in store.prompts():
            store.add_pair(p.id, SHORT, LONG, origin="0001-generate")


def decide(project: Project, count: int) -> None:
    """As if the person had chosen A so often before."""
    with project.labels() as store, store.transaction():
        for pair in store.unlabelled(count):
            store.label(pair.id, "a", judge="person:me", seconds=2.0)


def at_label(
    project: Project, steps: Steps, *, size: tuple[int, int] = (80, 24), ascii: bool = False
) -> None:
    async def main() -> None:
        app = RlhfApp(project.root, page="label", ascii=ascii)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            page = app.screen
            assert isinstance(page, LabelPage)
            await steps(app, pilot, page)

    asyncio.run(main())


def panes(page: LabelPage) -> tuple[str, str]:
    found = page.query_one(AnswerPanes).shown
    return found["left"], found["right"]


def told(app: RlhfApp) -> str:
    return shown(app, "#echo").strip()


def stored(project: Project) -> LabelStore:
    return project.labels()


def test_a_key_labels_what_is_on_that_side_and_shows_the_next_pair(project: Project) -> None:
    add_pairs(project, 4)
    seen: list[str] = []

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        for key, side, words in (("a", 0, "A better"), ("right", 1, "B better"), ("B", 1, "B much better")):
            before = shown(app, "#prompt-text")
            seen.append(panes(page)[side])
            await pilot.press(key)
            assert told(app) == f"{words} · u to undo"
            assert shown(app, "#prompt-text") != before
            with stored(project) as store:  # on disk before the next pair is looked at
                assert store.counts().labelled == len(seen)

    at_label(project, steps)
    with stored(project) as store:
        found = store.preferences()
    assert [p.chosen for p in found] == seen
    assert [p.margin for p in found] == [0.0, 0.0, 1.0]


def test_tie_both_bad_and_skip(project: Project) -> None:
    add_pairs(project, 5)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("t", "equals_sign", "x", "s", "space")

    at_label(project, steps)
    with stored(project) as store:
        counts = store.counts()
    assert (counts.tie, counts.both_bad, counts.skipped, counts.a + counts.b) == (2, 1, 2, 0)


def test_undo_goes_back_further_than_this_sitting(project: Project) -> None:
    add_pairs(project, 6)

    async def label(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("a", "b", "t")

    async def undo(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("a", "u", "u", "backspace", "u")
        assert told(app).startswith("Taken back")
        assert "Question 0?" in shown(app, "#prompt-text")
        await pilot.press("u")
        assert told(app) == "Nothing to undo"

    at_label(project, label)
    at_label(project, undo)
    with stored(project) as store:
        assert store.counts().labelled == 0
        assert store.waiting() == 6


def test_a_better_answer_makes_two_pairs_and_an_example(project: Project) -> None:
    add_pairs(project, 2)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("e")
        await pilot.pause()
        area = app.screen.query_one(TextArea)
        assert area.text == panes(page)[0], "begins with A"
        await pilot.press("f3", "f3", "h", "i", "a", "b", "f2")
        await pilot.pause()
        assert "beats both" in told(app)
        assert "Question 1?" in shown(app, "#prompt-text")

    at_label(project, steps)
    with stored(project) as store:
        assert [(p.chosen, p.rejected) for p in store.preferences()] in (
            [("hiab", SHORT), ("hiab", LONG)], [("hiab", LONG), ("hiab", SHORT)],
        )  # fmt: skip
        assert [text for _, text in store.demonstrations()] == ["hiab"]


def test_an_edit_that_is_cancelled_or_changes_nothing_labels_nothing(project: Project) -> None:
    add_pairs(project, 2)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("e", "escape")
        await pilot.press("e", "f2")
        await pilot.pause()
        assert app.screen is not page, "an error page says why"
        await pilot.press("escape")
        assert "Question 0?" in shown(app, "#prompt-text")

    at_label(project, steps)
    with stored(project) as store:
        assert store.counts().labelled == store.counts().skipped == 0


def test_flag_note_and_guidelines_are_kept(project: Project) -> None:
    add_pairs(project, 2)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("f")
        assert "[flagged]" in shown(app, "#prompt-text")
        await pilot.press("n", *"bad", "space", *"tie", "enter")
        assert page.focused is None or not isinstance(page.focused, Input), "the letters are keys again"
        await pilot.press("g")
        await pilot.pause()
        await pilot.press(*"be", "f2")
        await pilot.pause()

    at_label(project, steps)
    with stored(project) as store:
        mark = store.mark(1)
        assert (mark.flagged, mark.note) == (True, "bad tie")
        assert store.counts().labelled == 0, "what was typed labelled nothing"
    assert (project.root / "guidelines.md").read_text() == "be"


def test_a_click_picks_and_a_second_one_chooses(project: Project) -> None:
    add_pairs(project, 3)
    seen: list[str] = []

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        seen.append(panes(page)[1])
        await pilot.click("#right")
        with stored(project) as store:
            assert store.counts().labelled == 0, "one click may be an accident"
        await pilot.click("#right")
        await pilot.pause()
        seen.append(panes(page)[0])
        await pilot.click("#right")
        await pilot.click("#left")
        await pilot.press("enter")

    at_label(project, steps)
    with stored(project) as store:
        assert [p.chosen for p in store.preferences()] == seen


def test_zoom_gives_one_answer_the_whole_width(project: Project) -> None:
    add_pairs(project, 1)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        both = page.query_one("#left").size.width
        visible = []
        for _ in range(3):
            await pilot.press("z")
            await pilot.pause()
            visible.append([p.id for p in page.query(AnswerPane) if p.display])
            if len(visible) == 1:
                assert page.query_one("#left").size.width > 1.8 * both
        assert visible == [["left"], ["right"], ["left", "right"]]

    at_label(project, steps)


def test_word_differences_are_marked_on_both_sides() -> None:
    left, right = differing("rinse it in cold water", "rinse it in hot  water now")
    marked = [[t.plain[s.start : s.end] for s in t.spans if s.style] for t in (left, right)]
    assert marked == [["cold"], ["hot", "now"]]
    assert right.plain == "rinse it in hot  water now", "the text stays as it was"


def test_a_long_prompt_is_three_rows_until_it_is_opened(project: Project) -> None:
    add_pairs(project, 1, "Question {}: " + "word " * 120 + "end")

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        assert page.query_one("#prompt").size.height == 3
        assert "p: all" in shown(app, "#prompt-text")
        await pilot.press("p")
        await pilot.pause()
        assert "end" in shown(app, "#prompt-text")
        assert page.query_one("#prompt").size.height > 3

    at_label(project, steps)


@pytest.mark.parametrize(
    ("size", "ascii"),
    [((60, 20), False), ((70, 40), True), ((80, 24), True), ((120, 36), False), ((250, 80), False)],
)
def test_every_size_shows_both_answers_and_the_keys(
    project: Project, size: tuple[int, int], ascii: bool
) -> None:
    add_pairs(project, 2)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        left, right = page.query_one("#left").region, page.query_one("#right").region
        stacked = left.bottom <= right.y
        assert stacked == (size[0] < 76)
        assert min(left.height, right.height) >= 4
        assert footer_width(app) <= size[0]
        await pilot.press("A", "u")
        if ascii:
            text = "".join(s.text for y in range(size[1]) for s in page._compositor.render_strips()[y])
            assert all(ord(c) < 0x2500 or ord(c) > 0x28FF for c in text), (
                "no box, block or braille characters"
            )

    at_label(project, steps, size=size, ascii=ascii)


def test_what_a_model_wrote_cannot_touch_the_terminal_or_the_markup(project: Project) -> None:
    with stored(project) as store:
        store.add_prompts([[{"role": "user", "content": "[bold]Q[/nope] \x1b[2J"}]])
        store.add_pair(1, "[red]x[/oops]\x1b]0;gone\x07", "\x1b[31m plain", origin="t")

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("d")
        text = "".join(s.text for line in page._compositor.render_strips() for s in line)
        assert "\x1b" not in text
        assert "gone" not in text
        assert "[red]x[/oops]" in text

    at_label(project, steps)


def test_the_figures_appear_and_warn(project: Project) -> None:
    add_pairs(project, 45)
    decide(project, 25)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await until(pilot, lambda: "25/45" in shown(app, "#stats"))
        assert shown(app, "#advice").strip() == ""
        for _ in range(7):
            await pilot.press("a")
        await until(pilot, lambda: "100% of 3" in shown(app, "#advice"))
        assert "A 100%" in shown(app, "#stats")
        assert "/h" in shown(app, "#stats")

    at_label(project, steps, size=(100, 30))


def test_the_end_is_a_summary_and_the_beginning_a_hint(project: Project) -> None:
    async def empty(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        assert shown(app, "#words-text").startswith("No pairs yet")
        await pilot.press("a", "u", "e", "n", "d", "z")  # nothing to do them to
        assert app.screen is page

    async def full(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("a", "t", "f", "b")
        text = shown(app, "#words-text")
        assert "Every pair is labelled" in text
        assert "3 labelled: 2 decided, 1 tie, 0 both bad; 0 skipped" in text
        assert "1 flagged" in text
        await pilot.press("u")
        assert "Question 2?" in shown(app, "#prompt-text")
        await pilot.press("b", "enter")
        await pilot.pause()
        assert getattr(app.screen, "PAGE_NAME", "") == "reward"

    at_label(project, empty)
    add_pairs(project, 3)
    at_label(project, full)


def run_of(project: Project, stage: str) -> tuple[str, EventWriter]:
    inputs = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, Preset())
    return run.name, EventWriter(run.events_path)


def test_pairs_that_a_job_stores_meanwhile_appear(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    _, log = run_of(project, "generate")
    log.write(events.Started(stage="generate", pid=1))
    monkeypatch.setattr("rlhf_lite.jobs.alive", lambda _: True)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await until(pilot, lambda: "is making pairs" in shown(app, "#words-text"))
        add_pairs(project, 2)
        log.write(events.Progress(what="pairs", done=2, total=10))
        await until(pilot, lambda: page.asking)
        assert "Question 0?" in shown(app, "#prompt-text")
        await pilot.press("a", "a")
        assert "is making pairs" in shown(app, "#words-text")

    at_label(project, steps)


def test_after_25_decided_a_refit_is_offered_and_its_accuracy_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pairs(project, 40)
    decide(project, 23)
    asked: list[tuple[str, int]] = []
    alive = {"now": True}
    logs: list[EventWriter] = []

    def train(_: Project, preset: Preset, stage: str, reward: object) -> stages.Prepared:
        asked.append((stage, preset.reward.epochs))
        name, log = run_of(project, stage)
        log.write(events.Started(stage=stage, pid=1))
        logs.append(log)
        return stages.Prepared(project.run(name))

    monkeypatch.setattr("rlhf_lite.stages.train", train)
    monkeypatch.setattr("rlhf_lite.jobs.spawn", lambda *_, **__: None)
    monkeypatch.setattr("rlhf_lite.jobs.alive", lambda _: alive["now"])

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        while "25 decided: r" not in shown(app, "#advice"):
            assert len(asked) == 0
            await pilot.press("a")
            await pilot.pause()
        await pilot.press("r")
        assert asked == [("reward", 2)]
        assert "is learning" in shown(app, "#advice")
        await pilot.press("a")
        assert "A better" in told(app), "labelling goes on"
        result = {"accuracy": 0.75, "pairs_heldout": 8, "pairs_train": 20, "accuracy_interval": [0.4, 0.9]}
        logs[0].write(events.Result(values=dict(result)))
        logs[0].write(events.Finished())
        alive["now"] = False
        await until(pilot, lambda: "right on 75% (40% to 90%) of 8 held-out labels" in shown(app, "#advice"))

    at_label(project, steps, size=(100, 30))


def test_the_user_may_move_a_key(project: Project, place: Path) -> None:
    add_pairs(project, 2)
    config = place.parent / "state" / "config.toml"
    config.write_text(f"[keys]\n{json.dumps('label.left')} = 'h'\n")

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("h")
        assert told(app).startswith("A better")

    at_label(project, steps)


@pytest.mark.parametrize("animations", ["basic", "none"])
def test_the_chosen_side_flashes_unless_animations_are_off(project: Project, animations: str) -> None:
    add_pairs(project, 2)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        app.animation_level = animations  # pyright: ignore[reportAttributeAccessIssue]
        page.choose("right", False)
        assert [p.id for p in page.query(".-won")] == (["right"] if animations == "basic" else [])
        await until(pilot, lambda: not page.query(".-won"))

    at_label(project, steps)


@pytest.mark.parametrize("theme", ["", "ansi-dark", "textual-light"])
def test_it_works_without_colour(project: Project, theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add_pairs(project, 3)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("RLHF_LITE_THEME", theme)

    async def steps(app: RlhfApp, pilot: Pilot[None], page: LabelPage) -> None:
        await pilot.press("d", "a", "n", "escape")
        await pilot.click("#left")
        assert "Enter chooses it" in str(page.query_one("#left").border_title), "in words"
        await pilot.press("e", "escape", "x")
        assert told(app).startswith("Both bad")

    at_label(project, steps)
