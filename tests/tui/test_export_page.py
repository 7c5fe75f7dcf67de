"""The export page: what each choice will take, what a press starts, what is told when it is done."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from at_the_keys import drive, page, rows, shown
from made import a_run
from textual.pilot import Pilot

from rlhf_lite import catalog, exports, hub, stages
from rlhf_lite.events import EventWriter, Finished, Result
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.tui.app import RlhfApp

PARITY = {"prompts": 8, "mean_kl": 0.0004, "top1_agreement": 0.992, "template_identical": True,
          "tokens_identical": True, "passed": True}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    run = a_run(made, "ppo")
    (run.adapter / "adapter_model.safetensors").write_bytes(bytes(500_000))
    return made


def of_run(project: Project, values: dict[str, Any]) -> None:
    run = a_run(project, "export", end="")
    log = EventWriter(run.events_path)
    log.write(Result(values={"run": run.name, **values}))
    log.write(Finished())
    log.close()


async def open_export(app: RlhfApp, pilot: Pilot[None]) -> None:
    app.show("export")
    await pilot.pause()
    assert page(app) == "export"


def test_sizes_are_there_before_the_key_is_pressed(project: Project) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_export(app, pilot)
        told = dict(row.split(maxsplit=1) for row in rows(app))
        assert list(told) == [*catalog.QUANTS, "safetensors", "adapter"]
        assert told["q8_0"].startswith("3.3 MiB")  # the demo's files, as they are written
        assert told["f16"].startswith("6.1 MiB")
        assert told["q4_k_m"].startswith("2.1 MiB")
        assert told["adapter"].startswith("976.6 KiB")  # both forms of it
        assert not [row for row in rows(app) if "saves little" in row]

    drive(steps, project.root)


def test_a_type_that_saves_little_says_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    monkeypatch.setattr(hub, "shape", lambda name: model)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_export(app, pilot)
        assert {row.split()[0] for row in rows(app) if "saves little" in row} == {"q6_k", "q5_k_m", "q4_k_m"}

    drive(steps, project.root)


def test_a_model_of_unknown_shape_can_be_exported_all_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "shape", lambda name: None)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_export(app, pilot)
        assert len(rows(app)) == len(catalog.QUANTS) + 2

    drive(steps, project.root)


@pytest.mark.parametrize(
    ("ups", "quants", "format"),
    [(0, ("q8_0",), "gguf"), (1, ("bf16",), "gguf"), (3, (), "adapter"), (4, (), "safetensors")],
)
def test_a_press_starts_what_is_marked(
    project: Project, monkeypatch: pytest.MonkeyPatch, ups: int, quants: tuple[str, ...], format: str
) -> None:
    asked: list[tuple[object, ...]] = []

    def export(*arguments: object) -> stages.Prepared:
        asked.append(arguments)
        return dataclasses.replace(prepared)

    prepared = stages.Prepared(a_run(project, "export"))
    monkeypatch.setattr(stages, "export", export)
    monkeypatch.setattr("rlhf_lite.tui.screens.export.ExportPage.start", lambda self, run: None)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_export(app, pilot)
        await pilot.press(*["up"] * ups, "enter")
        await pilot.pause()
        ((_, _, name, wanted, folder, kind),) = asked
        assert (name, wanted, folder, kind) == ("", quants, None, format)

    drive(steps, project.root)


def test_the_end_tells_each_file_and_the_lines_to_paste(project: Project) -> None:
    one = {"path": "/x/mine-q8_0.gguf", "quant": "q8_0", "bytes": 3450304, "parity": PARITY, "context": 1024}
    two = {
        **one,
        "path": "/x/mine-q4_0.gguf",
        "quant": "q4_0",
        "parity": {**PARITY, "tokens_identical": False},
    }
    values = {"format": "gguf", **one, "files": [one, two]}
    of_run(project, values)

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_export(app, pilot)
        told = shown(app, "#result")
        for words in ("/x/mine-q8_0.gguf", "/x/mine-q4_0.gguf", "mean KL 0.0004", "token ids DIFFERENT"):
            assert words in told
        for line in exports.commands(values):
            assert line in told

    drive(steps, project.root)


def test_an_adapter_claims_no_comparison(project: Project) -> None:
    of_run(
        project,
        {"format": "adapter", "path": "/x/mine-adapter", "quant": "f32", "bytes": 1000, "parity": None},
    )

    async def steps(app: RlhfApp, pilot: Pilot[None]) -> None:
        await open_export(app, pilot)
        told = shown(app, "#result")
        assert "nothing is merged" in told
        assert "template" not in told
        assert "Talk to it here" not in told

    drive(steps, project.root)
