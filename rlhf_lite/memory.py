"""Memory of the device that jobs compete for: how much is free, who holds it, and whether a plan fits into it.

Asked of NVIDIA's driver through NVML, which takes well under a millisecond and holds no GPU memory itself, whereas
torch would take half a gigabyte to answer. Without a GPU or a driver it is the machine's RAM. Nothing here raises
for a driver that is missing, old or silent. Left out: who holds the RAM, and any GPU but the one that jobs run on.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from rlhf_lite import planning
from rlhf_lite.settings import Preset, Quantization, override
from rlhf_lite.shapes import Model

Fit = Literal["fits", "tight", "no"]
GIB = 2**30
_PLANNED = {"export": "merge"}  # a run's stage, where the plan calls it otherwise


@dataclass(frozen=True)
class Holder:
    """A process on the GPU; ``bytes`` is 0 where the driver does not say (WSL, some containers)."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """In bytes; ``holders`` by size, the largest first, none for RAM."""

    kind: planning.Device
    name: str
    total: int
    used: int
    free: int
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True)
class Nearest:
    """A change that makes training fit: ``words`` for people, the rest to act on.

    ``assignments`` are for ``--set``; ``quantization`` and ``model`` are what the project would have.
    """

    words: str
    assignments: tuple[str, ...]
    quantization: Quantization
    model: str


@dataclass(frozen=True)
class Start:
    """What the plan says of a run that is about to start. ``checkpointing``: layers are to be computed again for their
    gradients. ``warnings``: that it may not fit what is free."""

    checkpointing: bool
    warnings: tuple[str, ...] = ()


class Nvml(Protocol):
    """What is used of the module ``pynvml``."""

    NVMLError: type[Exception]
    NVMLLibraryMismatchError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object: ...
    def nvmlDeviceGetName(self, handle: object) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> Sequence[Any]: ...
    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: object) -> Sequence[Any]: ...


class Gauge:
    """Reads the memory as often as it is asked; the driver is looked for once."""

    def __init__(self, nvml: Nvml, proc: Path = Path("/proc")) -> None:
        self._nvml, self._proc = nvml, proc
        self._faults = (nvml.NVMLError, nvml.NVMLLibraryMismatchError)
        self._device = self._find()

    def read(self) -> Memory:
        """The GPU's memory now; the RAM where there is no GPU, or it is lost."""
        ram = read_ram(self._proc / "meminfo")
        if self._device is None:
            return ram
        try:
            name = _plain(self._nvml.nvmlDeviceGetName(self._device))
        except self._faults:
            return ram
        try:
            found = self._nvml.nvmlDeviceGetMemoryInfo(self._device)
            total, free = int(found.total), int(found.free)
        except self._faults:  # a GPU without memory of its own works in the RAM
            return replace(ram, kind="gpu", name=name, holders=self._holders())
        return Memory("gpu", name, total, total - free, free, self._holders())

    def count(self) -> int:
        """How many GPUs there are and are not hidden."""
        try:
            self._nvml.nvmlInit()
            there = self._nvml.nvmlDeviceGetCount()
        except self._faults:
            return 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return there
        named = (name.strip() for name in visible.split(","))
        shown = takewhile(lambda name: name.isdigit() or name.startswith(("GPU-", "MIG-")), named)
        return min(there, sum(1 for _ in shown))

    def _find(self) -> object | None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        first = "0" if visible is None else visible.partition(",")[0].strip()
        try:
            self._nvml.nvmlInit()
            if first.isdigit():
                return self._nvml.nvmlDeviceGetHandleByIndex(int(first))
            if first.startswith(("GPU-", "MIG-")):
                return self._nvml.nvmlDeviceGetHandleByUUID(first)
        except self._faults:
            pass
        return None  # no driver, no such GPU, or all of them are hidden on purpose

    def _holders(self) -> tuple[Holder, ...]:
        """One entry a process, though the driver lists those that compute and draw twice."""
        held: dict[int, int] = {}
        for ask in (
            self._nvml.nvmlDeviceGetComputeRunningProcesses,
            self._nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            for process in self._listed(ask):
                held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory or 0)
        found = [Holder(pid, self._process_name(pid), size) for pid, size in held.items()]
        return tuple(sorted(found, key=lambda h: (-h.bytes, h.pid)))

    def _listed(self, ask: Callable[[object], Sequence[Any]]) -> Sequence[Any]:
        try:
            return ask(self._device)
        except self._faults:  # WSL, MIG and old drivers list none
            return ()

    def _process_name(self, pid: int) -> str:
        """The program's name; a job of ours by its verb and run, as all of them are called ``python``."""
        try:
            parts = (self._proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            parts = [""]
        if "rlhf_lite.engine" in parts[:-2]:
            verb, *rest = parts[parts.index("rlhf_lite.engine") + 1 :]
            return _plain(f"rlhf-lite {Path(rest[0]).name if rest and rest[0] else verb}")
        # A process may rewrite its whole command line into the first part, as Chromium's do.
        name = _plain(Path(parts[0].partition(" -")[0]).name)
        return name or f"process {pid}"


def read() -> Memory:
    """The memory of the device that jobs run on; cheap enough to ask every second."""
    return _gauge().read()


def gpus() -> int:
    """How many GPUs jobs can use."""
    return _gauge().count()


def read_ram(meminfo: Path) -> Memory:
    """RAM by the kernel's count; "free" is what a new process could take. All zero where it does not tell."""
    try:
        text = meminfo.read_text()
    except OSError:
        text = ""
    kib = {name: int(count) for name, count in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, free = kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024
    return Memory("cpu", "RAM", total, total - free, free)


def card(gigabytes: float) -> Memory:
    """A GPU that is only imagined, of so many GiB."""
    size = int(gigabytes * GIB)
    return Memory("gpu", f"a card of {gigabytes:g} GiB, all of it free", size, 0, size)


def words(memory: Memory, most: int = 3) -> str:
    """``11.3 of 12.0 GiB free (Xorg 0.4, firefox 0.3)``; a card that nothing is used of is imagined."""
    if not memory.used:
        return memory.name
    sizes = [f"{h.name} {h.bytes / GIB:.1f}" if h.bytes else h.name for h in memory.holders[:most]]
    if len(memory.holders) > most:
        sizes.append(f"{len(memory.holders) - most} more")
    held = f" ({', '.join(sizes)})" if sizes else ""
    kind = " of RAM" if memory.kind == "cpu" else ""
    return f"{memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB{kind} free{held}"


def fit(plan_bytes: int, memory: Memory) -> Fit:
    """Whether a need in bytes goes into what is free now."""
    if plan_bytes <= planning.FITS * memory.free:
        return "fits"
    return "tight" if plan_bytes <= planning.TIGHT * memory.free else "no"


def peak(plan: planning.Plan) -> int:
    """Bytes of the stage that needs most."""
    return max(stage.bytes for stage in plan.stages.values())


def nearest_fit(model: Model, preset: Preset, quantization: Quantization, memory: Memory) -> Nearest | None:
    """The nearest change that brings every stage to at least ``tight``; None where nothing has to change.

    The change is the memory plan's own (:func:`planning.plan`), told by what it changes from and to.
    """
    planned = planning.plan(model, preset, quantization, memory.free, memory.kind)
    if planned.fits:
        return None
    assignments = tuple(re.findall(r"--set (\S+)", planned.hint))
    if not assignments and "quantization" not in planned.hint:
        other = re.search(r"a smaller model: (\S+)", planned.hint)
        return Nearest(planned.hint, (), "nf4", other[1] if other else "demo")
    changed = override(preset, list(assignments))
    need = peak(planning.plan(model, changed, "nf4", device=memory.kind))
    parts = ["4-bit weights"] if quantization != "nf4" else []
    for knob in (a.partition("=")[0] for a in assignments):
        parts.append(f"{knob} {_value(preset, knob)} to {_value(changed, knob)}")
    return Nearest(f"{', '.join(parts)}: {need / GIB:.1f} GiB", assignments, "nf4", model.id)


def start(stage: str, model: Model | None, preset: Preset, quantization: Quantization) -> Start:
    """What to start a stage with, by what is free now. A model of unknown size is taken to need what a GPU has."""
    now = read()
    if model is None or not now.total:
        return Start(checkpointing=now.kind == "gpu")
    planned = planning.plan(model, preset, quantization, now.free, now.kind, stage=_PLANNED.get(stage, stage))
    again = any(s.checkpointing for s in planned.stages.values())
    if planned.fits:
        return Start(again)
    need = f"by the memory plan it takes {peak(planned) / GIB:.1f} GiB, and {words(now)}"
    return Start(again, (f"this may run out of memory: {need}; nearest that fits: {planned.hint}",))


def _value(preset: Preset, knob: str) -> int:
    section, _, key = knob.partition(".")
    return getattr(getattr(preset, section), key)


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor: anybody may name a process anything."""
    return "".join(c for c in text if c.isprintable()).strip()


@cache
def _gauge() -> Gauge:
    return Gauge(cast("Nvml", importlib.import_module("pynvml")))
