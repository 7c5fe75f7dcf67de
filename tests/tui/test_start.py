"""The first start, a new project, and finding one again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from at_the_keys import drive, footer_width, highlighted, page, rows, shown, until, write
from textual.pilot import Pilot

from rlhf_lite import config, doctor, memory, paths
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import ErrorPage
from rlhf_lite.tui.screens import preview
from rlhf_lite.tui.screens.new import NewPage
from rlhf_lite.tui.widgets.ask import AskLine


@pytest.fixture(autouse=True)
def no_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "rendered", lambda root, wanted: [("<user>", 1) for _ in wanted])


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[doctor.Check]:
    found = [doctor.Check("Python", True, "3.12"), doctor.Check("disk", False, "0.1 GiB free", "free some")]
    monkeypatch.setattr(doctor, "check", lambda: found)
    return found


def read(app: RlhfApp) -> str:
    """Everything that the doctor's page shows."""
    return app.export_screenshot(simplify=True).replace("&#160;", " ")


def test_the_first_start_shows_what_the_machine_has_once(checks: list[doctor.Check]) -> None:
    (paths.state() / "welcomed").unlink()

    async def first(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert page(app) == "doctor"
        await until(pilot, lambda: "disk" in shown(app, "#state"))
        assert all(
            words in read(app)
            for words in ("✔ ok", "✘ to do", "0.1 GiB free", "free some", "⣇⣧⣷⣿", "magenta")
        )
        await pilot.press("enter")
        await pilot.pause()
        assert page(app) == "home"

    async def second(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert page(app) == "home"
        await pilot.press("d")
        await pilot.pause()
        assert page(app) == "doctor"

    drive(first)
    drive(second)


def test_who_opens_a_project_by_name_at_the_first_start_gets_it(tmp_path: Path) -> None:
    (paths.state() / "welcomed").unlink()
    project = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert page(app) == "home"
        assert app.desk.project is not None

    drive(steps, project.root)


def test_the_doctor_names_who_holds_the_gpu(
    checks: list[doctor.Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = (memory.Holder(1, "firefox", 2**30), memory.Holder(2, "Xorg", 0))
    gib = memory.GIB
    monkeypatch.setattr(memory, "read", lambda: memory.Memory("gpu", "RTX", 12 * gib, gib, 11 * gib, holders))
    checks.pop()

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("d")
        await until(pilot, lambda: "Everything needed is here" in shown(app, "#state"))
        assert "11.0 GiB free; held by firefox 1.0 GiB, Xorg" in read(app)

    drive(steps)


def test_without_a_gpu_the_doctor_says_that_the_demo_works(
    checks: list[doctor.Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "read", lambda: memory.Memory("cpu", "RAM", 8, 4, 4))
    checks.pop()

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("d")
        await until(pilot, lambda: "built-in demo model" in shown(app, "#state"))

    drive(steps)


def test_the_deep_check_lives_while_it_works_and_its_failure_is_told(
    checks: list[doctor.Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go = threading.Event()

    def deep() -> list[doctor.Check]:
        go.wait(5)
        raise OSError("no such program")

    monkeypatch.setattr(doctor, "deep_check", deep)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("d")
        await until(pilot, lambda: "To do: disk" in shown(app, "#state"))
        await pilot.press("d")
        await pilot.pause()
        assert "in a process of their own: 0 s" in shown(app, "#state")
        go.set()
        await until(pilot, lambda: isinstance(app.screen, ErrorPage))
        assert isinstance(app.screen, ErrorPage)
        assert "no such program" in app.screen.error.why

    drive(steps)


def test_two_keys_make_a_project_on_the_demo_and_its_prompts_come_next(place: Path) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n")
        await pilot.pause()
        assert page(app) == "new"
        assert "demo: built in" in " ".join(rows(app))
        await pilot.press("enter")
        await until(pilot, lambda: page(app) == "prompts")
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "home"
        await pilot.press("n")
        await pilot.pause()
        assert "my-project-2" in rows(app)[1], "the page begins afresh"

    drive(steps)
    file = Project.open(place / "my-project").file
    assert (file.name, file.model, file.preset) == ("my-project", "demo", "demo")
    assert config.recent() == [place / "my-project"]


def test_a_new_project_on_a_large_card_gets_the_weights_that_the_page_names(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = memory.GIB
    monkeypatch.setattr(memory, "read", lambda: memory.Memory("gpu", "RTX", 80 * gib, gib, 79 * gib))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.push_screen(NewPage("Qwen/Qwen2.5-0.5B-Instruct"))
        await pilot.pause()
        assert "16-bit weights: training takes" in shown(app, "#note")
        await pilot.press("enter")
        await until(pilot, lambda: page(app) == "prompts")

    drive(steps)
    assert Project.open(place / "my-project").file.quantization == "16bit"


def test_name_folder_and_preset_can_be_set_and_the_letters_typed_are_no_keys(
    place: Path, tmp_path: Path
) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n", "f")
        line = app.screen.query_one(AskLine).line
        line.value = f"{tmp_path}/elsewhere/"
        await pilot.press("end")
        await write(pilot, "x")
        await pilot.press("enter", "n")
        line.value = ""
        await write(pilot, "pirate-qp")
        await pilot.press("enter", "p")
        await pilot.pause()
        assert highlighted(app) == "preset"
        await pilot.press("c")
        await until(pilot, lambda: page(app) == "prompts")

    drive(steps)
    assert Project.open(tmp_path / "elsewhere" / "pirate-qp").file.preset == "default"
    assert not place.exists()


def test_a_preset_of_ones_own_is_taken_by_its_path_and_a_wrong_one_refused_as_by_the_command(
    place: Path, tmp_path: Path
) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('about = "short and bold"\n[ppo]\nsteps = 3\n')
    refused = subprocess.run(
        [sys.executable, "-m", "rlhf_lite", "new", str(tmp_path / "x"), "--model", "demo", "--preset", "nine.toml"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n", "P")
        await write(pilot, "nine.toml")
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        error = app.screen.error
        assert all(part in refused.stderr for part in (error.message, error.why, error.hint))
        await pilot.press("escape", "P")
        app.screen.query_one(AskLine).line.value = str(own)
        await pilot.press("enter")
        await pilot.pause()
        assert any("mine.toml: short and bold" in row for row in rows(app))
        await pilot.press("c")
        await until(pilot, lambda: page(app) == "prompts")

    drive(steps)
    assert Project.open(place / "my-project").file.preset == str(own)


def test_a_folder_that_is_in_use_is_refused_and_nothing_typed_is_lost(place: Path) -> None:
    (place / "taken").mkdir(parents=True)
    (place / "taken" / "letter.txt").touch()

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n", "n")
        app.screen.query_one(AskLine).line.value = "taken"
        await pilot.press("enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorPage))
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "new"
        assert "taken" in rows(app)[1]

    drive(steps)


def test_escape_leaves_the_line_first_and_the_page_second() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n", "n")
        assert app.screen.query_one(AskLine).display
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "new"
        assert not app.screen.query_one(AskLine).display
        await pilot.press("escape")
        await pilot.pause()
        assert page(app) == "home"

    drive(steps)


def test_a_project_is_found_again_and_one_that_vanished_says_so(tmp_path: Path) -> None:
    for name in ("first", "second"):
        config.remember(Project.create(tmp_path / name, ProjectFile(name=name, model="demo")).root)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("o")
        await pilot.pause()
        assert [name in row for name, row in zip(("second", "first"), rows(app), strict=True)] == [True, True]
        shutil.rmtree(tmp_path / "second")
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert "does not exist" in app.screen.error.message
        await pilot.press("escape")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert page(app) == "home"
        assert app.desk.project is not None
        assert app.desk.project.file.name == "first"

    drive(steps)


def test_any_folder_can_be_opened_by_its_path(tmp_path: Path) -> None:
    Project.create(tmp_path / "other", ProjectFile(name="other", model="demo"))

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("o")
        await pilot.pause()
        assert "No project was opened here yet" in shown(app, "#about")
        await pilot.press("p")
        line = app.screen.query_one(AskLine).line
        line.value = str(tmp_path / "oth")
        await until(pilot, lambda: line._suggestion.endswith("other/"))
        await pilot.press("end", "right", "enter")
        await pilot.pause()
        assert app.desk.project is not None
        assert app.desk.project.file.name == "other"

    drive(steps)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (250, 80)])
def test_every_key_of_the_footer_fits(size: tuple[int, int], checks: list[doctor.Check]) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        for name in ("new", "open", "doctor", "model"):
            app.show(name)
            for _ in range(50):  # a footer is composed after its page
                await pilot.pause(0.05)
                if footer_width(app) > 10:
                    break
            assert 10 < footer_width(app) <= size[0], name

    drive(steps, size=size, ascii=True)
