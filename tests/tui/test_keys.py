"""One registry of keys: what the footer shows is in the help, in the palette and in the config, and moves for real."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from at_the_keys import drive, until
from made import a_run
from textual.binding import Binding
from textual.events import Key as Pressed
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite import config
from rlhf_lite.errors import UserError
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import load_preset
from rlhf_lite.tui import keys, keysets, words
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.keys import Key
from rlhf_lite.tui.page import ErrorPage, Page
from rlhf_lite.tui.screens.delete import DeletePage
from rlhf_lite.tui.screens.help import HelpPage
from rlhf_lite.tui.screens.pages import SCREENS
from rlhf_lite.tui.screens.quit import QuitPage
from rlhf_lite.tui.screens.replay import OverlayPage, ReplayPage
from rlhf_lite.tui.screens.writing import WritingPage

BY_TURNS = {
    frozenset({"chat.stop", "chat.neither", "chat.unedit", "chat.back"}),
    frozenset({"chat.older", "chat.left"}),
}
"""Actions that share a key because only one of them is ever there."""
UNRELIABLE = re.compile(r"(ctrl|shift|alt)\+enter|ctrl\+[imjhsq]$")
RIGHT_HAND = re.compile(
    r"[67890yuiophjklnm]|.*(bracket|minus|equals|comma|stop|slash|semicolon|quot|enter|backspace)"
)
GIVEN_NONE = object()
TABLES = (*keys.PAGES, *keys.WIDGETS, "app")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """With a run of each kind that a page needs."""
    project = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    for scale in (1.0, 2.0):
        a_run(project, "ppo", 8, scale=scale, samples=1)
    return project


MODAL: dict[str, Callable[[RlhfApp], Screen[object]]] = {
    "error": lambda app: ErrorPage(UserError("what", why="why", hint="next")),
    "quit": lambda app: QuitPage([]),
    "writing": lambda app: WritingPage("title", [("one", "a"), ("two", "b")]),
    "delete": lambda app: DeletePage(app.desk.feed.runs[0].run) if app.desk.feed else Screen(),
    "help": lambda app: HelpPage(app.screen),
    "replay": lambda app: (
        ReplayPage(app.desk.feed.runs[0], load_preset("demo")) if app.desk.feed else Screen()
    ),
    "overlay": lambda app: OverlayPage(*app.desk.feed.runs[:2]) if app.desk.feed else Screen(),
}  # pyright: ignore[reportAssignmentType]
"""Pages that are not opened by name."""
OPENED = {keys.page_of(make()): name for name, make in SCREENS.items()}


async def show(app: RlhfApp, pilot: Pilot[None], page: str) -> Screen[object]:
    """Open a page, whatever it is opened by."""
    if page in MODAL:
        app.push_screen(MODAL[page](app))
    else:
        app.show(OPENED[page])
    await until(pilot, lambda: keys.page_of(app.screen) == page)
    await pilot.pause()
    return app.screen


# --- the registry itself


def test_every_page_that_can_be_opened_has_keys_and_every_table_a_page() -> None:
    for name, make in SCREENS.items():
        page = make()
        assert isinstance(page, Page), name
        assert page.PAGE in keys.PAGES, f"{name}: {page.PAGE} has no keys"
        assert keys.page_of(page) == page.PAGE, f"{name} binds the keys of {keys.page_of(page)}"
        assert page.PAGE_NAME, f"{name} has no name"
    known = {*OPENED, *MODAL}
    assert set(keys.PAGES) <= known, "keys of no page"


def test_ids_are_unique_and_name_their_page() -> None:
    ids = Counter(key.id for key in keys.every())
    assert [id for id, times in ids.items() if times > 1] == []
    for page in TABLES:
        assert all(key.id.startswith(f"{page}.") for key in keys.table(page))


@pytest.mark.parametrize("key_set", [*keysets.SETS])
def test_no_two_actions_of_a_page_want_one_key(key_set: str) -> None:
    moved = keysets.keymap(key_set, {})
    for page in TABLES:
        for key, ids in keysets.clashes(keys.table(page), moved).items():
            assert frozenset(ids) in BY_TURNS, f"{key} is wanted by {ids} in {key_set}"


@pytest.mark.parametrize("key_set", [*keysets.SETS])
def test_keys_that_terminals_swallow_are_never_the_only_ones(key_set: str) -> None:
    moved = keysets.keymap(key_set, {})
    for key in keys.every():
        assert any(not UNRELIABLE.match(one) for one in keysets.split(moved.get(key.id, key.keys))), key.id


def test_key_sets_name_actions_that_exist_and_config_names_the_same_sets() -> None:
    known = {key.id for key in keys.every()}
    for name, moved in keysets.SETS.items():
        assert set(moved) <= known, name
        config.set_value("key_set", name)
        assert config.load().key_set == name
    assert set(words.WORDS) <= known | {f"compare.{name}" for name in words.LONGER}


def test_a_list_never_takes_a_letter_of_its_page() -> None:
    """A list has the focus, and so its keys win over those of the page around it."""
    for key_set in keysets.SETS:
        moved = keysets.keymap(key_set, {})
        taken = {one for key in keys.table("list") for one in keysets.split(moved.get(key.id, key.keys))}
        for page in ("new", "open", "model", "prompts", "runs", "settings"):
            own = {
                one: key.id for key in keys.table(page) for one in keysets.split(moved.get(key.id, key.keys))
            }
            assert not taken & own.keys(), f"{key_set}: {[own[one] for one in taken & own.keys()]}"


def test_the_left_hand_reaches_all_that_a_footer_shows() -> None:
    moved = keysets.keymap("left-hand", {})
    for key in (*keys.APP, *(key for page in keys.PAGES.values() for key in page)):
        if key.footer:
            spelt = keysets.split(moved.get(key.id, key.keys))
            plain = [one for one in spelt if "+" not in one and one not in ("left", "right", "up", "down")]
            reach = [one for one in plain if not RIGHT_HAND.fullmatch(one.lower())]
            ctrl = [one for one in spelt if one.startswith("ctrl+") and not RIGHT_HAND.fullmatch(one[5:])]
            assert reach or ctrl, f"{key.id}: {spelt}"


# --- footer, help, palette, config


@pytest.mark.parametrize("page", [*keys.PAGES])
def test_what_the_footer_shows_is_in_help_and_palette_and_moves(
    page: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new key of each action is pressed, and the action is seen to happen; the old ones do nothing any more."""
    table = keys.table(page)
    moved = {key.id: f"ctrl+f{number}" for number, key in enumerate(table, 1)}
    config_file = config.paths.config_file()
    config_file.write_text(
        "[keys]\n" + "".join(f'"{id}" = "{to}"\n' for id, to in moved.items()), encoding="utf-8"
    )

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        screen = await show(app, pilot, page)
        happened = watch(monkeypatch, screen, table)
        commands = {command.help.split()[0]: command for command in app.get_system_commands(screen)}
        assert {key.id for key in table} <= commands.keys(), "not in the palette"
        await press(app, pilot, list(moved.values()))
        if len(happened) < len(table):  # a letter is no key beside an input that has the focus
            screen.set_focus(None)
            await press(app, pilot, [moved[key.id] for key in table if key.action not in happened])
        assert sorted(happened) == sorted(key.action for key in table), "moved, and not heard"
        happened.clear()
        old = [one for key in table for one in keysets.split(key.keys)]
        await press(app, pilot, [one for one in old if one not in ("question_mark", "f1", "escape")])
        assert happened == [], "old keys still do something"
        helped = HelpPage(screen)
        app.push_screen(helped)
        await pilot.pause()
        told = read(helped)
        for number, key in enumerate(table, 1):
            assert key.id in told, f"{key.id} is not in the help"
            assert re.search(rf"\^f{number}\b.*{re.escape(key.id)}", told), (
                f"{key.id}: the help shows another key"
            )

    drive(steps, project.root, size=(100, 30))


