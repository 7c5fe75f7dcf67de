"""An export that was stopped or killed: nothing half-written stays, and the next one goes on from its merged file."""

from __future__ import annotations

import dataclasses
import os
import shutil
from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from export_models import demo_model, lora, silent
from test_export import PROMPTS, request

from rlhf_lite import quants, shapes
from rlhf_lite.engine.export import formats, stage
from rlhf_lite.engine.export.formats import export_gguf


class Stopped(Exception):
    pass


def stop_at(name: str):
    def report(what: str, done: int, total: int) -> None:
        if what == name:
            raise Stopped

    return report


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_stopped_export_is_gone_on_with_for_any_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dataclasses.replace(request(tmp_path, "q8_0"), prompts=PROMPTS[:1])
    with pytest.raises(Stopped):
        export_gguf(asked, stop_at("quantize q8_0"))
    (staged,) = names(tmp_path)
    assert staged.endswith(".stage")
    (tmp_path / "tuned-q8_0.gguf.77.part").write_bytes(b"what a kill leaves")
    (tmp_path / "tuned-f16.0123456789abcdef.stage").write_bytes(
        b"of an adapter that was trained further since"
    )
    monkeypatch.setattr(formats, "write_gguf", lambda *_: pytest.fail("merged again"))
    made = export_gguf(dataclasses.replace(asked, quants=("q4_0", "f16")), silent)
    assert names(tmp_path) == ["Modelfile", "README.md", "tuned-f16.gguf", "tuned-q4_0.gguf"]
    # What the app told before the key was pressed is what was written.
    model = shapes.read(demo_model(), "demo")
    told = [
        quants.file_bytes(quants.tensors(model), m.quant, quants.vocabulary_bytes(model, demo_model()))
        for m in made
    ]
    assert told == pytest.approx([m.bytes for m in made], rel=0.01)
    for one in made:
        assert gguf.GGUFReader(one.path).tensors


def test_a_stage_is_of_its_inputs_alone(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(lora("demo"), adapter)
    model = tmp_path / "model"
    shutil.copytree(demo_model(), model)
    asked = dataclasses.replace(request(tmp_path, "q8_0", adapter=adapter), model=model)
    first = stage.f16_stage(asked, "torch.float32")
    assert stage.f16_stage(dataclasses.replace(asked, quants=("f16",), prompts=[]), "torch.float32") == first
    found = {first, stage.f16_stage(asked, "torch.bfloat16")}
    for change in ({"name": "other"}, {"quantization": "16bit"}, {"adapter": None}, {"plain_template": True}):
        found.add(stage.f16_stage(dataclasses.replace(asked, **change), "torch.float32"))
    weights = adapter / "adapter_model.safetensors"
    raw, times = bytearray(weights.read_bytes()), weights.stat()
    raw[-1] ^= 1
    weights.write_bytes(raw)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # an adapter is known by every byte
    found.add(stage.f16_stage(asked, "torch.float32"))
    os.utime(model / "model.safetensors", ns=(1, 1))
    found.add(stage.f16_stage(asked, "torch.float32"))
    assert len(found) == 8


def test_a_folder_takes_its_name_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "tuned-adapter"
    for content in ("older", "newer"):
        with stage.whole(final) as part:
            part.mkdir()
            (part / "file").write_text(content)
    with suppress(Stopped), stage.whole(final) as part:
        part.mkdir()
        (part / "file").write_text("half")
        raise Stopped
    assert names(tmp_path) == ["tuned-adapter"]
    assert (final / "file").read_text() == "newer"


@pytest.mark.parametrize("successor", [True, False])
def test_a_kill_between_two_names_loses_no_folder(tmp_path: Path, successor: bool) -> None:
    (tmp_path / "tuned-adapter.former").mkdir()
    (tmp_path / "tuned-adapter.former" / "file").write_text("older")
    if successor:
        (tmp_path / "tuned-adapter").mkdir()
    (tmp_path / "tuned-other-q8_0.gguf.7.part").touch()  # another project's, which may be at work
    stage.sweep(tmp_path, "tuned")
    assert names(tmp_path) == ["tuned-adapter", "tuned-other-q8_0.gguf.7.part"]
    assert (tmp_path / "tuned-adapter" / "file").exists() is not successor
