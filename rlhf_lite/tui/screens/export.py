"""A GGUF file of the tuned model, proven equal before it is called done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rlhf_lite import catalog, exports, hub, jobs, quants, report, stages
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Change, Watched
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.widgets.jobline import JobLine

ABOUT = {  # 31 letters at most, as many as a narrow terminal has room for
    "f16": "as trained; twice q8_0's size",
    "bf16": "for values beyond f16's range",
    "q8_0": "recommended: keeps small tunes",
    "q6_k": "close to q8_0",
    "q5_k_m": "some of the tune may be lost",
    "q4_k_m": "small; see what is left of it",
    "q4_0": "small, quick on old machines",
    "safetensors": "merged: transformers, vLLM",
    "adapter": "LoRA alone: PEFT, llama.cpp",
}
SAVES_LITTLE = "saves little for this model"


class ExportPage(Page):
    PAGE = "export"
    PAGE_NAME = "export"
    TITLE = "Export"
    BINDINGS = keys.bindings("export")
    HELP_TEXT = (
        "The tuned adapter is merged into its base, written as a GGUF file and quantized; then the file has to say on "
        "held-out prompts what the tuned model says. A small tune drowns in coarse rounding, so take q8_0 unless the "
        "file has to be small. A file that does not pass is not kept. An export that was stopped goes on from its "
        "merged file. K types save little where a model's rows are no multiple of 256."
    )
    DEFAULT_CSS = """
    ExportPage #quants { height: auto; max-height: 50%; border: none; background: transparent; text-wrap: nowrap; }
    ExportPage #line { height: auto; }
    ExportPage #told { padding: 1 0; height: 1fr; }
    """

    def body(self) -> Iterable[Widget]:
        yield Static("What shall it be?", markup=False)
        rows = OptionList(id="quants", compact=True)
        rows.can_focus = False
        yield rows
        yield JobLine(ascii=self.desk.ascii, id="line")
        yield VerticalScroll(Static(id="result", markup=False), id="told", can_focus=False)

    def on_mount(self) -> None:
        rows = self.query_one("#quants", OptionList)
        sizes, coarse = self._sizes()
        for name in (*catalog.QUANTS, *exports.FORMATS[1:]):
            size = report.size(sizes[name]) if name in sizes else ""
            text = Text(f" {name:<12}", "bold", no_wrap=True, overflow="ellipsis")
            text.append(f"{size:>10}  {SAVES_LITTLE if name in coarse else ABOUT[name]}", "not bold")
            rows.add_option(Option(text, id=name))
        rows.highlighted = catalog.QUANTS.index(stages.DEFAULT_QUANT)

    def _sizes(self) -> tuple[dict[str, int], set[str]]:
        """Bytes of each format, as far as they are known, and the types that save little for this model's shape."""
        model, policy = hub.shape(self.project.file.model), self.project.latest_policy()
        adapter = policy.adapter / "adapter_model.safetensors" if policy else None
        found = {"adapter": 2 * adapter.stat().st_size} if adapter and adapter.is_file() else {}
        if model is None:
            return found, set()
        shapes = quants.tensors(model)
        vocabulary = quants.vocabulary_bytes(model, hub.find(self.project.file.model))
        found |= {name: quants.file_bytes(shapes, name, vocabulary) for name in catalog.QUANTS}
        found["safetensors"] = 2 * model.parameters
        return found, {name for name in catalog.QUANTS if quants.saves_little(shapes, name)}

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
        return _made(watched.status.result) if watched.status.result else Text(watched.run.name)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        with self.told():
            preset, chosen = stages.preset_of(self.project, []), event.option.id or stages.DEFAULT_QUANT
            of_gguf = chosen in catalog.QUANTS
            self.start(
                stages.export(
                    self.project,
                    preset,
                    "",
                    (chosen,) if of_gguf else (),
                    None,
                    "gguf" if of_gguf else chosen,
                )
            )
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


def _made(result: Mapping[str, Any]) -> Text:
    """What an export made, how near it is to the tuned model, and what reads it."""
    text = Text()
    for made in result.get("files") or [result]:
        parity = made.get("parity") or {}
        text.append(f"{made.get('path')}\n", "bold")
        text.append(f"{made.get('quant')}, {report.size(made.get('bytes') or 0)}\n")
        words = report.proven(made)
        text.append(words[0].upper() + words[1:], "bold red" if parity.get("passed") is False else "green")
        for key, word in (("template_identical", "template"), ("tokens_identical", "token ids")):
            if key in parity:
                text.append(f"; {word} {'the same' if parity[key] else 'DIFFERENT'}")
        text.append("\n\n")
    chat = "Talk to it here with c, or elsewhere:" if result.get("format", "gguf") == "gguf" else "Elsewhere:"
    commands = exports.commands(result)
    return text.append("\n  ".join([chat, *commands])) if commands else text
