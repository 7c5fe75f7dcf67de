"""The heart of the app: which of two answers is better. One key commits, on disk, and shows the next pair.

The figures below are read from the store in a thread of their own: with ten thousand labels they take longer than a
person waits for the next pair. The quick refit is an ordinary run of the reward stage with few epochs, beside which
labelling goes on; it is there to see accuracy move, and a full run should follow before PPO.
"""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.timer import Timer

from rlhf_lite import config, settings, stages
from rlhf_lite.errors import RlhfLiteError, UserError
from rlhf_lite.labels import LabelStore
from rlhf_lite.project import Project
from rlhf_lite.sitting import Choice, Figures, Sitting
from rlhf_lite.tui import garbage, keys
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.screens.judging import JudgingPage, choice_words
from rlhf_lite.tui.screens.labelwords import figure_parts, refit_words, summary
from rlhf_lite.tui.screens.writing import WritingPage
from rlhf_lite.tui.widgets.ask import AskLine
from rlhf_lite.tui.widgets.jobline import JobLine

QUICK = ["reward.epochs=2", "reward.min_steps=1"]
"""What a quick refit sets: enough to see where accuracy goes."""
COUNT_AFTER = 0.1  # seconds without a label; whoever is quicker waits for no figures
NEWS_FOR = 6  # labels that a piece of news stays


