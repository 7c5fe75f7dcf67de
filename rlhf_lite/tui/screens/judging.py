"""What labelling and comparing share: a prompt, two answers, keys that choose; below, what was said and how it goes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from rich.text import Text
from textual import on
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite.report import printable
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.widgets.answers import LETTERS, AnswerPane, AnswerPanes, Side
from rlhf_lite.tui.widgets.ask import AskLine
from rlhf_lite.tui.widgets.jobline import JobLine

PROMPT_ROWS = 3  # of a long prompt, until it is opened
TOLD = {"tie": "Tie", "both_bad": "Both bad", "skip": "Skipped"}


def choice_words(choice: str, strong: bool) -> str:
    """``A much better``."""
    if choice in ("left", "right"):
        return f"{LETTERS[choice]} {'much ' if strong else ''}better"
    return TOLD[choice]


class JudgingPage(Page):
    """Base of the two. A subclass says what a choice means, and calls :meth:`ask` or :meth:`tell`."""

    AUTO_FOCUS = ""  # else the line that asks for a note has it, and takes every letter
    DEFAULT_CSS = """
    JudgingPage.-narrow AnswerPanes { layout: vertical; }
    JudgingPage #prompt { height: auto; max-height: 50%; }
    JudgingPage #prompt Static { width: 1fr; height: auto; }
    JudgingPage #words { height: 1fr; padding: 1 1; }
    JudgingPage #line { height: 2; display: none; }
    JudgingPage #echo { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    JudgingPage #advice { height: auto; padding: 0 1; max-height: 3; color: $text-warning; display: none; }
    JudgingPage #stats { height: 1; padding: 0 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    JudgingPage.-narrow.-short #stats { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._opened = False  # the whole of a long prompt is shown
        self._prompt = Text()

    def body(self) -> Iterable[Widget]:
        yield VerticalScroll(Static(id="prompt-text", markup=False), id="prompt", can_focus=False)
        yield AnswerPanes(ascii=self.desk.ascii)
        yield VerticalScroll(Static(id="words-text", markup=False), id="words", can_focus=False)
        yield JobLine(ascii=self.desk.ascii, id="line")
        yield AskLine()
        yield Static(id="echo", markup=False)
        yield Static(id="advice", markup=False)
        yield Static(id="stats", markup=False)

    @property
    def panes(self) -> AnswerPanes:
        return self.query_one(AnswerPanes)

    def ask(self, title: str, prompt: str, left: str, right: str) -> None:
        """Show a pair to choose from. ``title`` stands before the prompt."""
        self._opened = False
        self._prompt = Text(f"{title}  ", "bold").append(printable(prompt).strip(), "not bold")
        self._draw_prompt()
        self._show_panes(True)
        self.panes.show(left, right)

    def tell(self, words: Text) -> None:
        """Words in the place of a pair."""
        self._show_panes(False)
        self.query_one("#words-text", Static).update(words)

    def _show_panes(self, shown: bool) -> None:
        if self.panes.display != shown or self.query_one("#words").display == shown:
            for name in ("#prompt", "#answers"):
                self.query_one(name).display = shown
            self.query_one("#words").display = not shown
            self.refresh_bindings()

    @property
    def asking(self) -> bool:
        """Whether a pair is shown."""
        return self.panes.display

    def _draw_prompt(self) -> None:
        width = max(20, self.size.width - 3)
        lines = self._prompt.wrap(self.app.console, width)
        shown = self._prompt
        if len(lines) > PROMPT_ROWS and not self._opened:
            kept = Text("\n").join(lines[:PROMPT_ROWS])
            kept.right_crop(max(0, lines[PROMPT_ROWS - 1].cell_len + 22 - width))
            shown = kept.append(
                f" … p: all {len(lines)} lines" if not self.desk.ascii else " ... p: all of it", "dim"
            )
        self.query_one("#prompt-text", Static).update(shown)
        self.query_one("#prompt").scroll_home(animate=False)

    def on_resize(self) -> None:
        if self.asking:
            self._draw_prompt()

    def echo(self, words: str, style: str = "") -> None:
        """One line that stays until the next act."""
        self.query_one("#echo", Static).update(Text(words, style), layout=False)

    def advise(self, words: str) -> None:
        """A sentence that asks for attention; none takes its row away."""
        line = self.query_one("#advice", Static)
        if words != str(line.content):  # else the whole page is laid out anew for nothing
            line.display = bool(words)
            line.update(words)

    def stats(self, parts: Sequence[str]) -> None:
        """Figures in one row, the last ones left out where they do not fit."""
        room, shown = max(20, self.size.width - 4), ""
        for part in parts:
            longer = f"{shown} · {part}" if shown else part
            if len(longer) > room:
                break
            shown = longer
        self.query_one("#stats", Static).update(Text(shown), layout=False)

    @abstractmethod
    def choose(self, choice: str, strong: bool) -> None:
        """What a subclass does with a choice: "left", "right", "tie", "both_bad" or "skip"."""

    def go_on(self) -> None:
        """Enter, where no pair is shown."""

    def action_choose(self, choice: str, strong: bool = False) -> None:
        if self.asking:
            self.choose(choice, strong)

    def action_go(self) -> None:
        if not self.asking:
            self.go_on()
        elif self.panes.picked:
            self.choose(self.panes.picked, False)
        else:
            self.echo("a or b chooses; a click picks an answer for Enter", "dim")

    @on(AnswerPane.Clicked)
    def _clicked(self, message: AnswerPane.Clicked) -> None:
        side: Side = message.side
        if self.panes.picked == side:
            self.choose(side, False)
        else:
            self.panes.pick(side)

    def action_scroll(self, lines: int) -> None:
        self._scrolling().scroll_relative(
            y=lines, animate=False
        ) if not self.asking else self.panes.scroll_both(lines)

    def action_scroll_pages(self, pages: int) -> None:
        if self.asking:
            self.panes.scroll_pages(pages)
        else:
            self._scrolling().scroll_page_down() if pages > 0 else self._scrolling().scroll_page_up()

    def _scrolling(self) -> VerticalScroll:
        return self.query_one("#words", VerticalScroll)

    def action_zoom(self) -> None:
        self.panes.zoom()

    def action_diff(self) -> None:
        self.panes.toggle_diff()
        on = "Words that only one answer has are underlined · d turns it off"
        self.echo(on if self.panes.diff else "", "dim")

    def action_prompt(self) -> None:
        self._opened = not self._opened
        self._draw_prompt()

    def action_copy(self) -> None:
        """The answer that is picked or zoomed, else both."""
        side = self.panes.picked or self.panes.zoomed
        shown = self.panes.shown
        self.app.copy_to_clipboard(shown[side] if side else f"A) {shown['left']}\n\nB) {shown['right']}")
        self.echo(f"Copied {LETTERS[side] if side else 'both answers'}", "dim")

    def action_back(self) -> None:
        if self.query_one(AskLine).close():
            return
        if self.panes.picked:
            self.panes.pick(None)
            return
        super().action_back()

    CHOICES = frozenset({"choose", "zoom", "diff", "prompt", "copy", "edit", "flag", "note"})

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys about a pair are shown only beside one."""
        return self.asking if action in self.CHOICES and self.is_mounted else True
