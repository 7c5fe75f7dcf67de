"""What is told of an export: lines that can be pasted, the words beside them, and older runs' settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, refused

from rlhf_lite import exports, overview, report, stages
from rlhf_lite.errors import UserError
from rlhf_lite.events import Finished, Result
from rlhf_lite.project import Project
from rlhf_lite.settings import load_preset, read_run

PARITY = {"prompts": 16, "mean_kl": 0.0003, "top1_agreement": 0.992, "passed": True}


def made(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "quant": "q8_0", "bytes": 3450304, "parity": PARITY, "context": 4096, **more}


def test_the_lines_for_ollama_and_llama_cpp_can_be_pasted() -> None:
    ollama, server = exports.commands({"format": "gguf", **made("/home/my models/Koch & Co-q8_0.gguf")})
    assert shlex.split(ollama) == ["ollama", "create", "koch-co-q8_0", "-f", "/home/my models/Modelfile"]
    assert shlex.split(server)[:3] == ["llama-server", "-m", "/home/my models/Koch & Co-q8_0.gguf"]
    assert "-c 4096 --jinja" in server


def test_an_export_of_an_earlier_version_has_them_too() -> None:
    assert (
        len(exports.commands({"path": "/x/a-q8_0.gguf", "quant": "q8_0", "bytes": 1, "parity": PARITY})) == 2
    )


def test_other_formats_have_lines_of_their_own(tmp_path: Path) -> None:
    assert exports.commands({"format": "safetensors", "path": "/x/a"}) == ["vllm serve /x/a"]
    assert (
        exports.commands({"format": "adapter", "path": str(tmp_path)}) == []
    )  # an architecture that GGUF has not
    (tmp_path / exports.ADAPTER_FILE).touch()
    assert (
        f"--lora {tmp_path / exports.ADAPTER_FILE}"
        in exports.commands({"format": "adapter", "path": str(tmp_path)})[0]
    )


def test_the_command_line_tells_every_file_and_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (
        made("/x/a-q8_0.gguf"),
        made("/x/a-q4_0.gguf", quant="q4_0", parity={**PARITY, "passed": False}),
    )
    report.exported({"format": "gguf", **first, "files": [first, second]})
    said = capsys.readouterr().out
    for line in (
        *exports.commands({"format": "gguf", **first}),
        "/x/a-q4_0.gguf",
        "NOT equal to the tuned model",
    ):
        assert line in said
    report.exported({"format": "adapter", **made("/x/a-adapter", parity=None, context=0)})
    assert "nothing is merged" in capsys.readouterr().out


@pytest.fixture
def tuned(project: Project) -> Project:
    from command_line import add_run

    add_run(project, "ppo", adapter=True)
    return project


def inputs_of(project: Project, *quants: str, format: str = "gguf") -> Any:
    preset = load_preset("demo")
    return stages.export(project, preset, "", quants, None, format).run.settings().inputs


def test_what_is_asked_for_is_what_the_run_is_told(tuned: Project) -> None:
    assert inputs_of(tuned, "Q4_K_M", "f16", "f16").quants == ("q4_k_m", "f16")
    assert inputs_of(tuned).quants == ("q8_0",)
    assert (inputs_of(tuned, format="adapter").quants, inputs_of(tuned, format="adapter").format) == (
        (),
        "adapter",
    )
    with pytest.raises(UserError, match="--quant"):
        inputs_of(tuned, "q8_0", format="safetensors")


def test_a_format_that_there_is_not_names_those_there_are(command: Command, tuned: Project) -> None:
    refused(command("export", tuned.root, "--format", "onnx"), 2, "onnx", "safetensors", "adapter")


def test_an_export_of_an_earlier_version_can_be_read(tuned: Project) -> None:
    run = stages.export(tuned, load_preset("demo"), "", ("q8_0",), None).run
    path = run.folder / "settings.toml"
    older = (
        path.read_text()
        .replace('quants = [\n    "q8_0",\n]\n', 'quant = "q8_0"\n')
        .replace('format = "gguf"\n', "")
    )
    assert 'quant = "q8_0"' in older
    path.write_text(older)
    assert read_run(path).inputs.format == "gguf"


def test_a_chat_is_with_the_newest_gguf_whatever_was_exported_since(tuned: Project, tmp_path: Path) -> None:
    from command_line import add_run

    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    add_run(tuned, "export", Result(values={"path": str(file)}), Finished())
    add_run(tuned, "export", Result(values={"path": str(tmp_path), "format": "adapter"}), Finished())
    assert overview.exported(tuned) == file
