from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(r) for r in PROJECT["dependencies"]]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
DEVELOPMENT = [Requirement(r) for r in PROJECT["optional-dependencies"]["dev"]]


def constraints() -> dict[str, str]:
    lines = [s for s in (ROOT / "constraints.txt").read_text().splitlines() if not s.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pins), "only exact pins, no hashes, links or local versions"
    return {canonicalize_name(p[1]): p[2] for p in pins if p}


def imported() -> set[str]:
    """Top-level names that the package imports, by a statement or by ``import_module("name")``."""
    names: set[str] = set()
    for path in (ROOT / "rlhf_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {a.name.partition(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
                names |= {str(t).partition(".")[0] for t in texts}
    return names - set(sys.stdlib_module_names) - {"rlhf_lite"}


def test_every_direct_import_is_declared() -> None:
    owners = metadata.packages_distributions()
    declared = {canonicalize_name(r.name) for r in DEPENDENCIES}
    undeclared = {n for n in imported() if not declared & {canonicalize_name(d) for d in owners.get(n, [])}}
    assert undeclared == set()


def test_every_declared_range_holds_its_pin() -> None:
    pins = constraints()
    wanted = [*DEPENDENCIES, *DEVELOPMENT]
    outside = [str(r) for r in wanted if not r.specifier.contains(pins[canonicalize_name(r.name)])]
    assert outside == []
    assert pins["torch"] == "2.13.0"


def test_everything_that_is_needed_is_pinned() -> None:
    """Whatever pip would bring along on this platform, by the metadata of what is installed."""
    pins, seen = constraints(), set[str]()
    queue = [*DEPENDENCIES, *DEVELOPMENT]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        for text in metadata.requires(requirement.name) or []:
            needed = Requirement(text)
            extras = [{"extra": e} for e in requirement.extras] or [{"extra": ""}]
            if needed.marker is None or any(needed.marker.evaluate(e) for e in extras):
                queue.append(needed)
    on_gpus_only = {n for n in seen if n.startswith(("nvidia-", "cuda-", "triton"))}
    assert seen - set(pins) - on_gpus_only == set()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built from a copy in which somebody keeps a preset that git ignores."""
    folder = tmp_path_factory.mktemp("build")
    source, out = folder / "source", folder / "dist"
    source.mkdir()
    for name in [*BUILD["sdist"]["only-include"], "pyproject.toml"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    (source / ".gitignore").write_text("presets/private.toml\n")
    (source / "presets" / "private.toml").write_text('about = "a secret"\n')
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out), "-t", "wheel", "-t", "sdist"]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return out


def in_wheel(distributions: Path) -> set[str]:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def in_sdist(distributions: Path) -> set[str]:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def test_the_wheel_holds_what_the_program_reads(distributions: Path) -> None:
    names = in_wheel(distributions)
    assert names >= {
        "rlhf_lite/cli.py", "rlhf_lite/presets/default.toml", "rlhf_lite/presets/demo.toml",
        "rlhf_lite/assets/demo-model/config.json", "rlhf_lite/assets/demo-model/model.safetensors",
        "rlhf_lite/assets/demo-model/tokenizer.json", "rlhf_lite/assets/examples/judge.py",
    }  # fmt: skip
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_neither_holds_what_it_should_not(distributions: Path) -> None:
    wheel = in_wheel(distributions)
    assert not [n for n in wheel | in_sdist(distributions) if "private" in n or n.endswith(".pyc")]
    assert not [n for n in wheel if not n.startswith(("rlhf_lite/", "rlhf_lite-"))]


def test_the_sdist_can_build_and_test_itself(distributions: Path) -> None:
    wanted = {"pyproject.toml", "Makefile", "constraints.txt", "LICENSE", "README.md", "presets/demo.toml",
              "tests/root/test_packaging.py", "assets/demo-model/model.safetensors"}  # fmt: skip
    assert in_sdist(distributions) >= wanted


def test_the_installed_wheel_finds_its_files(distributions: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from rlhf_lite import catalog, paths, settings;"
        "print(paths.presets(), paths.demo_model(), paths.examples(), sep='\\n');"
        "settings.load_preset('demo'); catalog.find_model('demo')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    wanted = ("presets", "assets/demo-model", "assets/examples")
    assert found == [str(tmp_path / "rlhf_lite" / name) for name in wanted]


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder / name)
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_a_wrong_python_is_said_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "python3.9").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3.9").chmod(0o755)
    found = make(tmp_path, "setup", "PYTHON=./python3.9")
    assert found.returncode != 0
    assert "needs Python 3.11" in found.stdout
    assert not (tmp_path / ".venv").exists()


def test_a_missing_compiler_is_said_before_anything_is_made(tmp_path: Path) -> None:
    found = make(tmp_path, "setup", f"PYTHON={sys.executable}", "CXX=no-such-compiler")
    assert found.returncode != 0
    assert "apt install build-essential cmake" in found.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("nvcc", "driver", "cuda"), [("/x/nvcc", "/x/smi", True), ("/x/nvcc", "", False), ("", "", False)]
)
def test_llama_cpp_is_built_for_the_gpu_where_compiler_and_driver_are(
    tmp_path: Path, nvcc: str, driver: str, cuda: bool
) -> None:
    found = (f"NVCC={nvcc}", f"DRIVER={driver}")
    plan = make(tmp_path, "-n", "setup", f"PYTHON={sys.executable}", *found).stdout
    assert ("CMAKE_ARGS=-DGGML_CUDA=on" in plan) is cuda
    assert ("--no-cache-dir" in plan) is cuda  # else pip would take the CPU wheel it built before
    assert "for the GPU" in plan if cuda else "for the CPU" in plan
