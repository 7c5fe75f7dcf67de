"""An export as its user sees it: a file that is the tuned model, or no file and a reason."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import demo_gguf, demo_model, lora, silent, tiny_gguf, tiny_model

from rlhf_lite.catalog import QUANTS
from rlhf_lite.engine import base, exporting
from rlhf_lite.engine.export import ExportRequest, card, quantize, verify, worker
from rlhf_lite.engine.export import gguf as converter
from rlhf_lite.engine.export.formats import export_gguf
from rlhf_lite.errors import DataError, DiskFull, JobDied, JobError, UserError

PROMPTS = [
    [{"role": "user", "content": question}]
    for question in ("How do I boil an egg?", "Tell me about the moon.", "What should I cook?")
]
Disk = namedtuple("Disk", "total used free")


def request(output: Path, *quants: str, adapter: Path | None = None) -> ExportRequest:
    return ExportRequest(
        model=demo_model(),
        quantization="nf4",
        adapter=adapter if adapter is not None else lora("demo"),
        quants=quants,
        output=output,
        name="tuned",
        prompts=PROMPTS,
    )


def test_each_file_is_the_tuned_model(tmp_path: Path) -> None:
    """Several types in one go: one merge, one proof each, and the base without the adapter is farther away than any."""
    seen: list[tuple[str, int, int]] = []
    nearer = {"q8_0": 10, "f16": 1000, "bf16": 100, "q4_k_m": 1}
    made = export_gguf(request(tmp_path / "exports", *nearer), lambda *what: seen.append(what))
    assert [one.quant for one in made] == list(nearer)
    for one in made:
        assert one.parity
        assert one.parity.passed
        assert one.parity.template_identical
        assert one.parity.tokens_identical
        assert one.parity.prompts == len(PROMPTS)
        assert one.parity.tune_kl > nearer[one.quant] * one.parity.mean_kl
        assert one.path.name == f"tuned-{one.quant}.gguf"
        assert one.bytes == one.path.stat().st_size
    there = {"Modelfile", "README.md", *(f"tuned-{quant}.gguf" for quant in nearer)}
    assert {p.name for p in (tmp_path / "exports").iterdir()} == there
    whats = list(dict.fromkeys(what for what, _, _ in seen))
    assert whats[:2] == ["merge", "verify f16"]
    assert whats[2:] == ["quantize q8_0", "verify q8_0", "verify bf16", "quantize q4_k_m", "verify q4_k_m"]
    assert all(done <= total for _, done, total in seen)


def test_a_base_that_was_trained_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the weights are bf16's, while noise of bf16 arithmetic would exceed what f16 is allowed."""
    monkeypatch.setattr(base, "compute_dtype", lambda device: torch.bfloat16)
    (made,) = export_gguf(dataclasses.replace(request(tmp_path, "f16"), prompts=PROMPTS[:1]), silent)
    assert made.parity
    assert made.parity.mean_kl < 1e-5


def test_the_contract_json(tmp_path: Path) -> None:
    made = export_gguf(request(tmp_path, "q8_0"), silent)
    found = json.loads(json.dumps(exporting.as_json("gguf", made)))
    assert {"path", "quant", "bytes", "parity", "files", "format"} <= found.keys()
    assert found["files"][0].items() <= found.items()
    named = {
        "prompts",
        "mean_kl",
        "top1_agreement",
        "template_identical",
        "tokens_identical",
        "stops",
        "passed",
    }
    assert named <= found["parity"].keys()


def test_a_wrong_file_is_not_kept_and_an_older_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned-q8_0.gguf").write_bytes(b"older")
    (tmp_path / "tuned-q8_0.gguf.77.f16.part").write_bytes(b"left by a kill")
    monkeypatch.setattr(converter, "interleaved", lambda weight, heads: weight)
    with pytest.raises(JobError, match="not equal") as caught:
        export_gguf(request(tmp_path, "q8_0"), silent)
    assert "mean KL" in caught.value.why
    assert "f16" in caught.value.message  # the step that failed: nothing was quantized yet
    assert [p.name for p in tmp_path.iterdir()] == ["tuned-q8_0.gguf"]
    assert (tmp_path / "tuned-q8_0.gguf").read_bytes() == b"older"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models/demo-model", "demo-model"),
        ("hub/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b", "Qwen/Qwen2.5-0.5B"),
    ],
)
def test_the_base_has_the_name_people_know(folder: str, name: str) -> None:
    assert card.base_name(Path(folder)) == name


def test_unknown_quantization_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        export_gguf(request(tmp_path, "q3_k_s"), silent)
    assert all(name in caught.value.hint for name in QUANTS)


def test_every_listed_quantization_has_a_row() -> None:
    limits = [quantize.find_quant(name).max_kl for name in QUANTS]
    assert limits == sorted(limits)  # listed from the most faithful to the smallest
    assert limits[-1] < 1  # what a wrong conversion costs


