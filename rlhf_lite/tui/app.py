"""The terminal app: opens a project, shows its pages, and tells them what its runs are doing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from rlhf_lite import config, paths
from rlhf_lite.config import AppConfig
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.project import Project
from rlhf_lite.tui import keys, keysets, themes, words
from rlhf_lite.tui.desk import Desk
from rlhf_lite.tui.feed import Change
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.page import Page, telling
from rlhf_lite.tui.screens import pages
from rlhf_lite.tui.widgets.asciionly import AsciiOnly

POLL_SECONDS = 0.2
WARM_SECONDS = 0.5  # after the start; then the pages behind home are imported
PLAIN_KEYS = str.maketrans({"⏎": "ent", "←": "left", "→": "right", "↑": "up", "↓": "down", "⌫": "bsp"})


class RlhfApp(App[None]):
    """``rlhf-lite`` without a command."""

    TITLE = "rlhf-lite"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*keys.bindings("app")]
    SCREENS: ClassVar = pages.SCREENS
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS: ClassVar = [(0, "-tiny"), (60, "-narrow"), (76, "-normal"), (110, "-wide")]
    VERTICAL_BREAKPOINTS: ClassVar = [(0, "-flat"), (20, "-short"), (32, "-tall")]

    def __init__(self, folder: Path | None = None, *, page: str = "home", ascii: bool = False) -> None:
        settings = config.load()
        super().__init__()
        self._plain = AsciiOnly()
        self.desk = Desk(settings, ascii=ascii or settings.ascii)
        self._wanted, self._page = folder, page
        self._ascii = ascii
        self._chosen = ""  # the theme that the settings name
        self.moved: dict[str, str] = {}  # id → keys, where they are not those of the table
        self.register_theme(themes.HIGH_CONTRAST)

    def on_mount(self) -> None:
        self.push_screen("home")
        self.work_by(self.desk.config)
        if self._wanted:
            with telling(self):
                self._take(Project.open(self._wanted))  # home has not been drawn yet: nobody need be told
                if self._page != "home":
                    self.show(self._page)
        elif _first_time():
            self.push_screen("doctor")
        self.set_interval(POLL_SECONDS, self._poll)
        self.set_timer(WARM_SECONDS, lambda: threading.Thread(target=pages.warm, daemon=True).start())

    def work_by(self, settings: AppConfig) -> None:
        """Take these settings of the user."""
        self.desk.config, self.desk.ascii = settings, self._ascii or settings.ascii
        self.set_class(self.desk.ascii, "-ascii")
        self._chosen = settings.theme or themes.DEFAULT
        if self._chosen in self.available_themes:
            self.theme = self._chosen
        else:
            self.notify(f"There is no theme {self._chosen}; ctrl+t tries those that are.", severity="warning")
        self.moved = keysets.keymap(settings.key_set, settings.keys)
        self.set_keymap(self.moved)
        for complaint in keysets.complaints(settings.keys, settings.key_set):
            self.notify(complaint, severity="warning", timeout=10, markup=False)

    def keep(self, name: str, value: str | bool | None) -> None:
        """Write one setting of the user to their file, None for its default, and work by it from now on.

        Raises:
            SettingsError: it cannot be written there, or has a wrong value.
            OSError: the file cannot be written.
        """
        config.set_value(name, value)
        self.work_by(config.load())

    def open_project(self, project: Project) -> None:
        """Work on this project; every page is told."""
        self._take(project)
        self._tell(ProjectChanged)

    def _take(self, project: Project) -> None:
        self.desk.open(project)
        config.remember(project.root)

    def show(self, page: str) -> None:
        """Open a page by name, over the one that is shown; a page that is already open comes back to the front."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, Page) and page == screen.PAGE_NAME:
                while self.screen is not screen:
                    self.pop_screen()
                return
        with telling(self):
            self.push_screen(page)

    def back(self) -> None:
        """One page up; the first stays."""
        if len(self.screen_stack) > 2:  # Textual's own blank screen, then home
            self.pop_screen()

    def action_back(self) -> None:
        self.back()

    def action_next_theme(self) -> None:
        self.theme = themes.following(self.theme)
        self.notify(f"Theme: {self.theme}", timeout=2)

    def watch_theme(self, theme: str) -> None:
        """Whoever chose it, ctrl+t or the palette: the next start has it too."""
        if not self._chosen or theme == self._chosen:
            return
        self._chosen = theme
        try:
            config.set_value("theme", theme)
            self.desk.config = config.load()
        except (RlhfLiteError, OSError) as error:
            self.notify(f"The theme is not kept: {error}", severity="warning", markup=False)

    def action_log(self) -> None:
        self.show("log")

    def action_help(self) -> None:
        from rlhf_lite.tui.screens.help import HelpPage

        self.push_screen(HelpPage(self.screen))

    def _poll(self) -> None:
        if self.desk.feed is None:
            return
        with telling(self):
            for change in self.desk.feed.poll():
                self._tell(lambda change=change: RunChanged(change))
                if change.ended:
                    self._announce(change)

    def _tell(self, message) -> None:
        for screen in self.screen_stack:
            screen.post_message(message())

    def _announce(self, change: Change) -> None:
        """Say that long work has ended: in the app, by the bell, and to the desktop where the terminal can."""
        run, state = change.watched.run, change.watched.state
        words = {"finished": "is done", "stopped": "stopped, saved", "failed": "failed"}.get(
            state, "ended without a word"
        )
        failure = change.watched.status.failure
        why = f": {failure.message}" if failure else ""
        self.notify(
            f"{run.name} {words}{why}",
            severity="information" if state in ("finished", "stopped") else "error",
            timeout=8,
        )
        if self.desk.config.notify:
            self.bell()
            self._notify_desktop(f"rlhf-lite: {run.name} {words}")

    def _notify_desktop(self, text: str) -> None:
        driver = self._driver
        if driver is not None and os.environ.get("TERM"):
            plain = "".join(c for c in text if c.isprintable())
            driver.write(f"\x1b]9;{plain}\x07")  # OSC 9; a terminal that does not know it drops it

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own, and the one that leaves plain characters only."""
        return [*super().get_line_filters(), *([self._plain] if self.desk.ascii else [])]

    def get_key_display(self, binding: Binding) -> str:
        """As Textual writes it; arrows and signs as words where only ASCII is wanted."""
        told = super().get_key_display(binding)
        return told.translate(PLAIN_KEYS) if self.desk.ascii else told

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """Every key's action of this page, then Textual's own."""
        page = keys.page_of(screen)
        for key in (*keys.table(page), *keys.APP):
            if key.id == "app.palette":
                continue
            target = self if key.page == "app" else screen
            yield SystemCommand(
                words.of(key),
                f"{key.id}  {words.shown(self, key)}",
                lambda key=key, target=target: self._perform(key, target),
            )
        yield from super().get_system_commands(screen)

    def _perform(self, key: keys.Key, target: Screen | App[None]) -> None:
        self.call_later(self.run_action, key.action, target)


def _first_time() -> bool:
    """Whether this person never saw the app: nothing was opened, and the doctor's page was not passed."""
    return not any((paths.state() / name).exists() for name in ("welcomed", "recent.json"))


def run(folder: Path | None = None, *, page: str = "home", ascii: bool = False) -> None:
    """Open the app, at a page of the project where one is named, and stay until it is closed."""
    RlhfApp(folder, page=page, ascii=ascii).run()
