"""What the prompts page offers and says."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.formats import Refused
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.widgets.rows import Doing

HELP_TEXT = (
    "What the labels will be about: prompts, and two answers to each from the newest model of the project. A pack or a "
    "file is enough to begin with; prompts like those you will ask teach most. Sampling runs in a process of its own, "
    "and the first pairs can be labelled while the rest is made. Below, prompts as the model reads them."
)
REFUSED_SHOWN = 5
PACKS = {
    "examples": "that the built-in model knows about",
    "everyday": "questions of everyday life (0.5 B and more)",
    "writing": "small writing tasks (0.5 B and more)",
}
NOTHING_SHOWN = "Here you will see some prompts as the model reads them."
NOT_HERE = "Here you will see some prompts as the model reads them, once it is on this machine."
RENDERING = "Rendering some prompts as the model reads them… (loading its tokenizer)"
STOP = Doing("stop", "s", "Stop sampling", "what was sampled is kept")
FETCH = Doing("model", "m", "Get the model", "it is not on this machine yet", strong=True)
OWN = (
    Doing("write", "w", "Write prompts", "type a line, or paste many"),
    Doing("file", "f", "Add a file", ".txt with one a line, .jsonl, .json, .parquet"),
    Doing("import", "i", "Import preferences", "pairs that were labelled elsewhere"),
)


def sample(pairs: int) -> Doing:
    """Two answers to so many prompts."""
    return Doing("generate", "g", f"Sample {pairs} pairs", "of answers; n for another number", strong=True)


def label(waiting: int) -> Doing:
    return Doing("label", "l", "Label answers", f"{waiting} pairs wait", strong=True)


def pack(name: str, size: int) -> Doing:
    """A file of prompts that came along."""
    return Doing(f"pack('{name}')", "", f"Add {name}", f"{size} {PACKS.get(name, 'prompts')}")


def absent(model: str, download: Watched | None) -> str:
    """A model that is not on this machine, and how far its download is."""
    if download is None or not download.busy:
        return f"{model} is not on this machine yet: m, then d, downloads it."
    done, total = download.status.progress.get("bytes", (0, 0))
    share = f" ({done / total:.0%})" if total else ""
    return f"{model} is being downloaded{share}; you may go on with prompts meanwhile."


def taken(what: str, new: int, known: int, refused: list[Refused]) -> str:
    """What came in from a file, and the first rows that did not."""
    lines = [f"{new} {what}, {known} known already, {len(refused)} refused."]
    lines += [f"  {Path(r.file).name}:{r.line}: {r.why}" for r in refused[:REFUSED_SHOWN]]
    if len(refused) > REFUSED_SHOWN:
        lines.append(f"  and {len(refused) - REFUSED_SHOWN} more")
    return "\n".join(lines)


def line(text: Text, words: str, style: str = "") -> Text:
    """One more line under what is there."""
    return text.append(("\n" if text else "") + words, style)


def failure(error: Exception) -> Text:
    """Why no examples can be shown."""
    if not isinstance(error, RlhfLiteError):
        return Text(f"The examples cannot be shown: {error}")
    told = f"The examples cannot be shown: {error.message}"
    return Text(told + "".join(f"\n{part}" for part in (error.why, error.hint) if part))


def ended(run: Watched) -> str:
    """How a run of ``generate`` ended, and the next key."""
    result, failed = run.status.result, run.status.failure
    if failed:
        return f"{run.run.name} failed: {failed.message}. {failed.hint}".rstrip()
    if run.state == "stopped":
        return f"{run.run.name} was stopped; what was sampled is kept. g samples more."
    if run.state == "died":
        return f"{run.run.name} ended without a word; its log is {run.run.log_path}. g samples again."
    pairs, skipped = result.get("pairs", 0), result.get("skipped_identical", 0)
    warned = "".join(f"\n{w.text}; {w.hint}" for w in run.status.warnings)
    return (
        f"{pairs} pairs on {result.get('prompts', '?')} prompts in {result.get('seconds', '?')} s;"
        f" {skipped} left out, their answers being alike. l labels them.{warned}"
    )