async def press(app: RlhfApp, pilot: Pilot[None], pressed: list[str]) -> None:
    """All of them, and then one wait."""
    for key in pressed:
        app.post_message(Pressed(key, None))
    await pilot.pause()
    await pilot.pause()


def watch(monkeypatch: pytest.MonkeyPatch, screen: Screen[object], table: tuple[Key, ...]) -> list[str]:
    """Every action of the table is noted instead of done; that it exists is checked first."""
    happened: list[str] = []

    def noting(action: str) -> Callable[..., None]:
        name, bracket, _ = action.partition("(")

        def note(self: Widget, first: object = GIVEN_NONE, second: object = GIVEN_NONE) -> None:
            told = ", ".join(repr(parameter) for parameter in (first, second) if parameter is not GIVEN_NONE)
            happened.append(f"{name}({told})" if bracket else name)

        return note

    everywhere = [screen, *screen.query("*")]
    for key in table:
        method = f"action_{key.action.partition('(')[0]}"
        owners = {type(node) for node in everywhere if binds(node, key) and hasattr(node, method)}
        assert owners, f"{key.id}: no {method} where it is bound"
        for owner in owners:
            monkeypatch.setattr(owner, method, noting(key.action))
    ours = {
        cls for node in everywhere for cls in type(node).__mro__ if cls.__module__.startswith("rlhf_lite")
    }
    for cls in ours:
        if "check_action" in vars(cls):
            monkeypatch.setattr(cls, "check_action", lambda self, action, parameters: True)
    return happened


