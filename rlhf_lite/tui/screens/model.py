"""Which model: what each would need for training here, against what is free now; and its download.

For a new project a row is picked; for the open one the page shows what its model needs, and fetches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.text import Text
from textual import on
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import base_model, jobs, memory, stages, starting
from rlhf_lite.base_model import DEMO
from rlhf_lite.starting import Choice
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens import modelwords
from rlhf_lite.tui.screens.behind import behind
from rlhf_lite.tui.widgets.ask import AskLine
from rlhf_lite.tui.widgets.bytesline import BytesLine
from rlhf_lite.tui.widgets.rows import PickList

LOOKING = "Looking which models lie on this disk…"
NONE_HERE = "No model matches. Press / and change the filter, or paste an org/name of huggingface.co there."


class ModelPage(Page):
    PAGE = "model"
    PAGE_NAME = "model"
    TITLE = "Model"
    BINDINGS = keys.bindings("model")
    HELP_TEXT = (
        "Every model known to work, what lies on this disk, and what you paste: what training each would need here, "
        "against the memory that is free now. i itemises it; S plans for a card that you do not have yet. A project "
        "stays with its model; d downloads it, and a download that was stopped goes on where it was."
    )
    AUTO_FOCUS = "#models"
    DEFAULT_CSS = """
    ModelPage #head { height: 1; text-style: bold; color: $text-muted; }
    ModelPage #models { height: 1fr; min-height: 4; }
    ModelPage #detail { height: auto; max-height: 50%; border-top: solid $panel; }
    ModelPage #detail.-plain { border-top: ascii $panel; }
    ModelPage #line { height: 2; }
    """

    def __init__(
        self, picked: Callable[[str], None] | None = None, selected: str = "", preset: str = ""
    ) -> None:
        super().__init__()
        self._picked, self._selected, self._preset = picked, selected, preset
        self._choices: list[Choice] = []
        self._pasted: dict[str, Choice] = {}
        self._memory = memory.read()
        self._card = 0.0  # GiB of a card that is only imagined
        self._filter = ""
        self._here_only = self._itemised = False
        self._shown_for: Path | None = Path()  # the project that the page was opened on last

    def body(self) -> Iterable[Widget]:
        yield AskLine()
        yield Static(id="head", markup=False)
        yield PickList(id="models", compact=True)
        yield BytesLine(ascii=self.desk.ascii, id="line")
        yield Static(id="detail", markup=False, classes="-plain" if self.desk.ascii else "")

    def on_screen_resume(self) -> None:
        self._look()
        self._draw_run()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    @on(ProjectChanged)
    def _project_changed(self) -> None:
        self._look()

    def _look(self) -> None:
        project = None if self._picked else self.desk.project
        root = project.root if project else None
        fresh, self._shown_for = root != self._shown_for, root
        if not self._picked:
            self._selected = project.file.model if project else ""
        names = [*self._pasted, *([self._selected] if self._selected else [])]
        behind(self, lambda: starting.choices(names), lambda found: self._found(found, fresh))
        if not self._choices:
            self._describe()

    def _found(self, found: list[Choice], fresh: bool) -> None:
        """``fresh``: opened on another project, so that its own model is highlighted."""
        self._choices = [self._pasted.get(c.id, c) if not c.model else c for c in found]
        with self.told():
            best = self._selected or starting.recommended(self._choices, self._room, self._preset)
            self._draw(best if fresh else "")
        unknown = next((c.id for c in found if c.id == self._selected and not c.model), "")
        if fresh and unknown not in self._pasted and base_model.is_hub_id(unknown):
            behind(self, lambda: starting.look_up(unknown), self._add, lambda _: None)  # nobody asked for it

    @property
    def _room(self) -> memory.Memory:
        """What is free here, or on the card that is imagined."""
        return memory.card(self._card) if self._card else self._memory

    @property
    def _now(self) -> Choice | None:
        option = self.query_one(PickList).highlighted_option
        return next((c for c in self._choices if option and c.id == option.id), None)

    def _setting(self, choice: Choice) -> modelwords.Setting:
        """Under which preset and quantization a model is planned: the open project's own for its model."""
        project = None if self._picked else self.desk.project
        if project and project.file.model == choice.id:
            return modelwords.Setting(project.file.preset, project.file.quantization)
        return modelwords.Setting(self._preset, "nf4")

    def _draw(self, at: str = "") -> None:
        rows = self.query_one(PickList)
        before = rows.highlighted_option
        wanted = at or (before.id if before else "") or ""
        shown = [c for c in self._choices if self._filter.lower() in c.id.lower()]
        shown = [c for c in shown if c.on_disk or not self._here_only]
        width = self.size.width - 4
        with self.told():
            self._memory = memory.read()
            self.query_one("#head", Static).update(modelwords.heading(width))
            rows.clear_options()
            for choice in shown:
                line = modelwords.row(choice, self._setting(choice), self._room, width, self.desk.ascii)
                rows.add_option(Option(line, id=choice.id))
            ids = [c.id for c in shown]
            rows.highlighted = ids.index(wanted) if wanted in ids else 0 if ids else None
            self._describe()

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        choice = self._now
        if choice is None:
            words = Text(NONE_HERE if self._choices else LOOKING)
        else:
            with self.told():
                words = modelwords.detail(choice, self._setting(choice), self._room, self._itemised)
                words.append(f"\n{self._next(choice)}", "bold")
        self.query_one("#detail", Static).update(words)

    def _next(self, choice: Choice) -> str:
        """The next key."""
        project = None if self._picked else self.desk.project
        if project and project.file.model == choice.id:
            if choice.on_disk:
                return "This is the project's model, and it is here. i itemises what it needs; esc goes back."
            return "This is the project's model. d downloads it; you may write prompts meanwhile."
        if project:
            return "Another model is another project: n makes one on it."
        return "Enter takes it for the new project." if self._picked else "Enter makes a project on it."

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        if self._picked and event.option.id:
            self.rlhf.back()
            self._picked(event.option.id)
        elif self.desk.project:
            self.action_why()
        else:
            self.action_new()

    def action_use(self) -> None:
        self.query_one(PickList).action_select()

    def action_new(self) -> None:
        """A project on the row's model."""
        choice = self._now
        if self._picked or choice is None:
            return
        from rlhf_lite.tui.screens.new import NewPage  # it opens this page itself

        self.app.switch_screen(NewPage(choice.id))

    def action_filter(self) -> None:
        self.query_one(AskLine).ask(
            "Filter, or paste org/name", self._typed, value=self._filter, each=self._narrow
        )

    def _narrow(self, text: str) -> None:
        self._filter = text.strip()
        self._draw()

    def _typed(self, text: str) -> None:
        """A filter, or a model that is not in the list: a hub id, or a folder."""
        known = any(text.lower() in c.id.lower() for c in self._choices)
        folder = Path(text).expanduser().is_dir() and "/" in text
        if not text or known or not (folder or base_model.is_hub_id(text)):
            return
        self._filter = ""
        name = str(Path(text).expanduser().resolve()) if folder else text
        self._add(Choice(name, None, on_disk=False))
        self.notify(f"Looking up {name}", timeout=2)
        behind(self, lambda: starting.look_up(name), self._add)

    def _add(self, choice: Choice) -> None:
        self._pasted[choice.id] = choice
        self._choices = [*(c for c in self._choices if c.id != choice.id), choice]
        self._draw(choice.id)

    def action_why(self) -> None:
        self._itemised = not self._itemised
        self._describe()

    def action_on_disk(self) -> None:
        self._here_only = not self._here_only
        self.notify("Only models on this disk" if self._here_only else "All models")
        self._draw()

    def action_simulate(self) -> None:
        self.query_one(AskLine).ask("GiB of another card (empty: this machine)", self._imagine)

    def _imagine(self, text: str) -> None:
        try:
            self._card = max(0.0, float(text.replace(",", ".").lower().rstrip("gib "))) if text else 0.0
        except ValueError:
            self.notify(f"{text} is no number of GiB", severity="warning")
        self._draw(starting.recommended(self._choices, self._room, self._preset) if self._picked else "")

    @property
    def _run(self) -> Watched | None:
        return self.feed.newest("download") if self.desk.feed and not self._picked else None

    @on(RunChanged)
    def _run_changed(self, message: RunChanged) -> None:
        if message.change.watched is self._run:
            self._draw_run()
            if message.change.ended:
                self._look()

    def _draw_run(self) -> None:
        run, line = self._run, self.query_one(BytesLine)
        line.display = run is not None and run.state not in ("new", "finished")
        if run and line.display:
            line.note(run)

    def action_download(self) -> None:
        if self._picked or not self.desk.project:
            self.notify("Make the project first; its model is downloaded from here or from its prompts.")
            return
        if self._run and self._run.busy:
            self.notify("It is being downloaded; x stops it and keeps what came.")
            return
        with self.told():
            if self.project.file.model == DEMO:
                self.notify("The built-in model needs no download.")
                return
            self.start(stages.download(self.project))
            self._draw_run()

    def action_cancel(self) -> None:
        if self._run and self._run.busy:
            with self.told():
                jobs.stop(self._run.run)
            self.notify("Stopping; what came so far is kept, and d goes on from there.", timeout=3)

    def action_back(self) -> None:
        if not self.query_one(AskLine).close():
            super().action_back()
