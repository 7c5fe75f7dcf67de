"""The user's own settings: each value in force, where it comes from, and how to change it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text
from textual import on
from textual.app import SuspendNotSupported
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import config, settings
from rlhf_lite.errors import UserError
from rlhf_lite.tui import keys, keysets, themes
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.new import home_short
from rlhf_lite.tui.widgets.ask import AskLine
from rlhf_lite.tui.widgets.rows import PickList

ABOUT = {
    "name": "Who labels: kept beside every label.",
    "default_preset": "The preset of new projects.",
    "projects": "The folder where new projects go.",
    "theme": "The colours of the app. ctrl+t goes through the same list on any page.",
    "key_set": "default, vim (h j k l), or left-hand (w a s d, the right hand on the mouse).",
    "ascii": "No line drawing and no Braille, for fonts and readers without them. Open pages take it when opened anew.",
    "notify": "A bell and a desktop notification when a job ends.",
    "keys": "Your own keys by action, as the help lists them. Enter asks for one: label.left = 1,h",
    "config file": "The file that holds these settings. e opens it in your editor.",
    "state folder": "Locks, the app's own log, bug reports, and which projects were opened.",
    "presets folder": "The presets that come with rlhf-lite.",
}
FIXED = ("config file", "state folder", "presets folder")


class SettingsPage(Page):
    PAGE = "settings"
    PAGE_NAME = "settings"
    TITLE = "Settings"
    AUTO_FOCUS = "#settings"
    BINDINGS = keys.bindings("settings")
    HELP_TEXT = (
        "Settings of the app, not of a project. Enter changes one, d takes it back to its default. They lie in a file "
        "of yours, whose comments and order stay as you wrote them; a variable RLHF_LITE_... wins over the file."
    )
    DEFAULT_CSS = """
    SettingsPage #settings { height: auto; max-height: 1fr; }
    SettingsPage #about { height: auto; padding: 1 0 0 0; }
    """

    def body(self) -> Iterable[Widget]:
        yield AskLine()
        yield PickList(id="settings", compact=True)
        yield Static(id="about", markup=False)

    def on_screen_resume(self) -> None:
        self._draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    @property
    def _picked(self) -> str:
        option = self.query_one(PickList).highlighted_option
        return (option.id or "") if option else ""

    def _draw(self) -> None:
        with self.told():
            rows, before = self.query_one(PickList), self.query_one(PickList).highlighted
            found = config.described()
            room = max(10, self.size.width - 44)
            rows.set_options(Option(_row(name, entry, room), id=name) for name, entry in found.items())
            rows.highlighted = before or 0
            self._describe()

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        told = ABOUT.get(self._picked, "")
        variable = f"RLHF_LITE_{self._picked.upper()}"
        if self._picked not in FIXED and os.environ.get(variable):
            told += f"\n{variable} is set and wins over the file."
        self.query_one("#about", Static).update(told)

    @on(OptionList.OptionSelected)
    def _chosen(self) -> None:
        self.action_change()

    def action_change(self) -> None:
        """Switch it, take the next choice, or ask."""
        name, now = self._picked, self.desk.config
        choices = {
            "theme": [*themes.CYCLE],
            "key_set": [*keysets.SETS],
            "default_preset": settings.preset_names(),
        }
        if name in FIXED:
            self.notify("This is not set here.")
        elif name in ("ascii", "notify"):
            self._keep(name, not getattr(now, name))
        elif name in choices:
            current = self.app.theme if name == "theme" else getattr(now, name) or "default"
            self._keep(name, _after(choices[name], current))
        elif name == "keys":
            self.query_one(AskLine).ask("Action = keys (nothing after =: as it came)", self._move_key)
        else:
            value = str(getattr(now, name, ""))
            self.query_one(AskLine).ask(name, lambda text: self._keep(name, text or None), value=value)

    def action_default(self) -> None:
        if self._picked == "keys":
            self.notify("Enter asks which one; the file has them all (e).")
        elif self._picked not in FIXED:
            self._keep(self._picked, None)

    def _move_key(self, text: str) -> None:
        if not text:
            return
        action, equals, wanted = (part.strip().strip('"') for part in text.partition("="))
        with self.told():
            known = {key.id for key in keys.every()}
            if not equals or action not in known:
                raise UserError(
                    f"there is no action {action}" if equals else f"cannot read {text}",
                    why="it wants an action and its keys",
                    hint="for example label.left = 1,h; the help (?) of a page lists its actions",
                )
            self._keep(f"keys.{action}", wanted or None)

    def _keep(self, name: str, value: str | bool | None) -> None:
        with self.told():
            self.rlhf.keep(name, value)
        self._draw()

    def action_edit(self) -> None:
        """In the user's own editor, which has the terminal meanwhile."""
        with self.told():
            try:
                with self.app.suspend():
                    config.edit()
            except SuspendNotSupported:
                raise UserError(
                    "this terminal cannot be lent to an editor", hint="rlhf-lite config edit"
                ) from None
            finally:
                self.app.refresh()
            self.rlhf.work_by(config.load())
        self._draw()

    def action_back(self) -> None:
        if not self.query_one(AskLine).close():
            super().action_back()


def _after(choices: list[str], now: str) -> str:
    return choices[(choices.index(now) + 1) % len(choices)] if now in choices else choices[0]


def _row(name: str, entry: dict[str, str], room: int) -> Text:
    """Name, value, and where it comes from."""
    origin = entry["from"]
    text = Text(no_wrap=True, overflow="ellipsis").append(f" {name:<15} ", "bold")
    value = Text(_short(entry["value"]))
    value.truncate(room, overflow="ellipsis", pad=True)
    text.append_text(value)
    told = "your file" if origin.endswith(".toml") else origin
    return text.append(f"  {told}", "dim" if origin == "default" else "")


def _short(value: str) -> str:
    """A path below the home folder in short, anything else as it is."""
    return home_short(Path(value)) if value.startswith("/") else value
