"""What this machine has, what that means for the work here, and the next step where something is missing.

Nothing is imported to find out: versions come from the installed packages' metadata, the rest from the system.
What only torch and bitsandbytes can tell is asked of a child process (:func:`deep_check`).
"""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from rlhf_lite import jobs, paths
from rlhf_lite import memory as device

GIB = 2**30
# Enough for the demo: its jobs stay under 2 GiB, and a project with an export under 1 GiB.
_MEMORY_NEEDED, _DISK_NEEDED = 2 * GIB, 1 * GIB
_WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"
_REBUILD = (
    "CMAKE_ARGS=-DGGML_CUDA=on pip install --no-cache-dir --no-deps --no-binary llama-cpp-python"
    " --force-reinstall llama-cpp-python"
)


class Check(msgspec.Struct, frozen=True):
    """One finding. ``ok`` is False where something has to be done, and ``hint`` says what; a hint beside a True
    one would make things better."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


class Gpu(msgspec.Struct, frozen=True):
    """An NVIDIA GPU as its driver describes it; ``memory`` in bytes."""

    name: str
    memory: int
    driver: str


def check() -> list[Check]:
    """Everything that can be told in well under a second."""
    return [
        python(), system(), packages(), compiler(), gpu_and_driver(), memory(), disk(), llama_cpp(), demo_model(),
        *cpu_traps(Path("/proc/cpuinfo")),
    ]  # fmt: skip


def deep_check() -> list[Check]:
    """What torch, bitsandbytes and llama.cpp say of themselves, each tried on something small; takes seconds."""
    child = subprocess.run(
        [sys.executable, "-m", "rlhf_lite.engine", "probe"],
        capture_output=True, text=True, env=jobs.child_environment(), check=False,
    )  # fmt: skip
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [
            Check("engine", False, f"cannot be loaded: {last}", "install the packages again, see the README")
        ]
    return read_probe(json.loads(child.stdout), gpu())


def python() -> Check:
    """The interpreter's version, 3.11 to 3.13."""
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("Python", ok, platform.python_version(), "" if ok else "use Python 3.11, 3.12 or 3.13")


def system() -> Check:
    """Linux, or Linux under Windows (WSL)."""
    name, ok = platform.system(), sys.platform == "linux"
    wsl = ok and "microsoft" in platform.release().lower()
    detail = "Linux under WSL" if wsl else f"{name} {platform.machine()}"
    return Check("system", ok, detail, "" if ok else "use Linux, or WSL on Windows")


def packages() -> Check:
    """Versions of everything that rlhf-lite itself depends on."""
    try:
        required = metadata.requires("rlhf-lite") or []
    except metadata.PackageNotFoundError:
        return Check(
            "packages", False, "rlhf-lite is not installed", "install it: make setup, or pip install -e ."
        )
    names = [re.split(r"[^\w.-]", r)[0] for r in required if "extra ==" not in r]
    found = {name: _version(name) for name in names}
    missing = [name for name, version in found.items() if not version]
    if missing:
        return Check(
            "packages",
            False,
            f"missing: {', '.join(missing)}",
            "install them: make setup, or pip install -e .",
        )
    return Check("packages", True, ", ".join(f"{name} {version}" for name, version in found.items()))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def compiler() -> Check:
    """A C++ compiler; once llama-cpp-python is built, none is needed."""
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), "")
    if found or _llama_folder():
        return Check("C++ compiler", True, found or "none, and none needed: llama.cpp is built")
    return Check(
        "C++ compiler", False, "none, and llama.cpp has to be built", "apt install build-essential cmake"
    )


def gpu() -> Gpu | None:
    """The first NVIDIA GPU that its driver lists, or None."""
    command = shutil.which("nvidia-smi") or shutil.which(_WSL_SMI)
    if not command:
        return None
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return parse_gpu(found.stdout)


def parse_gpu(text: str) -> Gpu | None:
    """The first line of ``nvidia-smi``'s CSV: name, MiB, driver."""
    parts = [p.strip() for p in text.partition("\n")[0].split(",")]
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    return Gpu(parts[0], int(parts[1]) * 2**20, parts[2])


