"""A page: one row on top, one of keys at the bottom, and between them what a subclass composes."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from rlhf_lite import paths
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.project import Project
from rlhf_lite.tui import keys
from rlhf_lite.tui.desk import Desk
from rlhf_lite.tui.feed import Change, Feed, Watched
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.widgets.topbar import TopBar

if TYPE_CHECKING:
    from rlhf_lite import stages
    from rlhf_lite.tui.app import RlhfApp

TOO_SMALL = "Make the window at least 60x20, or use the commands: rlhf-lite --help (label --plain)."


class Page(Screen[None]):
    """Base of the app's pages. ``PAGE`` names its keys in :mod:`keys`, ``PAGE_NAME`` is what opens it."""

    PAGE: ClassVar[str] = ""
    PAGE_NAME: str = ""
    TITLE: ClassVar[str | None] = ""
    HELP_TEXT: ClassVar[str] = ""

    @property
    def rlhf(self) -> RlhfApp:
        return cast("RlhfApp", self.app)

    @property
    def desk(self) -> Desk:
        return self.rlhf.desk

    @property
    def project(self) -> Project:
        """The open project; pages that need one are only opened with one."""
        assert self.desk.project, "a project is open"
        return self.desk.project

    @property
    def feed(self) -> Feed:
        """The open project's runs."""
        assert self.desk.feed, "a project is open"
        return self.desk.feed

    def compose(self) -> ComposeResult:
        yield TopBar(self.title or "")
        yield Static(TOO_SMALL, classes="too-small")
        with Vertical(classes="page-body"):
            yield from self.body()
        yield Footer(compact=True, show_command_palette=False)

    def body(self) -> Iterable[Widget]:
        """What lies between top row and footer."""
        return ()

    def redraw(self) -> None:
        """Show what is so now: the page comes to the front, or the project or a run that it shows has changed."""

    def shows(self, change: Change) -> bool:
        """Whether what is new of a run is to be seen here."""
        return True

    @on(events.ScreenResume)
    @on(ProjectChanged)
    def _draw_anew(self) -> None:
        self.redraw()

    @on(RunChanged)
    def _draw_change(self, message: RunChanged) -> None:
        if self.shows(message.change):
            self.redraw()

    @contextmanager
    def told(self) -> Generator[None]:
        """Show whatever goes wrong inside as an error page; the app stays."""
        with telling(self.rlhf):
            yield

    def start(self, prepared: stages.Prepared) -> Watched:
        """Start a run; raises what :func:`jobs.spawn` raises."""
        for warning in prepared.warnings:
            self.notify(warning, severity="warning", timeout=8)
        return self.feed.start(prepared)

    def changed(self) -> None:
        """Tell every open page that prompts or labels have changed."""
        for screen in self.app.screen_stack:
            screen.post_message(ProjectChanged())

    def action_back(self) -> None:
        self.rlhf.back()


@contextmanager
def telling(app: RlhfApp) -> Generator[None]:
    """The app's one broad catch: whatever went wrong is told in three parts, and its traceback goes to the log."""
    try:
        yield
    except RlhfLiteError as error:
        app.push_screen(ErrorPage(error))
    except Exception as error:  # nobody sees a traceback on a screen; nothing may take the app down
        log = paths.state() / "app.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat()}\n{traceback.format_exc()}\n")
        app.push_screen(
            ErrorPage(
                RlhfLiteError(
                    "something unexpected went wrong",
                    why=f"{type(error).__name__}: {error}",
                    hint=f"what was saved is safe; the details are in {log}",
                )
            )
        )


class ErrorPage(ModalScreen[None]):
    """What happened, why, and what to do next."""

    BINDINGS = keys.bindings("error")

    def __init__(self, error: RlhfLiteError) -> None:
        super().__init__()
        self.error = error

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog error"):
            yield Static(self.error.message, classes="what", markup=False)
            if self.error.why:
                yield Static(f"Why: {self.error.why}", markup=False)
            if self.error.hint:
                yield Static(f"Next: {self.error.hint}", markup=False)
            yield Footer(compact=True, show_command_palette=False)

    def action_close(self) -> None:
        self.dismiss()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard("\n".join((self.error.message, self.error.why, self.error.hint)))
        self.notify("Copied")
