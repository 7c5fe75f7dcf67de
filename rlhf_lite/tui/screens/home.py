"""The pipeline as a checklist; Enter runs the next step."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual import on
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import checklist
from rlhf_lite.events import Progress, Started
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Change
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.quit import QuitPage

EMPTY = (
    "No project is open.\n\n"
    "  n  makes a new one: pick a model, give it prompts, say which answers you like\n"
    "  o  opens a folder\n\n"
    "The built-in model lets you try everything in minutes, with no download and no GPU."
)
MARKS = {"done": "✔", "next": "▸", "ready": " ", "blocked": "·", "optional": " ", "running": "●"}
ASCII_MARKS = {"done": "x", "next": ">", "ready": " ", "blocked": "-", "optional": " ", "running": "*"}
SENTENCES = {
    "prompts": "Next: prompts, and two answers to each from the model.",
    "label": "Next: say which answers you like better. 100 labels teach it a narrow wish.",
    "reward": "Next: train the reward model, which learns your taste from the labels.",
    "ppo": "Next: PPO moves the model towards what the reward model likes.",
    "compare": "Next: compare base and tuned, without knowing which is which.",
    "export": "Next: make a GGUF file and talk to it.",
}
STAGE_OF = {"sft": "sft", "reward": "reward", "ppo": "ppo", "dpo": "ppo", "generate": "prompts",
            "eval": "compare", "export": "export", "label": "label", "download": "model"}  # fmt: skip


class HomePage(Page):
    PAGE = "home"
    PAGE_NAME = "home"
    TITLE = "Home"
    BINDINGS = keys.bindings("home")
    HELP_TEXT = (
        "The way from prompts to a model of your own taste, step by step. Enter does the marked step; up and down move "
        "the mark, a number opens its step. A step that waits says for what. Go round again as often as you like: new "
        "pairs come from the tuned model, and newer labels make the older reward model stale."
    )

    def __init__(self) -> None:
        super().__init__()
        self._following = ""

    def body(self) -> Iterable[Widget]:
        yield Static(EMPTY, id="empty", markup=False)
        rows = OptionList(id="steps", compact=True)
        rows.can_focus = False  # its own Enter would hide ours from the footer
        yield rows
        yield Static(id="sentence", markup=False)

    def shows(self, change: Change) -> bool:
        return change.ended or any(isinstance(event, Started | Progress) for event in change.events)

    def redraw(self) -> None:
        empty, rows = self.query_one("#empty"), self.query_one("#steps", OptionList)
        empty.display = self.desk.project is None
        rows.display = self.desk.project is not None
        sentence = self.query_one("#sentence", Static)
        sentence.display = rows.display
        self.refresh_bindings()
        if not self.desk.project:
            return
        with self.told():
            found = checklist.steps(self.project)
            busy = {STAGE_OF.get(w.run.stage): w.run.name for w in self.feed.busy}
            following = next((s for s in found if s.state == "next"), found[0])
            moved = rows.highlighted if following.key == self._following else None
            self._following = following.key
            rows.clear_options()
            rows.add_options([Option(self._line(step, busy.get(step.key)), id=step.key) for step in found])
            rows.highlighted = following.number - 1 if moved is None else moved
            sentence.update(SENTENCES.get(following.key, ""))

    def _line(self, step: checklist.Step, running: str | None) -> Text:
        marks = ASCII_MARKS if self.desk.ascii else MARKS
        state = "running" if running else step.state
        words = f"{running} is running" if running else step.words
        text = Text(no_wrap=True, overflow="ellipsis")
        style = {"done": "green", "next": "bold", "running": "bold cyan", "blocked": "dim"}.get(state, "")
        text.append(f" {marks[state]} {step.number} {step.title:<24}", style)
        return text.append(f" {words}", "dim" if state == "blocked" else "")

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self._open(event.option.id or "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a project there is nobody to chat with, and no runs."""
        return self.desk.project is not None or action not in ("chat", "runs")

    def action_next(self) -> None:
        if self.desk.project is None:
            self.action_new_project()
            return
        self.query_one("#steps", OptionList).action_select()

    def action_up(self) -> None:
        self.query_one("#steps", OptionList).action_cursor_up()

    def action_down(self) -> None:
        self.query_one("#steps", OptionList).action_cursor_down()

    def action_step(self, number: int) -> None:
        if self.desk.project is None:
            self.action_new_project()
            return
        with self.told():
            self._open(checklist.steps(self.project)[number - 1].key)

    def _open(self, key: str) -> None:
        self.rlhf.show(key)

    def action_new_project(self) -> None:
        self.rlhf.show("new")

    def action_open_project(self) -> None:
        self.rlhf.show("open")

    def action_chat(self) -> None:
        if self.desk.project:
            self.rlhf.show("chat")

    def action_runs(self) -> None:
        if self.desk.project:
            self.rlhf.show("runs")

    def action_settings(self) -> None:
        self.rlhf.show("settings")

    def action_doctor(self) -> None:
        self.rlhf.show("doctor")

    def action_quit(self) -> None:
        if self.desk.feed and self.desk.feed.busy:
            self.app.push_screen(QuitPage(self.feed.busy))
        else:
            self.app.exit()
