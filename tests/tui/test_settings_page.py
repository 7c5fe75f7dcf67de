"""The user's settings: shown with their origin, changed on the page, kept in the file as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from at_the_keys import drive, highlighted, page, rows, shown, until, write
from textual.pilot import Pilot
from textual.theme import Theme

from rlhf_lite import config, paths
from rlhf_lite.tui import themes
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.page import ErrorPage
from rlhf_lite.tui.widgets.ask import AskLine


async def at(app: RlhfApp, pilot: Pilot[None], name: str) -> None:
    """Open the page, and its row of that name."""
    await pilot.press("comma")
    await until(pilot, lambda: page(app) == "settings" and rows(app))
    while highlighted(app) != name:
        await pilot.press("down")


def row(app: RlhfApp, name: str) -> str:
    (found,) = [r for r in rows(app) if r.strip().startswith(name)]
    return " ".join(found.split())


def test_every_value_is_there_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    paths.config_file().write_text('name = "jane"\n', encoding="utf-8")
    monkeypatch.setenv("RLHF_LITE_NOTIFY", "off")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at(app, pilot, "notify")
        assert len(rows(app)) == len(config.described())
        assert row(app, "name") == "name jane your file"
        assert row(app, "key_set") == "key_set default default"
        assert row(app, "notify") == "notify false RLHF_LITE_NOTIFY"
        assert "RLHF_LITE_NOTIFY is set and wins" in shown(app, "#about")

    drive(steps)


def test_a_name_is_typed_kept_and_taken_back_and_the_files_comments_stay() -> None:
    paths.config_file().write_text("# mine\nnotify = false  # too loud\n", encoding="utf-8")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at(app, pilot, "name")
        await pilot.press("enter")
        await write(pilot, "qed")
        await pilot.press("enter")
        await pilot.pause()
        assert config.load().name == "qed"
        assert row(app, "name") == "name qed your file"
        await pilot.press("d")
        await pilot.pause()
        assert config.load().name == ""

    drive(steps)
    text = paths.config_file().read_text(encoding="utf-8")
    assert "# mine\n" in text
    assert "notify = false  # too loud\n" in text


def test_switches_and_choices_change_and_hold_at_once() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at(app, pilot, "key_set")
        await pilot.press("enter")
        await pilot.pause()
        assert config.load().key_set == "vim"
        await pilot.press("k")
        assert highlighted(app) == "theme"
        await pilot.press("enter")
        await pilot.pause()
        assert (app.theme, config.load().theme) == ("textual-light", "textual-light")
        await pilot.press("j", "j", "enter")
        await pilot.pause()
        assert highlighted(app) == "ascii"
        assert app.desk.ascii
        assert config.load().ascii

    drive(steps)


def test_one_key_is_moved_and_a_wrong_name_is_refused() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at(app, pilot, "keys")
        await pilot.press("enter")
        app.screen.query_one(AskLine).line.value = "home.doctor = f6"
        await pilot.press("enter")
        await pilot.pause()
        assert config.load().keys == {"home.doctor": "f6"}
        await pilot.press("enter")
        app.screen.query_one(AskLine).line.value = "home.docter = f6"
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        await pilot.press("escape", "escape")
        await pilot.pause()
        assert page(app) == "home"
        await pilot.press("f6")
        await pilot.pause()
        assert page(app) == "doctor"

    drive(steps)


def test_a_file_that_only_a_person_can_change_is_left_alone() -> None:
    paths.config_file().write_text('keys = { "home.new" = "f5" }\n', encoding="utf-8")
    before = paths.config_file().read_text(encoding="utf-8")

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await at(app, pilot, "keys")
        await pilot.press("enter")
        app.screen.query_one(AskLine).line.value = "home.doctor = f6"
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorPage)
        assert "cannot change" in app.screen.error.message

    drive(steps)
    assert paths.config_file().read_text(encoding="utf-8") == before


# --- themes


def test_the_theme_key_goes_through_a_short_list_and_the_next_start_has_the_last() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        seen = [app.theme]
        for _ in range(5):
            await pilot.press("ctrl+t")
            seen.append(app.theme)
        assert seen == [
            "textual-dark",
            "textual-light",
            "high-contrast",
            "ansi-dark",
            "ansi-light",
            "textual-dark",
        ]
        await pilot.press("ctrl+t", "ctrl+t")
        await pilot.pause()

    async def again(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert app.theme == "high-contrast"

    drive(steps)
    assert config.load().theme == "high-contrast"
    drive(again)


def test_a_theme_from_the_palette_is_kept_too_and_an_unknown_one_is_told() -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        app.theme = "nord"
        await pilot.pause()

    async def unknown(app: RlhfApp, pilot: Pilot[None]) -> None:
        assert app.theme == "textual-dark"
        assert any("no theme purple" in n.message for n in app._notifications)

    drive(steps)
    assert config.load().theme == "nord"
    config.set_value("theme", "purple")
    drive(unknown)


def test_high_contrast_means_seven_to_one_and_more() -> None:
    """WCAG 2 AAA, on every colour that words are written in."""
    theme: Theme = themes.HIGH_CONTRAST
    words = {"foreground": theme.foreground, "primary": theme.primary, "secondary": theme.secondary,
             "success": theme.success, "warning": theme.warning, "error": theme.error,
             **{k: v for k, v in theme.variables.items() if k.startswith("text-")}}  # fmt: skip
    for name, colour in words.items():
        for ground in (theme.background, theme.surface, theme.panel):
            assert colour
            assert ground
            assert _contrast(colour, ground) >= 7, f"{name} on {ground}"


def _contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    lights = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lights[0] + 0.05) / (lights[1] + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", themes.CYCLE)
def test_every_theme_paints_every_page_of_these(
    theme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_LITE_THEME", theme)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        for name in ("settings", "log"):
            app.show(name)
            await pilot.pause()
        await pilot.press("question_mark")
        await pilot.pause()
        assert app.theme == theme
        assert "rlhf-lite" in app.export_screenshot()

    drive(steps)