class LabelPage(JudgingPage):
    PAGE = "label"
    PAGE_NAME = "label"
    TITLE = "Label"
    BINDINGS = keys.bindings("label")
    HELP_TEXT = (
        "Which answer do you like better? Each key is saved before the next pair appears, and u takes it back, also "
        "tomorrow. The sides are random. Now and then a pair comes again unseen, sides swapped: how often you agree "
        "with yourself is the most that a reward model can learn. A better answer of your own (e) teaches most."
    )

    def __init__(self) -> None:
        super().__init__()
        self._root: Path | None = None
        self._store: LabelStore | None = None
        self._sitting: Sitting | None = None
        self._figures: Figures | None = None
        self._counting = self._count_again = False
        self._count_soon: Timer | None = None
        self._pairs = 0
        self._refit = ""  # the run that is learning from the labels now
        self._news, self._news_for = "", 0  # a sentence about refits, and for how many more labels it stays
        self._answered = False

    def on_mount(self) -> None:
        self.call_after_refresh(garbage.keep)

    def on_screen_resume(self) -> None:
        self._draw()

    def on_screen_suspend(self) -> None:
        if self._answered:
            self._answered = False
            self.changed()

    def on_unmount(self) -> None:
        if self._store:
            self._store.close()

    @on(ProjectChanged)
    def _project_changed(self) -> None:
        if self.app.screen is self:
            self._draw()

    @property
    def sitting(self) -> Sitting:
        """One for as long as the page and the project are open."""
        if self._sitting is None or self._root != self.project.root:
            if self._store:
                self._store.close()
            self._store, self._root = self.project.labels(), self.project.root
            self._sitting = Sitting(self._store, f"person:{config.labeller()}", self.project.file.seed)
            self._figures = None
        return self._sitting

    def _draw(self) -> None:
        """Whatever is asked now, and the figures."""
        with self.told():
            self._show()
            self._count()

    def _show(self) -> None:
        asked = self.sitting.current
        if asked is None:
            self.tell(self._nothing_left())
            return
        mark = self.sitting.mark
        title = f"Prompt {asked.pair.prompt.id}"
        title += (" [flagged]" if mark.flagged else "") + (" [note]" if mark.note else "")
        earlier = asked.pair.prompt.messages[:-1]
        turns = "".join(f"{m['role']}: {m['content']}\n" for m in earlier)
        prompt = f"{turns}user: {asked.pair.prompt.text}" if turns else asked.pair.prompt.text
        self.ask(title, prompt, asked.left, asked.right)

    # --- what the keys do

    def choose(self, choice: str, strong: bool) -> None:
        with self.told():
            said: Choice = choice  # pyright: ignore[reportAssignmentType]  # the key table names no other
            self.sitting.choose(said, strong=strong)
            self._committed(choice_words(choice, strong))
            if choice == "left" or choice == "right":
                self.panes.flash(choice)

    def _committed(self, words: str) -> None:
        self._answered = True
        reached = self.sitting.milestone
        self._show()
        self.echo(f"{words} · u to undo")
        self.call_after_refresh(self._after_label, reached)

    def _after_label(self, reached: int | None) -> None:
        """What can wait until the next pair is on the screen."""
        self._pass_news(reached)
        if self._count_soon:
            self._count_soon.stop()
        self._count_soon = self.set_timer(COUNT_AFTER, self._pause)

    def _pause(self) -> None:
        """Nobody presses a key just now."""
        self._count()
        garbage.pause()

    def action_undo(self) -> None:
        with self.told():
            undone = self.sitting.undo()
            self._show()
            self.echo("Taken back: say it again" if undone else "Nothing to undo", "dim")
            self.call_after_refresh(self._count)

    def action_flag(self) -> None:
        with self.told():
            on = self.sitting.flag()
            self._show()
            self.echo("Flagged: you can come back to it" if on else "No longer flagged", "dim")

    def action_note(self) -> None:
        def keep(text: str) -> None:
            with self.told():
                self.sitting.note(text)
                self._show()
                self.echo("Noted" if text else "No note", "dim")

        self.query_one(AskLine).ask("Note on this pair:", keep, value=self.sitting.mark.note)

    def action_edit(self) -> None:
        """Write a better third answer, beginning with the one that is picked."""
        asked = self.sitting.current
        if asked is None:
            return
        starts = [("answer A", asked.left), ("answer B", asked.right), ("an empty page", "")]
        if self.panes.picked == "right":
            starts[:2] = starts[1::-1]

        def done(text: str | None) -> None:
            if text is not None:
                with self.told():
                    self.sitting.improve(text)
                    self._committed("Your answer beats both, and is one to imitate")

        title = f"A better answer to: {asked.pair.prompt.text}"
        self.app.push_screen(WritingPage(title, starts, ascii=self.desk.ascii), done)

    def action_guidelines(self) -> None:
        """The project's own rules of taste, to read and to write."""
        path = self.project.root / "guidelines.md"

        def done(text: str | None) -> None:
            if text is not None:
                with self.told():
                    settings.write_whole(path, text.encode())
                    self.echo(f"Saved {path.name}", "dim")

        with self.told():
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            title = "Guidelines of this project: what makes an answer better? (guidelines.md)"
            self.app.push_screen(WritingPage(title, [("", text)], ascii=self.desk.ascii), done)

    # --- when nothing waits

    def _nothing_left(self) -> Text:
        assert self._store is not None
        counts, figures = self._store.counts(), self.sitting.figures()
        busy = self.feed.newest("generate")
        if busy and busy.busy:
            return Text(f"{busy.run.name} is making pairs; they appear here as they come.")
        if not counts.pairs:
            return Text("No pairs yet.\n\nEnter: prompts and two answers to each, or an import.")
        return summary(counts, figures, len(self._store.flagged()))

    def go_on(self) -> None:
        assert self._store is not None
        with self.told():
            self.rlhf.show("reward" if self._store.counts().pairs else "prompts")

    # --- figures

    @work(thread=True, group="figures", exit_on_error=False)
    def _read_figures(self, sitting: Sitting, project: Project) -> None:
        """In a thread, which has a connection of its own. A store that cannot be read says so at the next label."""
        found: tuple[Figures, int] | None = None
        try:
            with project.labels() as store:
                found = sitting.figures(store), store.counts().pairs
        except RlhfLiteError:
            pass
        self.app.call_from_thread(self._take_figures, found)

    def _take_figures(self, found: tuple[Figures, int] | None) -> None:
        self._counting = False
        if not self.query("#stats"):  # the page was left meanwhile
            return
        if found:
            self._figures, self._pairs = found
            self._draw_figures()
        if self._count_again:
            self._count()

    def _count(self) -> None:
        """Read the figures anew; asked while they are being read, once more after that."""
        self._count_again = self._counting
        if not self._counting and self._sitting and self._root:
            self._counting = True
            self._read_figures(self._sitting, self.project)

    def _draw_figures(self) -> None:
        found = self._figures
        if found is None:
            return
        self.stats(figure_parts(found, self._pairs, self.desk.ascii))
        self._advise()

    def _advise(self) -> None:
        warnings = self._figures.warnings if self._figures else ()
        self.advise("\n".join([*([self._news] if self._news else []), *warnings[:1]]))

    def _tell_news(self, words: str, labels: int = NEWS_FOR) -> None:
        self._news, self._news_for = words, labels
        self._advise()

    # --- the quick refit

    def _pass_news(self, reached: int | None) -> None:
        """After a label: offer a refit where one is due, and let older news go."""
        if self._refit:
            return
        if reached:
            self._tell_news(f"{reached} decided: r lets a reward model learn from them while you label on.")
        elif self._news_for:
            self._news_for -= 1
            if not self._news_for:
                self._tell_news("")

    def action_refit(self) -> None:
        with self.told():
            if self._refit:
                raise UserError(f"{self._refit} learns", hint="label on; its accuracy is told when it ends")
            preset = stages.preset_of(self.project, QUICK)
            self._refit = self.start(stages.train(self.project, preset, "reward", None)).run.name
            self._tell_news(f"{self._refit} is learning from your labels; label on.")

    @on(RunChanged)
    def _run_changed(self, message: RunChanged) -> None:
        watched, ended = message.change.watched, message.change.ended
        if watched.run.stage == "generate":
            if self.app.screen is self and not self.asking:
                self._draw()
            elif message.change.events or ended:
                self._count()
            self._show_job(watched)
        if watched.run.name == self._refit and ended:
            self._refit = ""
            done = [w for w in self.feed.runs if w.run.stage == "reward" and w.state == "finished"]
            self._tell_news(refit_words(watched, [w for w in done if w is not watched]), 2 * NEWS_FOR)

    def _show_job(self, watched) -> None:
        line = self.query_one(JobLine)
        line.display = watched.busy and not self.asking
        if line.display:
            line.note(watched)
