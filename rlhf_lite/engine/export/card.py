"""The model card that lies beside what an export made, in the format of the Hugging Face hub.

It is written to be published: what it says of the base's licence is the base's own word or "unknown", people are
counted and not named, and no path of this machine is in it. Texts that others chose are put where they can only be
text: in quotes in the front matter, in code elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from rlhf_lite.engine.export import Exported, ExportRequest
from rlhf_lite.engine.export.chart import draw
from rlhf_lite.engine.export.origin import Origin
from rlhf_lite.exports import ADAPTER_FILE, commands
from rlhf_lite.figures import interval, kept, number, size
from rlhf_lite.settings import write_whole

CHART = "training.svg"
_UNKNOWN = "unknown"
_FORMATS = {"gguf": "gguf", "safetensors": "transformers", "adapter": "peft"}  # the hub's names of libraries
_EVALUATED = {"score": ("reward", ".2f"), "tokens": ("tokens an answer", ".1f"), "eos_rate": ("ends by itself", ".0%"),
              "distinct_2": ("distinct bigrams", ".2f")}  # fmt: skip


def write(folder: Path, request: ExportRequest, kind: str, made: Sequence[Exported]) -> None:
    """Write README.md, and the picture it shows, into ``folder``. ``kind`` is one of ``exports.FORMATS``."""
    panels = request.origin.panels if request.origin else ()
    if panels:
        write_whole(folder / CHART, draw(panels).encode())
    lora = (folder / ADAPTER_FILE).is_file()
    write_whole(folder / "README.md", model_card(request, kind, made, lora=lora).encode())


def model_card(request: ExportRequest, kind: str, made: Sequence[Exported], *, lora: bool = False) -> str:
    """The text of README.md; ``lora``: llama.cpp's form of the adapter is there too."""
    base = base_name(request.model)
    parts = [
        _front_matter(request, base, kind),
        f"# {request.name}",
        _what(request, base, kind, made),
        _licence(request),
    ]
    parts += [_use(kind, made, lora), _parity(made)]
    if request.origin:
        parts += [_evaluation(request.origin), _training(request.origin)]
    return "\n\n".join(part for part in parts if part) + "\n"


def base_name(model: Path) -> str:
    """A model folder's name; the hub's own (``org/name``) where the folder is in its cache."""
    if model.parent.name == "snapshots":
        return model.parent.parent.name.removeprefix("models--").replace("--", "/")
    return model.name


def licence(model: Path) -> str:
    """What the base says its licence is: in its card's front matter, else in its config.json, else "unknown"."""
    card = _text(model / "README.md")
    try:
        config = json.loads(_text(model / "config.json"))
    except ValueError:
        config = {}
    front = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    named = dict(re.findall(r"^(license(?:_name)?):\s*(.+?)\s*$", front[1], re.MULTILINE)) if front else {}
    found = named.get("license", "").strip("\"'") or str(config.get("license") or "")
    own = named.get("license_name", "").strip("\"'")
    return f"{found} ({own})" if found == "other" and own else found or _UNKNOWN


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _front_matter(request: ExportRequest, base: str, kind: str) -> str:
    told = licence(request.model).partition(" ")[0]
    known = [] if told == _UNKNOWN else [f"license: {json.dumps(told)}"]
    relation = "adapter" if kind == "adapter" else "quantized" if kind == "gguf" else "finetune"
    lines = [
        f"base_model: {json.dumps(base)}", f"base_model_relation: {relation}", *known,
        f"library_name: {_FORMATS[kind]}", "pipeline_tag: text-generation", "tags: [rlhf, lora]",
    ]  # fmt: skip
    return "\n".join(["---", *lines, "---"])


def _what(request: ExportRequest, base: str, kind: str, made: Sequence[Exported]) -> str:
    trained = request.adapter.parent.name if request.adapter else ""
    tuned = f"the LoRA adapter of `{trained}`" if trained else "no adapter"
    if kind == "adapter":
        return (
            f"{tuned[0].upper()}{tuned[1:]} for `{base}`. It was trained on the base in {_held(request)}, and is added "
            "to whatever weights of it are loaded."
        )
    files = ", ".join(f"`{m.path.name}` ({m.quant}, {size(m.bytes)})" for m in made)
    return f"{files}: `{base}`, as it was held in training ({_held(request)}), with {tuned} merged into it."


