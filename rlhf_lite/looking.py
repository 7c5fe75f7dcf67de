"""The commands that only look: where a project stands, what can be picked, what fits, what this machine has."""

from __future__ import annotations

import msgspec
import typer

from rlhf_lite import (
    base_model,
    catalog,
    config,
    memory,
    options,
    overview,
    paths,
    planning,
    report,
    settings,
    starting,
)
from rlhf_lite.options import Folder, Json, Set, answer, output_of
from rlhf_lite.project import Project

app = typer.Typer()


@app.command()
def status(folder: Folder, json: Json = False) -> None:
    """Where the project stands, and the next step."""
    answer(overview.project(Project.open(folder)), output_of(json), report.project)


@app.command()
def runs(folder: Folder, json: Json = False) -> None:
    """The project's runs."""
    found = [overview.run(r) for r in Project.open(folder).runs()]
    answer({"runs": found}, output_of(json), lambda v: report.runs(v["runs"]))


@app.command()
def models(json: Json = False) -> None:
    """Models known to work."""
    found = (catalog.find_model(base_model.DEMO), *catalog.MODELS)
    values = {"models": [{"id": m.id, "parameters": m.parameters} for m in found]}
    rows = [[m.id, f"{m.parameters / 1e6:,.1f} M"] for m in found]
    answer(values, output_of(json), lambda _: report.table("model", "parameters", rows=rows))


@app.command()
def plan(
    model: options.Model, vram: options.Vram = None, preset: options.Preset = "",
    quantization: options.Held = None, sets: Set = None, json: Json = False,
) -> None:  # fmt: skip
    """What each stage needs of memory, against a GPU's or against what this machine has free."""
    preset = preset or config.preset_for(model)
    chosen = settings.override(settings.load_preset(preset), sets or [])
    room = memory.card(vram) if vram else memory.read()
    shape = starting.sized(model)
    held = quantization or starting.weights_on(room, shape, chosen).quantization
    found = planning.plan(shape, chosen, held, room.free or None, room.kind)
    values = {**msgspec.to_builtins(found), "quantization": held, "device": room.kind, "free": room.free}
    answer(values, output_of(json), lambda v: report.plan(v, memory.words(room)))


@app.command()
def presets(name: options.PresetName = "", json: Json = False) -> None:
    """The presets; with a name, every value of it."""
    if name:
        answer(msgspec.to_builtins(settings.load_preset(name)), output_of(json), report.toml)
        return
    found = [{"name": n, "about": settings.load_preset(n).about} for n in settings.preset_names()]
    rows = [[p["name"], p["about"]] for p in found]
    answer({"presets": found}, output_of(json), lambda _: report.table("preset", "for", rows=rows))


@app.command()
def doctor(deep: options.Deep = False, json: Json = False) -> None:
    """What this machine has, and what is missing."""
    from rlhf_lite import doctor as examination

    checks = [*examination.check(), *(examination.deep_check() if deep else [])]
    values = {"ok": all(c.ok for c in checks), "checks": checks}
    answer(values, output_of(json), lambda v: report.checks(v["checks"]))


@app.command("config")
def configuration(action: options.ConfigAction = "show", json: Json = False) -> None:
    """Settings of the app, and where each comes from."""
    if action == "path":
        answer({"path": str(paths.config_file())}, output_of(json), lambda v: report.line(v["path"]))
        return
    if action == "edit":
        config.edit()
    rows = [[name, entry["value"], entry["from"]] for name, entry in config.described().items()]
    answer(config.described(), output_of(json), lambda _: report.table("setting", "value", "from", rows=rows))
