from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_lite import catalog, doctor, memory, planning
from rlhf_lite.settings import Preset, load_preset, override
from rlhf_lite.shapes import Model

GIB = 2**30


class Fault(Exception):
    """The driver's own kind of error."""


class OldDriver(Exception):
    """Raised by pynvml where the driver lacks a function; no child of its other error."""


def used(pid: int, size: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


class FakeNvml:
    """A card of 12 GiB with 4 used, by a desktop and a job."""

    NVMLError: type[Exception] = Fault
    NVMLLibraryMismatchError: type[Exception] = OldDriver

    def __init__(self, **faults: type[Exception]) -> None:
        self.faults = faults
        self.asked: list[str] = []
        self.computing = [used(700, 3 * GIB), used(41, GIB // 4)]
        self.drawing = [used(41, GIB // 2)]

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.faults:
            raise self.faults[name]

    def nvmlDeviceGetCount(self) -> int:
        self._ask("count")
        return 1

    def nvmlInit(self) -> None:
        self._ask("init")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        self._ask(f"index {index}")
        return "card"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        self._ask(f"uuid {uuid}")
        return "card"

    def nvmlDeviceGetName(self, handle: object) -> str:
        self._ask("name")
        return "NVIDIA GeForce RTX 3060"

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:
        self._ask("memory")
        return SimpleNamespace(total=12 * GIB, free=8 * GIB, used=3 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        self._ask("computing")
        return self.computing

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        self._ask("drawing")
        return self.drawing


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc with 16 GiB of RAM, 10 of them free."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "meminfo").write_text(
        f"MemTotal:       {16 * 2**20} kB\nMemFree:  5 kB\nMemAvailable:   {10 * 2**20} kB\n"
    )
    for pid, line in (
        (41, "/usr/lib/xorg/Xorg\0vt1\0"),
        (700, "/x/python\0-m\0rlhf_lite.engine\0ppo\0/p/runs/0004-ppo\0"),
        (7, "\x1b[2Jevil --type=gpu"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(line.encode())
    return tmp_path


def card(free: float) -> memory.Memory:
    return memory.Memory("gpu", "card", 48 * GIB, int((48 - free) * GIB), int(free * GIB))


RAM = memory.Memory("cpu", "RAM", 16 * GIB, 6 * GIB, 10 * GIB)


def test_a_card_is_told_with_who_uses_it(proc: Path) -> None:
    found = memory.Gauge(FakeNvml(), proc).read()
    assert (found.kind, found.name) == ("gpu", "NVIDIA GeForce RTX 3060")
    assert (found.total, found.used, found.free) == (12 * GIB, 4 * GIB, 8 * GIB)
    assert found.holders == (
        memory.Holder(700, "rlhf-lite 0004-ppo", 3 * GIB),
        memory.Holder(41, "Xorg", GIB // 2),
    )
    assert memory.words(found) == "8.0 of 12.0 GiB free (rlhf-lite 0004-ppo 3.0, Xorg 0.5)"


def test_the_driver_is_looked_for_once(proc: Path) -> None:
    nvml = FakeNvml()
    gauge = memory.Gauge(nvml, proc)
    for _ in range(3):
        gauge.read()
    assert (nvml.asked.count("init"), nvml.asked.count("memory")) == (1, 3)


@pytest.mark.parametrize(
    "faults", [{"init": Fault}, {"index 0": Fault}, {"name": Fault}, {"name": OldDriver}]
)
def test_without_a_driver_or_a_card_it_is_the_ram(proc: Path, faults: dict[str, type[Exception]]) -> None:
    assert memory.Gauge(FakeNvml(**faults), proc).read() == RAM


def test_a_driver_that_lists_no_processes_still_tells_the_memory(proc: Path) -> None:
    for fault in (Fault, OldDriver):
        found = memory.Gauge(FakeNvml(computing=fault, drawing=fault), proc).read()
        assert (found.free, found.holders) == (8 * GIB, ())


def test_a_size_that_the_driver_keeps_to_itself_is_no_size(proc: Path) -> None:
    nvml = FakeNvml()
    nvml.computing, nvml.drawing = [used(700, None), used(99, None)], []
    found = memory.Gauge(nvml, proc).read()
    assert memory.words(found) == "8.0 of 12.0 GiB free (process 99, rlhf-lite 0004-ppo)"


def test_a_gpu_without_memory_of_its_own_shares_the_ram(proc: Path) -> None:
    found = memory.Gauge(FakeNvml(memory=Fault), proc).read()
    assert (found.kind, found.free, len(found.holders)) == ("gpu", RAM.free, 2)


def test_a_strangers_process_name_moves_no_cursor(proc: Path) -> None:
    nvml = FakeNvml()
    nvml.computing, nvml.drawing = [used(7, 5)], []
    assert memory.Gauge(nvml, proc).read().holders[0].name == "[2Jevil"


@pytest.mark.parametrize(
    ("visible", "asked"),
    [("1,0", "index 1"), ("GPU-8f3", "uuid GPU-8f3"), ("", None), ("-1", None)],
)
def test_it_is_the_card_that_jobs_see(
    proc: Path, monkeypatch: pytest.MonkeyPatch, visible: str, asked: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = FakeNvml()
    found = memory.Gauge(nvml, proc).read()
    assert found.kind == ("gpu" if asked else "cpu")
    assert asked is None or asked in nvml.asked


def test_a_system_that_does_not_tell_has_no_memory_to_plan_with(tmp_path: Path) -> None:
    assert memory.read_ram(tmp_path / "none") == memory.Memory("cpu", "RAM", 0, 0, 0)


def test_this_machine_answers_without_torch() -> None:
    code = "import sys; from rlhf_lite import memory; print(memory.read().total > 0, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_the_doctor_says_who_uses_the_card(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card: Callable[[], doctor.Gpu] = lambda: doctor.Gpu("RTX 3060", 12 * GIB, "580.65")  # noqa: E731
    monkeypatch.setattr(doctor, "gpu", card)
    monkeypatch.setattr(memory, "read", memory.Gauge(FakeNvml(), proc).read)
    assert "8.0 of 12.0 GiB free (rlhf-lite 0004-ppo 3.0" in doctor.gpu_and_driver().detail
    monkeypatch.setattr(memory, "read", lambda: RAM)
    assert "free" not in doctor.gpu_and_driver().detail


@pytest.mark.parametrize(("need", "says"), [(7.5, "fits"), (7.6, "tight"), (9.5, "tight"), (9.6, "no")])
def test_what_fits_leaves_room(need: float, says: str) -> None:
    assert memory.fit(int(need * GIB), RAM) == says


@pytest.mark.parametrize("model", catalog.MODELS, ids=lambda m: m.id)
@pytest.mark.parametrize("gigabytes", [3, 6, 12])
def test_the_nearest_change_fits_and_is_told(model: Model, gigabytes: int) -> None:
    preset = load_preset("default")
    room = card(gigabytes)
    found = memory.nearest_fit(model, preset, "16bit", room)
    if found is None:
        assert memory.fit(memory.peak(planning.plan(model, preset, "16bit")), room) != "no"
        return
    changed = override(preset, list(found.assignments))
    planned = planning.plan(catalog.find_model(found.model), changed, found.quantization)
    assert memory.fit(memory.peak(planned), room) != "no"
    if found.model == model.id:
        assert found.words.startswith("4-bit weights")
        assert found.words.endswith(f": {memory.peak(planned) / GIB:.1f} GiB")


def test_a_change_is_told_from_what_to_what() -> None:
    preset = override(Preset(), ["ppo.micro_batch=16"])
    found = memory.nearest_fit(catalog.find_model("Qwen2.5-0.5B-Instruct"), preset, "nf4", card(3))
    assert found is not None
    assert found.words.startswith("ppo.micro_batch 16 to 8: ")
    assert found.assignments == ("ppo.micro_batch=8",)


def test_where_nothing_fits_the_demo_model_is_the_nearest() -> None:
    found = memory.nearest_fit(catalog.MODELS[0], Preset(), "nf4", card(0.5))
    assert found is not None
    assert (found.model, found.assignments) == ("demo", ())


QWEN = catalog.find_model("Qwen2.5-0.5B-Instruct")


@pytest.mark.parametrize(
    ("now", "stage", "checkpointing"),
    [
        (card(40), "ppo", False),
        (card(6), "ppo", True),
        (card(40), "generate", False),
        (card(40), "eval", False),
    ],
)
def test_a_run_begins_with_what_fits_now(
    monkeypatch: pytest.MonkeyPatch, now: memory.Memory, stage: str, checkpointing: bool
) -> None:
    monkeypatch.setattr(memory, "read", lambda: now)
    assert memory.start(stage, QWEN, Preset(), "nf4") == memory.Start(checkpointing)


@pytest.mark.parametrize(
    ("stage", "hint"), [("ppo", "--set ppo.micro_batch=4"), ("sft", "--set sft.batch_size=4")]
)
def test_a_run_that_may_not_fit_says_so_with_the_nearest_change(
    monkeypatch: pytest.MonkeyPatch, stage: str, hint: str
) -> None:
    need = planning.plan(QWEN, Preset(), "nf4", stage=stage).stages[stage].bytes
    monkeypatch.setattr(memory, "read", lambda: card(need / GIB))
    found = memory.start(stage, QWEN, Preset(), "nf4")
    assert found.checkpointing
    (said,) = found.warnings
    assert f"takes {need / GIB:.1f} GiB, and {need / GIB:.1f} of 48.0 GiB free" in said
    assert said.endswith(f"nearest that fits: {hint}")


def test_the_export_is_held_against_what_is_free_by_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "read", lambda: card(1))
    assert memory.start("export", QWEN, Preset(), "nf4").warnings


def test_where_neither_model_nor_machine_tells_its_size_nothing_is_made_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for now, checkpointing in ((card(4), True), (RAM, False)):
        monkeypatch.setattr(memory, "read", lambda now=now: now)
        assert memory.start("ppo", None, Preset(), "nf4") == memory.Start(checkpointing)
    monkeypatch.setattr(memory, "read", lambda: memory.Memory("cpu", "RAM", 0, 0, 0))
    assert memory.start("ppo", QWEN, Preset(), "nf4") == memory.Start(False)
