"""Asked on quitting while a job runs: it lives on by itself, or is stopped and saved."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from rlhf_lite import jobs
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Watched


class QuitPage(ModalScreen[None]):
    BINDINGS = keys.bindings("quit")

    def __init__(self, busy: list[Watched]) -> None:
        super().__init__()
        self._busy = busy

    def compose(self) -> ComposeResult:
        names = ", ".join(w.run.name for w in self._busy)
        with Vertical(classes="dialog"):
            yield Static(f"{names}: still running", classes="what", markup=False)
            yield Static("It can go on without this window, and is found again at the next start.")
            yield Footer(compact=True, show_command_palette=False)

    def action_keep(self) -> None:
        self.app.exit()

    def action_stop(self) -> None:
        for watched in self._busy:
            jobs.stop(watched.run)
        self.app.exit()

    def action_cancel(self) -> None:
        self.dismiss()
