"""Asked once before a run is deleted, with what that frees."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from rlhf_lite import history, report
from rlhf_lite.project import Run
from rlhf_lite.tui import keys


class DeletePage(ModalScreen[bool]):
    """Gives back whether it is to be deleted; Enter, which comes by habit, keeps it."""

    BINDINGS = keys.bindings("delete")
    DEFAULT_CSS = "DeletePage { align: center middle; }"

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(f"Delete {self._run.name}?", classes="what", markup=False)
            yield Static(f"It frees {report.size(history.size(self._run))} and cannot be taken back.")
            yield Footer(compact=True, show_command_palette=False)

    def action_delete(self) -> None:
        self.dismiss(True)

    def action_keep(self) -> None:
        self.dismiss(False)
