from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lite import doctor

GIB = 2**30
CARD = doctor.Gpu("NVIDIA GeForce RTX 3060", 12 * GIB, "580.65")


def test_everything_is_in_order_where_the_tests_run() -> None:
    findings = doctor.check()
    names = {"Python", "system", "packages", "GPU", "memory", "disk", "llama.cpp", "demo model"}
    assert {c.name for c in findings} >= names
    assert [c for c in findings if not c.ok] == []


def test_looking_imports_nothing_heavy() -> None:
    code = "import sys; from rlhf_lite import doctor; doctor.check(); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'rlhf_lite.doctor'" in loaded
    assert not [name for name in ("torch", "llama_cpp", "bitsandbytes", "textual") if f"'{name}'" in loaded]


def test_a_card_is_read_from_the_drivers_csv() -> None:
    assert doctor.parse_gpu("NVIDIA GeForce RTX 3060, 12288, 580.65\nNVIDIA T4, 15360, 580.65\n") == CARD


@pytest.mark.parametrize("text", ["", "No devices were found\n", "GPU, [N/A], 580.65\n"])
def test_a_driver_without_a_card_is_no_gpu(text: str) -> None:
    assert doctor.parse_gpu(text) is None


@pytest.mark.parametrize(("free", "ok"), [(8_000_000, True), (900_000, False)])
def test_little_memory_is_said_with_the_next_step(tmp_path: Path, free: int, ok: bool) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal:       16000000 kB\nMemAvailable:   {free} kB\n")
    found = doctor.read_memory(tmp_path / "meminfo")
    assert found.ok is ok
    assert bool(found.hint) is not ok


def test_llama_cpp_is_told_by_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_llama_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "gpu", lambda: CARD)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-cpu.so").touch()
    without = doctor.llama_cpp()
    assert "chat runs on the CPU" in without.detail
    assert "GGML_CUDA=on" in without.hint
    (tmp_path / "lib" / "libggml-cuda.so").touch()
    assert "chat runs on the GPU" in doctor.llama_cpp().detail


def test_a_missing_llama_cpp_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_llama_folder", lambda: None)
    found = doctor.llama_cpp()
    assert not found.ok
    assert found.hint


def test_a_missing_compiler_is_a_fault_while_llama_cpp_has_to_be_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.compiler().ok
    monkeypatch.setattr(doctor, "_llama_folder", lambda: None)
    assert "build-essential" in doctor.compiler().hint


@pytest.mark.parametrize(("flags", "trapped"), [("fpu avx512_bf16 sse", True), ("fpu avx512f sse", False)])
def test_the_cpu_whose_fast_path_breaks_training_is_named(tmp_path: Path, flags: str, trapped: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert bool(doctor.cpu_traps(tmp_path / "cpuinfo")) is trapped


def test_a_torch_that_cannot_use_the_card_is_a_fault() -> None:
    fine = {"ok": True, "detail": ""}
    found = {"torch": {"version": "2.13.0", "cuda": False}, "nf4": fine, "llama_cpp": fine}
    assert not doctor.read_probe(found, CARD)[0].ok
    assert doctor.read_probe(found, None)[0].ok


@pytest.mark.long
@pytest.mark.sample
def test_the_engine_says_what_it_can_do() -> None:
    findings = doctor.deep_check()
    assert [c.name for c in findings] == ["torch", "4-bit weights", "llama.cpp loads"]
    assert all(c.ok for c in findings)
