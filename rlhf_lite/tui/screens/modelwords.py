"""What the model page says of a model: one row of the table, and its needs in sentences."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rich.text import Text

from rlhf_lite import memory, planning, starting
from rlhf_lite.memory import GIB
from rlhf_lite.settings import Preset, Quantization
from rlhf_lite.shapes import Model
from rlhf_lite.starting import Choice
from rlhf_lite.tui.widgets.bytesline import size

FITS = {"fits": ("✔", "green"), "tight": ("≈", "yellow"), "no": ("✘", "red")}
BITS = {"nf4": "4-bit", "16bit": "16-bit", "32bit": "32-bit"}
WIDE, NARROW = 76, 66  # columns from which the chat column, and the parameters, have room
SMALL = 30e6  # parameters that a CPU trains in minutes
ON_CPU = "Without a GPU a model of this size trains for days; the built-in one (demo) for minutes."
STAGES = {"generate": "sampling answers", "sft": "the warm-up", "reward": "the reward model", "ppo": "PPO",
          "dpo": "DPO", "merge": "the export", "chat": "chatting"}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Under what a model is planned; an empty preset is the one that suits the model."""

    preset: str
    quantization: Quantization


def _columns(fit: str, name: str, parameters: str, get: str, peak: str, chat: str, width: int) -> str:
    tail = f" {get:>8} {peak:>10}"
    if width >= NARROW:
        tail = f" {parameters:>6}{tail}"
    if width >= WIDE:
        tail += f" {chat:>8}"
    room = max(width - 9 - len(tail), 8)
    if len(name) > room:
        name = name.rsplit("/", 1)[-1]
    return f" {fit:<8}{name[:room]:<{room}}{tail}"


def heading(width: int) -> str:
    return _columns("Fit", "Model", "Params", "Get", "Train peak", "Chat", width)


def row(choice: Choice, setting: Setting, room: memory.Memory, width: int, ascii: bool) -> Text:
    """One row. What is not known is a question mark."""
    if choice.model is None:
        return Text(_columns("?", choice.id, "?", "on disk" if choice.on_disk else "?", "?", "?", width))
    preset = starting.preset_of(choice.id, setting.preset)
    need = starting.peak(choice.model, preset, setting.quantization, room.kind)[1].bytes
    fit: str = memory.fit(need, room)
    mark, style = FITS[fit]
    if _is_slow(choice, room) and fit != "no":
        fit, (mark, style) = "slow", FITS["tight"]
    text = Text(
        _columns(
            fit if ascii else f"{mark} {fit}", choice.id, _parameters(choice.model.parameters), _get(choice),
            _size(need), _size(choice.chat), width,
        ),
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    if "NO_COLOR" not in os.environ:  # where red would be a dark grey
        text.stylize(style, 1, 9)
    return text


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


def _is_slow(choice: Choice, room: memory.Memory) -> bool:
    return room.kind == "cpu" and choice.model is not None and choice.model.parameters > SMALL


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _get(choice: Choice) -> str:
    if choice.id == starting.DEMO:
        return "built in"
    if choice.on_disk:
        return "on disk"
    return "gated" if choice.gated else size(choice.download)


def _checkpointing(model: Model, preset: Preset, quantization: Quantization, room: memory.Memory) -> str:
    """Which stages would compute their layers again here."""
    planned = planning.plan(model, preset, quantization, room.free, room.kind).stages
    again, kept = (
        ", ".join(STAGES[name] for name, stage in planned.items() if stage.checkpointing is said) or "nothing"
        for said in (True, False)
    )
    return f"Checkpointing, a third more time for less memory, would be on for {again}; off for {kept}."


def detail(choice: Choice, setting: Setting, room: memory.Memory, itemised: bool) -> Text:
    """What training needs against what is free, and the nearest change that fits."""
    text = Text(choice.id, "bold")
    if choice.model is None:
        return text.append("  its size is not known here, so nobody can say whether it fits.", "not bold")
    preset = starting.preset_of(choice.id, setting.preset)
    stage, need = starting.peak(choice.model, preset, setting.quantization, room.kind)
    fit = memory.fit(need.bytes, room)
    said = {"fits": "It fits", "tight": "It is tight", "no": "It does not fit"}[fit]
    text.append(
        f"  training in {BITS[setting.quantization]} takes {need.bytes / GIB:.1f} GiB at its peak"
        f" ({STAGES[stage]}). {said}: {memory.words(room)}.",
        "not bold",
    )
    if fit == "no" and (near := memory.nearest_fit(choice.model, preset, setting.quantization, room)):
        text.append(f"\nNearest that fits: {near.words}", "not bold")
    if itemised:
        items = sorted(need.items.items(), key=lambda item: -item[1])
        parts = " + ".join(
            f"{name.replace('_', ' ')} {count / GIB:.2f}" for name, count in items if count > GIB / 200
        )
        text.append(f"\n{need.bytes / GIB:.2f} GiB = {parts}", "not bold")
        text.append(f"\n{_checkpointing(choice.model, preset, setting.quantization, room)}", "not bold")
        text.append("\nComputed, not measured. Chat: the exported Q8_0 file and 4096 tokens.", "not bold dim")
    if choice.gated and not choice.on_disk:
        text.append(
            f"\nIts owner wants a licence accepted first: https://huggingface.co/{choice.id}, then"
            " hf auth login",
            "not bold",
        )
    if _is_slow(choice, room):
        text.append(f"\n{ON_CPU}", "not bold")
    return text
