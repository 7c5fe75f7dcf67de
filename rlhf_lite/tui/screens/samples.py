"""The sample prompts of the newest policy run: what the model answered before the first step, and what now."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite.events import Sample
from rlhf_lite.report import printable
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Change, Watched
from rlhf_lite.tui.page import Page

NONE = (
    "No samples yet. While PPO or DPO trains, it answers a few fixed prompts now and then; here you see how those "
    "answers change, and of PPO what the reward model thinks of them."
)
LAST_SCORES = 12  # of the rewards on the way


class SamplesPage(Page):
    PAGE = "samples"
    PAGE_NAME = "samples"
    TITLE = "Samples"
    AUTO_FOCUS = ""
    BINDINGS = keys.bindings("samples")
    HELP_TEXT = (
        "Answers to the same prompts before training and at a step of it, each with its reward. The arrows to the "
        "sides go back and forth in time, those up and down scroll."
    )
    DEFAULT_CSS = """
    SamplesPage #head { height: 1; text-style: bold; text-wrap: nowrap; text-overflow: ellipsis; }
    SamplesPage #scroll { height: 1fr; border-top: solid $panel; }
    SamplesPage.-ascii #scroll { border-top: ascii $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._at: int | None = None  # the step that is shown; None: the newest, also as it grows
        self._shown = ""

    def body(self) -> Iterable[Widget]:
        yield Static(id="head", markup=False)
        yield VerticalScroll(Static(id="samples", markup=False), id="scroll", can_focus=False)

    @property
    def watched(self) -> Watched | None:
        """The newest policy run that has answered its samples."""
        newest_first = (w for w in reversed(self.feed.runs) if w.run.stage in ("ppo", "dpo", "sft"))
        return next((w for w in newest_first if w.status.samples), None)

    def shows(self, change: Change) -> bool:
        return any(isinstance(event, Sample) for event in change.events)

    @property
    def _steps(self) -> list[int]:
        return sorted({s.step for s in self.watched.status.samples}) if self.watched else []

    def redraw(self) -> None:
        watched, steps = self.watched, self._steps
        body = self.query_one("#samples", Static)
        if watched is None:
            self.query_one("#head", Static).update("Samples")
            body.update(NONE)
            return
        if watched.run.name != self._shown:
            self._shown, self._at = watched.run.name, None
        at = steps[-1] if self._at is None or self._at not in steps else self._at
        when = "now, at step" if at == steps[-1] else "at step"
        words = (
            f"{watched.run.name}: before training, and {when} {at} ({steps.index(at) + 1} of {len(steps)})"
        )
        self.query_one("#head", Static).update(words)
        body.update(self._told(watched.status.samples, at, at == steps[-1]))

    def _told(self, samples: list[Sample], at: int, newest: bool) -> Text:
        text = Text()
        for prompt in dict.fromkeys(s.prompt for s in samples):
            said = [s for s in samples if s.prompt == prompt]
            then = next((s for s in reversed(said) if s.step <= at), None)
            text.append(f"{printable(prompt).strip()}\n", "bold underline")
            self._answer(text, "before", said[0], "dim")
            if then is not None and then is not said[0]:
                self._answer(text, "now" if newest else f"at step {then.step}", then, "")
            self._on_the_way(text, said)
            text.append("\n")
        return text

    def _answer(self, text: Text, when: str, sample: Sample, style: str) -> None:
        score = "" if sample.score is None else f"  reward {sample.score:+.2f}"
        text.append(f"{when}{score}\n", f"{style} bold".strip())
        text.append(f"{printable(sample.completion).strip() or '(nothing)'}\n", style)

    def _on_the_way(self, text: Text, said: list[Sample]) -> None:
        """How its reward went."""
        scores = [(s.step, s.score) for s in said if s.score is not None]
        if len(scores) > 2:
            cut = "... " if len(scores) > LAST_SCORES else ""
            told = "  ".join(f"{score:+.2f}" for _, score in scores[-LAST_SCORES:])
            text.append(f"reward by the step: {cut}{told}\n", "italic")

    def action_move(self, by: int) -> None:
        steps = self._steps
        if steps:
            now = steps.index(self._at) if self._at in steps else len(steps) - 1
            self.action_jump(max(0, min(now + by, len(steps) - 1)))

    def action_jump(self, place: int) -> None:
        steps = self._steps
        if steps:
            self._at = None if steps[place] == steps[-1] else steps[place]
            self.redraw()

    def action_scroll(self, rows: int) -> None:
        self.query_one("#scroll", VerticalScroll).scroll_relative(y=rows, animate=False)

    def action_scroll_pages(self, pages: int) -> None:
        box = self.query_one("#scroll", VerticalScroll)
        box.scroll_relative(y=pages * box.size.height, animate=False)
