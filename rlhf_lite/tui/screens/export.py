"""A GGUF file of the tuned model, proven equal before it is called done."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual import on
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import catalog, jobs, report, stages
from rlhf_lite.errors import UserError
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Change, Watched
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.widgets.jobline import JobLine

# Bits a weight by llama.cpp's block layouts; the _M ones mix two of them, so theirs are typical, not exact.
BITS = {"f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q5_k_m": 5.7, "q4_k_m": 4.85, "q4_0": 4.5}
ABOUT = {
    "f16": "as it was trained; twice the size of q8_0",
    "bf16": "coarser than f16; for a model that exceeds its range",
    "q8_0": "recommended: keeps a small change of behaviour",
    "q6_k": "close to q8_0",
    "q5_k_m": "smaller; some of the tune may be rounded away",
    "q4_k_m": "small; check what is left of the tune",
    "q4_0": "small, quick on old machines; check what is left",
}


class ExportPage(Page):
    PAGE = "export"
    PAGE_NAME = "export"
    TITLE = "Export"
    BINDINGS = keys.bindings("export")
    HELP_TEXT = (
        "The tuned adapter is merged into its base, written as a GGUF file and quantized; then the file has to say on "
        "held-out prompts what the tuned model says. A small tune drowns in coarse rounding, so take q8_0 unless the "
        "file has to be small. A file that does not pass is not kept."
    )
    DEFAULT_CSS = """
    ExportPage #quants { height: auto; max-height: 50%; border: none; background: transparent; text-wrap: nowrap; }
    ExportPage #line { height: auto; }
    ExportPage #told { padding: 1 0; height: 1fr; }
    """

    def body(self) -> Iterable[Widget]:
        yield Static("Which file shall it be?", markup=False)
        rows = OptionList(id="quants", compact=True)
        rows.can_focus = False
        yield rows
        yield JobLine(ascii=self.desk.ascii, id="line")
        yield VerticalScroll(Static(id="result", markup=False), id="told", can_focus=False)

    def on_mount(self) -> None:
        rows = self.query_one("#quants", OptionList)
        try:
            weights = catalog.find_model(self.project.file.model).parameters
        except UserError:  # a folder whose config is gone: the sizes are a convenience
            weights = 0
        for name in catalog.QUANTS:
            size = f"about {report.size(weights * BITS[name] / 8)}" if weights else ""
            text = Text(f" {name:<8}", "bold", no_wrap=True, overflow="ellipsis")
            text.append(f"{size:<16}{ABOUT[name]}", "not bold")
            rows.add_option(Option(text, id=name))
        rows.highlighted = catalog.QUANTS.index("q8_0")

    @property
    def watched(self) -> Watched | None:
        return self.feed.newest("export")

    def shows(self, change: Change) -> bool:
        return change.watched is self.watched

    def redraw(self) -> None:
        watched, line = self.watched, self.query_one(JobLine)
        line.display = watched is not None and watched.busy
        if watched:
            line.note(watched)
        self.query_one("#result", Static).update(self._words(watched))

    def _words(self, watched: Watched | None) -> Text:
        if watched is None or watched.busy:
            return Text("Merge, write, quantize, then prove: the file must say what the tuned model says.")
        failure = watched.status.failure
        if watched.state != "finished":
            why = (
                f"{failure.message}. {failure.why}\nNext: {failure.hint}"
                if failure
                else "it did not come to its end"
            )
            return Text(f"{watched.run.name}: {why}", "red")
        match watched.status.result:
            case {"path": str(path), "quant": str(quant), "bytes": int(size), "parity": dict(parity)}:
                return _proven(path, quant, size, parity)
            case _:
                return Text(watched.run.name)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        with self.told():
            preset = stages.preset_of(self.project, [])
            self.start(stages.export(self.project, preset, "", event.option.id or "q8_0", None))
            self.redraw()

    def action_start(self) -> None:
        self.query_one("#quants", OptionList).action_select()

    def action_up(self) -> None:
        self.query_one("#quants", OptionList).action_cursor_up()

    def action_down(self) -> None:
        self.query_one("#quants", OptionList).action_cursor_down()

    def action_stop(self) -> None:
        watched = self.watched
        if watched and watched.busy:
            jobs.stop(watched.run)

    def action_chat(self) -> None:
        self.rlhf.show("chat")


def _proven(path: str, quant: str, size: int, parity: dict[str, object]) -> Text:
    passed = bool(parity.get("passed"))
    text = Text(f"{path}\n", "bold").append(f"{quant}, {report.size(size)}\n\n", "not bold")
    text.append(
        "Equal to the tuned model: " if passed else "NOT equal to the tuned model: ",
        "green" if passed else "bold red",
    )
    agreement, kl = parity.get("top1_agreement"), parity.get("mean_kl")
    if isinstance(agreement, float) and isinstance(kl, float):
        text.append(
            f"the same next token in {agreement:.1%}, mean KL {kl:.2g}, on {parity.get('prompts')} prompts; "
        )
    for key, word in (("template_identical", "template"), ("tokens_identical", "token ids")):
        text.append(f"{word} {'the same' if parity.get(key) else 'DIFFERENT'}; ")
    folder, _, file = path.rpartition("/")
    name = file.removesuffix(".gguf").lower()
    text.append(f"\n\nTalk to it here with c, or elsewhere:\n  ollama create {name} -f {folder}/Modelfile\n")
    return text.append(f"  llama-server -m {path}\n")