def binds(node: Widget, key: Key) -> bool:
    """Whether the node itself has this key among its bindings."""
    return any(binding.id == key.id for bound in node._bindings.key_to_bindings.values() for binding in bound)


def read(page: HelpPage) -> str:
    """Everything that the help says, a row a line."""
    from rich.console import Console

    console = Console(width=90, no_color=True)
    with console.capture() as told:
        console.print(page.query_one("#keys", Static).content)
    return told.get()


def test_the_apps_own_keys_are_in_every_palette_and_help_and_move(project: Project) -> None:
    config.set_value("keys.app.help", "f9")
    config.set_value("keys.app.theme", "f10")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        commands = {command.help.split()[0] for command in app.get_system_commands(app.screen)}
        assert {key.id for key in keys.APP} - {"app.palette"} <= commands
        before = app.theme
        await pilot.press("f10")
        assert app.theme != before
        await pilot.press("question_mark", "f9")
        await pilot.pause()
        assert isinstance(app.screen, HelpPage)
        told = read(app.screen)
        assert all(key.id in told for key in keys.APP)
        assert re.search(r"f9 .*app\.help", told)

    drive(steps, project.root)


@pytest.mark.parametrize("name", SCREENS)
def test_every_page_says_in_its_help_what_it_is_for(name: str) -> None:
    """Keys alone do not tell that: none is left out."""
    page = SCREENS[name]()
    assert isinstance(page, Page)
    assert page.HELP_TEXT.count(". ") >= 1, "a sentence or two"
    assert page.HELP_TEXT.endswith(".")


def test_the_help_begins_with_what_the_page_is_for() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("n", "question_mark")
        await pilot.pause()
        assert isinstance(app.screen, HelpPage)
        told = " ".join(read(app.screen).split())
        assert told.startswith("A project is a folder: a model, its prompts, your labels and every run.")

    drive(steps)


def test_vim_users_move_through_lists_with_j_and_k(project: Project) -> None:
    config.set_value("key_set", "vim")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        screen = await show(app, pilot, "runs")
        rows = screen.query_one("#runs")
        assert rows.highlighted == 0  # pyright: ignore[reportAttributeAccessIssue]
        await pilot.press("j")
        assert rows.highlighted == 1  # pyright: ignore[reportAttributeAccessIssue]
        await pilot.press("k")
        assert rows.highlighted == 0  # pyright: ignore[reportAttributeAccessIssue]

    drive(steps, project.root)


def test_wrong_keys_of_the_user_are_told_once_and_the_app_works_on() -> None:
    config.paths.config_file().write_text('[keys]\n"home.opne" = "f5"\n"home.chat" = "r"\n', encoding="utf-8")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down", "k")
        await pilot.pause()
        told = [notification.message for notification in app._notifications]
        assert len(told) == 2
        assert "home.opne, which does not exist; did you mean home.open?" in told[0]
        assert told[1] == "[keys] gives r to home.chat; home.runs had it too"

    drive(steps)


def test_moving_a_key_with_several_spellings_to_one_is_no_clash() -> None:
    assert keysets.complaints({"home.down": "w"}) == []
    assert keysets.complaints({"home.down": "n", "home.new": "x"}) == []
    assert "home.new" in keysets.complaints({"home.down": "n"})[0]


def test_every_binding_of_a_page_comes_from_the_registry() -> None:
    known = {key.id for key in keys.every()}
    for make in SCREENS.values():
        page = type(make())
        own = [
            b
            for cls in page.__mro__
            if cls.__module__.startswith("rlhf_lite")
            for b in vars(cls).get("BINDINGS", [])
        ]
        for binding in own:
            assert isinstance(binding, Binding)
            assert binding.id in known, f"{page.__name__}: {binding.key} has no id"