def _held(request: ExportRequest) -> str:
    return {"nf4": "4 bits", "16bit": "16 bits", "32bit": "32 bits"}[request.quantization]


def _licence(request: ExportRequest) -> str:
    told = licence(request.model)
    words = "unknown, see the base" if told == _UNKNOWN else f"{told}, as its card says"
    return f"Licence of the base: {words}. What is derived from it is bound by it."


def _use(kind: str, made: Sequence[Exported], lora: bool) -> str:
    first = made[0]
    shell = commands({"path": first.path.name, "context": first.context}) if kind == "gguf" else []
    lines = {
        "gguf": [f"rlhf-lite chat {first.path.name}", *shell],
        "safetensors": [
            "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
            'model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
        ],
        "adapter": [
            "from peft import AutoPeftModelForCausalLM", "", 'model = AutoPeftModelForCausalLM.from_pretrained(".")',
        ],
    }  # fmt: skip
    beside = f"\n\nWith a GGUF of the base: `llama-server -m BASE.gguf --lora {ADAPTER_FILE}`" if lora else ""
    return "## Use\n\n" + "\n".join(f"    {line}".rstrip() for line in lines[kind]) + beside


def _parity(made: Sequence[Exported]) -> str:
    measured = [(m.quant, m.parity) for m in made if m.parity]
    if not measured:
        return ""
    first = measured[0][1]
    rows = {
        "mean KL (nats per position)": [f"{p.mean_kl:.2g}" for _, p in measured],
        "same most likely token": [f"{p.top1_agreement:.1%}" for _, p in measured],
        "chat template renders the same": ["yes" if p.template_identical else "no" for _, p in measured],
        "text becomes the same tokens": ["yes" if p.tokens_identical else "no" for _, p in measured],
        "greedy answers the same, token for token": [f"{p.greedy_identical:.0%}" for _, p in measured],
        "answers that ended by themselves and still do": [f"{p.stops:.0%} of {p.ended}" for _, p in measured],
    }
    if first.tune_kl:
        rows["the file"] = [kept(p.as_json()) for _, p in measured]
    tune = f"\n\nWithout the adapter the mean KL would be {first.tune_kl:.2g}: the size of the tune."
    return (
        "## Is it the tuned model?\n\nCompared with the tuned model in transformers, as it was evaluated, on "
        f"{first.prompts} prompts ({first.positions} positions):\n\n"
        + _table(["", *(quant for quant, _ in measured)], [[name, *cells] for name, cells in rows.items()])
        + (tune if first.tune_kl else "")
    )


def _evaluation(origin: Origin) -> str:
    found = origin.evaluation
    if not found:
        return ""
    sides = [found.get("base") or {}, found.get("tuned") or {}]
    rows = [[words, *(number(s.get(key), form) for s in sides)] for key, (words, form) in _EVALUATED.items()]
    rows.append(["KL to the base (nats an answer)", "-", number(found.get("kl"))])
    rows.append(
        [
            "win rate over the base",
            "-",
            interval(found.get("win_rate"), found.get("win_rate_interval")),
        ]
    )
    judge = found.get("judge")
    by = f"judged by `{Path(str(judge)).name}`" if judge else "judged by nobody"
    return (
        f"## Evaluation\n\nOn {found.get('prompts', '?')} held-out prompts, answers sampled at temperature 1, {by}:\n\n"
        + _table(["", "base", "tuned"], [row for row in rows if set(row[1:]) != {"-"}])
    )


def _training(origin: Origin) -> str:
    parts = [f"## Training\n\nRun `{origin.run}`."]
    if origin.labels:
        each = ", ".join(f"{pairs} {who}" for who, pairs in origin.labels.items())
        parts.append(f"Labels: {sum(origin.labels.values())} decided pairs of answers, {each}.")
    if origin.reward:
        right = interval(origin.reward.get("accuracy"), origin.reward.get("accuracy_interval"))
        parts.append(
            f"The reward model is right on {right} of {origin.reward.get('pairs_heldout')} held-out pairs."
        )
    if origin.panels:
        parts.append(f"![{' and '.join(panel.title for panel in origin.panels)} by step]({CHART})")
    parts.append(f"```toml\n{tomli_w.dumps(dict(origin.settings)).rstrip()}\n```")
    return "\n\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines: list[list[Any]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