@pytest.mark.parametrize("name", ["", "../up", "a/b", "two\nlines", 'three"""quotes'])
def test_a_name_that_is_no_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="name"):
        export_gguf(dataclasses.replace(request(tmp_path, "f16"), name=name), silent)


def test_too_little_disk_is_known_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DiskFull, match="disk"):
        export_gguf(request(tmp_path, "q8_0"), silent)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(plan: object, gguf_name: str, source: str) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converter, "_stored", full)
    with pytest.raises(OSError, match="No space"):
        export_gguf(request(tmp_path, "q8_0"), silent)
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_are_all_too_long(tmp_path: Path) -> None:
    long = [[{"role": "user", "content": "word " * 400}]]
    with pytest.raises(UserError, match="256 tokens"):
        export_gguf(dataclasses.replace(request(tmp_path, "f16"), prompts=long), silent)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        export_gguf(request(tmp_path, "f16", adapter=lora("qwen3")), silent)


def test_a_sharded_model_without_an_adapter_and_with_two_stop_tokens(tmp_path: Path) -> None:
    asked = dataclasses.replace(request(tmp_path, "f16"), model=tiny_model("qwen2"))
    (made,) = export_gguf(dataclasses.replace(asked, adapter=None), silent)
    assert made.parity
    assert made.parity.stop_tokens_known
    assert made.parity.tune_kl == 0
    assert (tmp_path / "Modelfile").read_text().count("PARAMETER stop") == 2


def figures(**change: Any) -> verify.Parity:
    good: dict[str, Any] = {
        "prompts": 2,
        "template_identical": True,
        "tokens_identical": True,
        "bos_identical": True,
        "stop_tokens_known": True,
        "greedy_identical": 1.0,
        "greedy_follows": True,
        "ended": 2,
        "stops": 1.0,
    }
    per_position = {
        "kl": np.full(50, 1e-6), "agree": np.ones(50, bool), "tune_kl": np.full(50, 0.1), "own": np.arange(50) > 30,
    }  # fmt: skip
    positions = verify.Positions(
        **{name: change.pop(name, default) for name, default in per_position.items()}
    )
    return verify.judge(quantize.find_quant("f16"), positions, **{**good, **change})


def test_good_figures_pass() -> None:
    assert figures().passed
    verify.require(figures(), quantize.find_quant("f16"), "f16")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kl": np.full(50, 0.01)}, "mean KL"),
        ({"kl": np.append(np.full(49, 1e-6), np.nan)}, "mean KL"),
        ({"agree": np.arange(50) % 2 == 0}, "top-1"),
        ({"template_identical": False}, "template"),
        ({"tokens_identical": False}, "tokenized"),
        ({"bos_identical": False}, "BOS"),
        ({"stop_tokens_known": False}, "stop token"),
        ({"greedy_follows": False}, "greedy text"),
        ({"stops": 0.2}, "end by themselves"),
    ],
)
def test_each_figure_can_fail_an_export(change: dict[str, object], said: str) -> None:
    parity = figures(**change)
    assert not parity.passed
    with pytest.raises(JobError) as caught:
        verify.require(parity, quantize.find_quant("f16"), "f16")
    assert said in caught.value.why


def test_kl_of_known_distributions() -> None:
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    expected = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert verify.kl_per_position(p, q) == pytest.approx([0, expected])


def test_an_abort_of_llama_cpp_is_an_error_with_its_signal(tmp_path: Path) -> None:
    # Heads that are rotated in part, which llama.cpp asserts against here: a key, its type in four bytes, the number.
    key = b"qwen2.rope.dimension_count"
    raw = tiny_gguf("qwen2").read_bytes()
    at = raw.index(key) + len(key) + 4
    half = int.from_bytes(raw[at : at + 4], "little") // 2
    (tmp_path / "half.gguf").write_bytes(raw[:at] + half.to_bytes(4, "little") + raw[at + 4 :])
    with worker.LlamaWorker(1) as llama, pytest.raises(JobDied, match="SIGABRT"):
        llama.open(tmp_path / "half.gguf")


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    with worker.LlamaWorker(1) as llama:
        llama.open(demo_gguf())
        os.kill(llama._child.pid, 9)
        with pytest.raises(JobDied, match="SIGKILL"):
            llama.tokenize(["x"])


def test_quantizing_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with worker.LlamaWorker(1) as llama:
        with pytest.raises(JobError, match="quantize"):
            llama.quantize(tmp_path / "none.gguf", tmp_path / "out.gguf", 7)
        with pytest.raises(JobError, match="itself"):
            llama.quantize(demo_gguf(), demo_gguf(), 7)
        assert llama.open(demo_gguf()) > 0  # and the worker lives on


def test_the_worker_and_the_list_of_quantizations_need_no_torch() -> None:
    code = (
        "import sys, rlhf_lite.engine.export.worker, rlhf_lite.engine.export.quantize, rlhf_lite.engine.chat,"
        "rlhf_lite.engine.serve; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