def gpu_and_driver() -> Check:
    """The GPU and who uses its memory; none is fine for the built-in model."""
    found = gpu()
    if not found:
        return Check(
            "GPU", True, "none: everything runs on the CPU, which is enough for the demo model",
            "for models of 0.5 B parameters and more, use a machine with an NVIDIA GPU and its driver",
        )  # fmt: skip
    now = device.read()
    use = f"; {device.words(now)}" if now.kind == "gpu" else ""
    return Check("GPU", True, f"{found.name}, {found.memory / GIB:.0f} GiB, driver {found.driver}{use}")


def memory() -> Check:
    """Memory that is free now."""
    return read_memory(Path("/proc/meminfo"))


def read_memory(meminfo: Path) -> Check:
    """Free memory by the kernel's count in ``/proc/meminfo``."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if not found:
        return Check("memory", True, "unknown: the system does not tell")
    free = int(found[1]) * 1024
    ok = free >= _MEMORY_NEEDED
    return Check(
        "memory", ok, f"{free / GIB:.1f} GiB free", "" if ok else "close something: the demo wants 2 GiB"
    )


def disk() -> Check:
    """Disk that is free here, where a new project would go."""
    free = shutil.disk_usage(Path.cwd()).free
    ok = free >= _DISK_NEEDED
    return Check(
        "disk",
        ok,
        f"{free / GIB:.1f} GiB free here",
        "" if ok else "free some: a project wants 1 GiB or more",
    )


def _llama_folder() -> Path | None:
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent if spec and spec.origin else None


def llama_cpp() -> Check:
    """Whether llama.cpp was built for the GPU, told by its libraries."""
    folder = _llama_folder()
    if not folder:
        return Check(
            "llama.cpp", False, "llama-cpp-python is not installed", "make setup, or pip install -e ."
        )
    version = _version("llama-cpp-python")
    if any((folder / "lib").glob("libggml-cuda*")):
        return Check("llama.cpp", True, f"{version}, built with CUDA: chat runs on the GPU")
    hint = f"to build it for the GPU (wants nvcc): {_REBUILD}" if gpu() else ""
    return Check("llama.cpp", True, f"{version}, built without CUDA: chat runs on the CPU", hint)


def demo_model() -> Check:
    """The built-in model's files."""
    folder = paths.demo_model()
    wanted = ("config.json", "tokenizer.json", "model.safetensors")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        return Check("demo model", False, f"{folder} lacks {', '.join(missing)}", "install rlhf-lite again")
    return Check("demo model", True, str(folder))


def cpu_traps(cpuinfo: Path) -> list[Check]:
    """Where the CPU has AVX512-BF16: what rlhf-lite does about it."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return []
    if not flags or "avx512_bf16" not in flags[1].split():
        return []
    detail = "has AVX512-BF16: bitsandbytes' fast 4-bit path for it gives wrong gradients, so it is kept off"
    return [Check("CPU", True, detail)]


def read_probe(found: dict[str, dict[str, object]], driver: Gpu | None) -> list[Check]:
    """What the engine's probe found, held against what the driver says."""
    torch, nf4, llama = found["torch"], found["nf4"], found["llama_cpp"]
    cuda = bool(torch["cuda"])
    detail = f"{torch['version']}, " + (f"{torch['gpu']}, sm {torch['sm']}" if cuda else "no CUDA")
    usable = cuda or driver is None
    torch_hint = (
        "" if usable else "this torch cannot use the GPU: install the CUDA build (pytorch.org, Get Started)"
    )
    nf4_hint = "" if nf4["ok"] else 'use quantization = "16bit" in project.toml'
    return [
        Check("torch", usable, detail, torch_hint),
        Check("4-bit weights", bool(nf4["ok"]), str(nf4["detail"]), nf4_hint),
        Check("llama.cpp loads", bool(llama["ok"]), str(llama["detail"]),
              "" if llama["ok"] else "build it again: pip install --no-cache-dir --force-reinstall llama-cpp-python"),
    ]  # fmt: skip
