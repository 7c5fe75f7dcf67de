"""The benchmarks take hours and are run by hand; what they import of the project is here all the same."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import profile

from rlhf_lite import paths, shapes
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.settings import Inputs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu
import limit

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p for p in (ROOT / "benchmarks").rglob("*.py") if "_in_" not in p.name)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 5


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_name_that_is_imported_exists(script: Path) -> None:
    found = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf_lite")
        for alias in node.names
    ]
    missing = [
        f"{module}.{name}"
        for module, name in found
        if not hasattr(importlib.import_module(module or ""), name)
        and not importlib.util.find_spec(f"{module}.{name}")
    ]
    assert not missing


@pytest.mark.skipif(torch.cuda.is_available(), reason="limit.py is of the CPU")
def test_the_limit_rests_on_as_many_operations_as_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for attention's own, which torch does not count on a CPU: some 4 % here."""

    def once(call: object, repeats: int = 1) -> list[float]:
        with profile(with_flops=True) as seen:
            call()  # type: ignore[operator]
        products = {"aten::mm", "aten::addmm", "aten::bmm"}
        return [float(sum(e.flops for e in seen.key_averages() if e.key in products))]

    monkeypatch.setattr(limit, "seconds", once)
    model, parts = shapes.read(paths.demo_model(), "demo"), limit.Parts(paths.demo_model())
    for gradients in (False, True):
        counted, told = parts.passed(gradients), limit.one_pass(model, gradients)[1]
        assert counted < told < 1.08 * counted
    counted, told = parts.decoded(8), limit.decoding(model, 8)[1]
    assert counted < told < 1.08 * counted


@pytest.mark.parametrize(
    ("architecture", "tied"), [("qwen2", True), ("llama", False)], ids=["qwen2-tied", "llama-untied"]
)
def test_random_weights_are_of_the_shape_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, tied: bool
) -> None:
    monkeypatch.setattr(gpu, "SHARD", 2**16)  # bytes: several files
    wanted = shapes.Model("m", architecture, 4096, 64, 96, 2, 4, 2, 16, tied, 512)
    folder = gpu.random_weights(wanted, tmp_path / "model")
    assert shapes.read(folder, "m") == wanted
    loaded = SharedBase.load(Inputs(stage="ppo", project="", model=str(folder), quantization="32bit", seed=0))
    assert sum(p.numel() for p in loaded.model.parameters()) == wanted.parameters
    questions = gpu.questions(folder, 40, number=3)
    assert len(set(questions)) == 3
