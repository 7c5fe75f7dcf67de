"""Prompts, and two answers to each from the model: what the labels will be about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.text import Text
from textual import on
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import OptionList, Static

from rlhf_lite import formats, hub, jobs, stages, starting
from rlhf_lite.formats import Refused
from rlhf_lite.labels import Counts, Message
from rlhf_lite.rows import prompt_of
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens import preview, promptwords
from rlhf_lite.tui.screens.behind import behind
from rlhf_lite.tui.widgets.ask import AskLine, PathSuggester
from rlhf_lite.tui.widgets.jobline import JobLine
from rlhf_lite.tui.widgets.rows import Doing, DoingList

ENOUGH = 10  # pairs after which labelling is offered while the rest is sampled
NO_PROMPTS = "No prompts yet. Enter adds the highlighted pack; w writes your own, f takes a file."


class PromptsPage(Page):
    PAGE = "prompts"
    PAGE_NAME = "prompts"
    TITLE = "Prompts & answers"
    BINDINGS = keys.bindings("prompts")
    HELP_TEXT = promptwords.HELP_TEXT
    AUTO_FOCUS = "#rows"
    DEFAULT_CSS = """
    PromptsPage #counts { height: 1; text-style: bold; }
    PromptsPage #state { height: auto; max-height: 8; }
    PromptsPage #line { height: 2; }
    PromptsPage #shown { height: 1fr; border-top: solid $panel; }
    PromptsPage #shown.-plain { border-top: ascii $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes = {n: len(p.read_text("utf-8").splitlines()) for n, p in starting.packs().items()}
        self._begin(None)

    def _begin(self, root: Path | None) -> None:
        """Nothing is said of the project yet. Textual keeps a page that was left, and shows the same one again."""
        self._shown_for = root
        self._pairs = 0  # wanted by the person; 0: the preset's
        self._said = ""  # the last answer to something that was asked for
        self._here: bool | None = None  # whether the model lies on this machine; None: not looked yet
        self._wanted: list[list[Message]] | None = None  # what the preview shows, or is working on

    def body(self) -> Iterable[Widget]:
        yield Static(id="counts", markup=False)
        yield DoingList(id="rows", width=20)
        yield AskLine()
        yield JobLine(ascii=self.desk.ascii, id="line")
        yield Static(id="state", markup=False)
        plain = "-plain" if self.desk.ascii else ""
        yield VerticalScroll(Static(id="preview", markup=False), id="shown", classes=plain)

    def on_screen_resume(self) -> None:
        with self.told():
            at = ""
            if self.project.root != self._shown_for:
                self._begin(self.project.root)
                at = "generate" if self._counts().prompts else f"pack('{self._packs()[0]}')"
            self._draw(at)
            self._look_for_model()
            self._preview()

    @on(ProjectChanged)
    def _project_changed(self) -> None:
        self._draw()
        self._preview()

    @on(RunChanged)
    def _run_changed(self, message: RunChanged) -> None:
        run = message.change.watched
        if run.run.stage == "download":
            self._look_for_model() if message.change.ended else self._draw()
        if run is self._run:
            self._draw("label" if message.change.ended and run.status.ended == "finished" else "")

    @property
    def _run(self) -> Watched | None:
        return self.feed.newest("generate")

    def _counts(self) -> Counts:
        with self.project.labels() as store:
            return store.counts()

    def _packs(self) -> list[str]:
        """The pack that suits the model first."""
        names = list(self._sizes)
        return sorted(names, key=lambda n: (n == "examples") is (self.project.file.model != starting.DEMO))

    def _look_for_model(self) -> None:
        model = self.project.file.model
        behind(self, lambda: hub.on_disk(model), self._found_model)

    def _found_model(self, here: bool) -> None:
        first, self._here = self._here is None, here
        self._draw("model" if first and not here and self._counts().prompts else "")
        self._preview()

    def _draw(self, at: str = "") -> None:
        with self.told():
            counts, run = self._counts(), self._run
            waiting = counts.pairs - counts.labelled - counts.skipped
            words = f"{counts.prompts} prompts · {counts.pairs} pairs of answers · {counts.labelled} labelled"
            self.query_one("#counts", Static).update(words)
            self.query_one(DoingList).show(self._rows(counts, waiting), at)
            line = self.query_one(JobLine)
            line.display = run is not None and run.busy
            if run and line.display:
                line.note(run)
            self.query_one("#state", Static).update(self._state(counts, waiting))

    def _rows(self, counts: Counts, waiting: int) -> list[Doing]:
        busy = self._run is not None and self._run.busy
        rows = [promptwords.FETCH] if self._here is False else []
        if counts.prompts and not busy:
            rows.append(promptwords.sample(self._number))
        if waiting:
            rows.append(promptwords.label(waiting))
        rows += [*(promptwords.pack(n, self._sizes[n]) for n in self._packs()), *promptwords.OWN]
        return (
            [*rows, promptwords.STOP] if busy else rows
        )  # last: a second Enter must not stop what the first began

    @property
    def _number(self) -> int:
        return self._pairs or stages.preset_of(self.project, []).generate.pairs

    def _state(self, counts: Counts, waiting: int) -> Text:
        text, run = Text(self._said), self._run
        if self._here is False:
            model = self.project.file.model
            promptwords.line(text, promptwords.absent(model, self.feed.newest("download")), "bold")
        if run is None or run.state == "new":
            return text if counts.prompts or self._said else promptwords.line(text, NO_PROMPTS)
        if run.busy:
            ready = waiting >= ENOUGH
            return (
                promptwords.line(text, f"{waiting} pairs are ready: l labels them while the rest is sampled.")
                if ready
                else text
            )
        return promptwords.line(text, promptwords.ended(run))

    def _preview(self) -> None:
        """Show some prompts as the model reads them, where others than those that are shown."""
        with self.told():
            with self.project.labels() as store:
                wanted = preview.examples(store.prompts())
            shown = self.query_one("#preview", Static)
            if not wanted or self._here is False:
                self._wanted = None
                shown.update(promptwords.NOTHING_SHOWN if self._here or not wanted else promptwords.NOT_HERE)
                return
            if wanted == self._wanted:
                return
            shown.update(promptwords.RENDERING)
            if self._here is None:  # asked right now; comes back here
                return
            self._wanted, root = wanted, self.project.root
            behind(
                self, lambda: preview.rendered(root, wanted),
                lambda found: self._previewed(wanted, preview.drawn(found)),
                lambda error: self._previewed(wanted, promptwords.failure(error)),
            )  # fmt: skip

    def _previewed(self, wanted: list[list[Message]], words: Text) -> None:
        if wanted == self._wanted:  # else others were asked for meanwhile
            self.query_one("#preview", Static).update(words)

    @on(OptionList.OptionSelected)
    async def _chosen(self, event: OptionList.OptionSelected) -> None:
        await self.run_action(event.option.id or "")

    def action_do(self) -> None:
        self.query_one(DoingList).action_select()

    def action_pack(self, name: str) -> None:
        self._add_file(starting.packs()[name])

    def action_file(self) -> None:
        self._ask_path("File of prompts", self._add_file)

    def action_import(self) -> None:
        self._ask_path("File of preference data", self._import)

    def _ask_path(self, what: str, then: Callable[[Path], None]) -> None:
        def answered(text: str) -> None:
            if text:
                then(Path(text).expanduser())

        self.query_one(AskLine).ask(what, answered, suggester=PathSuggester())

    def _add_file(self, path: Path) -> None:
        project = self.project

        def work() -> tuple[int, int, list[Refused]]:
            good, bad = formats.read_prompts(path)
            with project.labels() as store:
                added = store.add_prompts(good)
            return added, len(good) - added, bad

        self._say(f"Reading {path.name}…")
        behind(self, work, lambda found: self._taken("prompts added", *found), self._refused)

    def _import(self, path: Path) -> None:
        project = self.project

        def work() -> formats.ImportReport:
            with project.labels() as store:
                return formats.import_file(store, path)

        self._say(f"Reading {path.name}…")
        behind(
            self, work, lambda r: self._taken("rows imported", r.imported, r.duplicates, r.refused), self._refused
        )  # fmt: skip

    def _taken(self, what: str, new: int, known: int, refused: list[Refused]) -> None:
        self._say(promptwords.taken(what, new, known, refused))
        self.changed()
        self._draw("generate" if new else "")

    def _refused(self, error: Exception) -> None:
        self._say("")
        with self.told():
            raise error

    def _say(self, words: str) -> None:
        self._said = words
        self._draw()

    def action_write(self) -> None:
        self.query_one(AskLine).ask("Your prompt (Enter adds, esc ends)", self._written, again=True)

    def _written(self, text: str) -> None:
        if not text:
            return
        with self.told():
            with self.project.labels() as store:
                lines = text.splitlines()
                added = store.add_prompts([prompt_of(line) for line in lines])
            self._said = f"{added} added." if added else "That one is there already."
            self.changed()

    def action_number(self) -> None:
        self.query_one(AskLine).ask("How many pairs to sample", self._numbered, value=str(self._number))

    def _numbered(self, text: str) -> None:
        if text.isdecimal() and int(text):
            self._pairs = int(text)
        elif text:
            self.notify(f"{text} is no number of pairs", severity="warning")
        self._draw("generate")

    def action_generate(self) -> None:
        if self._run and self._run.busy:
            self.notify("Pairs are being sampled already; s stops.")
        elif self._here is False:
            self.rlhf.show("model")
        else:
            with self.told():
                self.start(
                    stages.generate(self.project, stages.preset_of(self.project, []), self._pairs or None)
                )
                self._said = ""
                self._draw("write")

    def action_stop(self) -> None:
        if self._run and self._run.busy:
            with self.told():
                jobs.stop(self._run.run)
            self._say("Stopping after this batch; what was sampled is kept.")

    def action_label(self) -> None:
        with self.told():
            stages.require_unlabelled(self.project)
            self.rlhf.show("label")

    def action_model(self) -> None:
        self.rlhf.show("model")

    def action_back(self) -> None:
        if not self.query_one(AskLine).close():
            super().action_back()
