"""Every run of the project, the newest first: what came of it, its charts again, another one like it, or none of it."""

from __future__ import annotations

from collections.abc import Iterable

from textual import on
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import history
from rlhf_lite.errors import UserError
from rlhf_lite.project import Run
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens import runwords
from rlhf_lite.tui.screens.behind import behind
from rlhf_lite.tui.screens.delete import DeletePage
from rlhf_lite.tui.screens.log import LogPage
from rlhf_lite.tui.screens.replay import OverlayPage, ReplayPage
from rlhf_lite.tui.widgets.rows import PickList
from rlhf_lite.tui.widgets.runcharts import CHARTS

NONE = "No run yet. Sampling pairs, training, comparing and exporting are runs; each stays here with all it measured."
PAGES = {"generate": "prompts", "eval": "compare", "download": "model"}
"""Pages of the stages that are not called like them."""


class RunsPage(Page):
    PAGE = "runs"
    PAGE_NAME = "runs"
    TITLE = "Runs"
    AUTO_FOCUS = "#runs"
    BINDINGS = keys.bindings("runs")
    HELP_TEXT = (
        "Every run stays here with all it measured. Enter shows its charts again, step by step. Space marks a run; "
        "with two marked, o draws both in one chart. x deletes a run, but none that another one started from."
    )
    DEFAULT_CSS = """
    RunsPage #head { height: 1; text-style: bold; }
    RunsPage #runs { height: 1fr; }
    RunsPage #detail { height: auto; max-height: 5; border-top: solid $panel; }
    RunsPage.-ascii #detail { border-top: ascii $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._marked: list[str] = []  # at most two names
        self._verdicts: dict[str, runwords.Verdict] = {}
        self._looking = False

    def body(self) -> Iterable[Widget]:
        yield Static(id="head", markup=False)
        yield PickList(id="runs", compact=True)
        yield Static(id="detail", markup=False)

    def on_screen_resume(self) -> None:
        self._draw()
        self._look()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    @on(ProjectChanged)
    def _project_changed(self) -> None:
        self._marked, self._verdicts = [], {}
        self._draw()
        self._look()

    @on(RunChanged)
    def _run_changed(self, message: RunChanged) -> None:
        if message.change.ended:
            self._verdicts.pop(message.change.watched.run.name, None)
            self._look()
        if self.app.screen is self:
            self._draw()

    @property
    def _now(self) -> Watched | None:
        option = self.query_one(PickList).highlighted_option
        return next((w for w in self.feed.runs if option and w.run.name == option.id), None)

    def _look(self) -> None:
        """Sizes and verdicts, of what has none yet; a run that goes on is judged when it has ended."""
        missing = [w for w in self.feed.runs if w.run.name not in self._verdicts and not w.busy]
        if missing and not self._looking:
            self._looking = True
            behind(self, lambda: [_judged(w) for w in missing], self._looked)

    def _looked(self, found: list[tuple[Watched, Watched, runwords.Verdict]]) -> None:
        self._looking = False
        for watched, read, verdict in found:
            watched.adopt(read)
            self._verdicts[watched.run.name] = verdict
        self._draw()

    def _draw(self) -> None:
        with self.told():
            rows = self.query_one(PickList)
            before, place = rows.highlighted_option, rows.highlighted or 0
            runs = self.feed.runs[::-1]
            width = self.size.width - 4
            self.query_one("#head", Static).update(runwords.heading(width) if runs else NONE)
            drawn = [
                Option(
                    runwords.row(w, self._verdicts.get(w.run.name), self._mark(w.run), width), id=w.run.name
                )
                for w in runs
            ]
            rows.set_options(drawn)
            names = [w.run.name for w in runs]
            here = names.index(before.id) if before and before.id in names else min(place, len(names) - 1)
            rows.highlighted = here if names else None
            self._describe()

    def _mark(self, run: Run) -> str:
        if run.name not in self._marked:
            return " "
        return "*" if self.desk.ascii else "●"

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        now = self._now
        told = runwords.detail(now, self._verdicts.get(now.run.name)) if now else ""
        self.query_one("#detail", Static).update(told)
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "overlay":
                return len(self._marked) == 2
            case "replay" | "mark" | "clone" | "delete" | "log":
                return self.desk.feed is not None and bool(self.feed.runs)
            case _:
                return True

    @on(OptionList.OptionSelected)
    def _chosen(self) -> None:
        now = self._now
        if now is None:
            return
        if now.busy:
            self._show_stage(now.run)
        elif now.run.stage in CHARTS and now.status.metrics:
            with self.told():
                self.app.push_screen(ReplayPage(now, now.run.settings().preset))
        else:
            self.notify(f"{now.run.name} measured nothing step by step; l shows its log.")

    def _show_stage(self, run: Run) -> None:
        self.rlhf.show(PAGES.get(run.stage, run.stage))

    def action_replay(self) -> None:
        self.query_one(PickList).action_select()

    def action_mark(self) -> None:
        """Mark a run or take its mark off; a third one takes the place of the first."""
        now = self._now
        if now is None:
            return
        if now.run.name in self._marked:
            self._marked.remove(now.run.name)
        elif not now.status.metrics:
            self.notify(f"{now.run.name} measured nothing step by step, so there is nothing to draw.")
        else:
            self._marked = [*self._marked, now.run.name][-2:]
        self._draw()

    def action_overlay(self) -> None:
        marked = [w for w in self.feed.runs if w.run.name in self._marked]
        if len(marked) == 2:
            self.app.push_screen(OverlayPage(marked[0], marked[1]))

    def action_clone(self) -> None:
        """A new run of this stage with this run's settings."""
        now = self._now
        if now is None:
            return
        with self.told():
            started = self.start(history.again(self.project, now.run))
            self.notify(f"{started.run.name} has the settings of {now.run.name}.")
            self._show_stage(started.run)

    def action_delete(self) -> None:
        now = self._now
        if now is None:
            return
        with self.told():
            history.check_deletable(self.project, now.run)
            if now.busy:  # started a moment ago, and not yet at its lock
                raise UserError(f"{now.run.name} is starting", hint="stop it first")
            self.app.push_screen(
                DeletePage(now.run), lambda wanted: self._delete(now.run) if wanted else None
            )

    def _delete(self, run: Run) -> None:
        def gone(size: int) -> None:
            self._marked = [name for name in self._marked if name != run.name]
            self.feed.forget(run)
            self.notify(f"{run.name} is deleted; {runwords.size(size)} are free again.")
            self.changed()

        def work() -> int:
            size = history.size(run)
            history.delete(self.project, run)
            return size

        behind(self, work, gone)

    def action_log(self) -> None:
        self.rlhf.show("log")
        now = self._now
        if now and isinstance(self.app.screen, LogPage):
            self.app.screen.select(now.run.name)


def _judged(watched: Watched) -> tuple[Watched, Watched, runwords.Verdict]:
    """A run, what was read of it, and the verdict on that: for a thread. Long logs are not for the app's own."""
    read = Watched(watched.run) if watched.untouched else watched
    return watched, read, runwords.verdict(read)
