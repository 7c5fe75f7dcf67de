"""The rules of the house that no linter holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

import rlhf_lite
from rlhf_lite.project import ProjectFile
from rlhf_lite.settings import Inputs, Preset

PACKAGE = Path(rlhf_lite.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOT_MODULES = [p for p in MODULES if not {"engine", "tui"} & set(p.relative_to(PACKAGE).parts)]
HEAVY = {"torch", "transformers", "tokenizers", "peft", "trl", "bitsandbytes", "accelerate", "safetensors", "llama_cpp",
         "gguf"}  # fmt: skip
NOT_AT_START = HEAVY | {"textual", "datasets", "pyarrow", "numpy", "rich", "huggingface_hub"}
INPUTS_OF_A_COMMAND = {"stage"}  # told by the command line of the job itself, and kept for people


@cache
def imports(path: Path) -> set[str]:
    """Top-level names of everything a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return {
        name.split(".")[0]
        for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
    }


@cache
def attributes(path: Path) -> set[str]:
    """Names read after a dot."""
    return {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("path", ROOT_MODULES, ids=lambda p: p.stem)
def test_the_root_is_without_torch(path: Path) -> None:
    assert HEAVY.isdisjoint(imports(path))


def test_help_starts_without_anything_heavy() -> None:
    script = (
        "import sys; from rlhf_lite.cli import main; code = main(['--help']); "
        "print(*{m.split('.')[0] for m in sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert set(done.stderr.split()) & NOT_AT_START == set()


def test_the_app_starts_without_anything_of_the_engine() -> None:
    script = (
        "import asyncio, sys; from rlhf_lite.tui.app import RlhfApp\n"
        "async def main():\n"
        "    async with RlhfApp().run_test() as pilot:\n"
        "        await pilot.pause()\n"
        "asyncio.run(main()); print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "textual" in done.stdout.split()
    assert set(done.stdout.split()) & (HEAVY | {"datasets", "pyarrow", "numpy"}) == set()


def test_the_map_names_every_module_and_nothing_else() -> None:
    assert rlhf_lite.__doc__ is not None
    named = set(re.findall(r"[\w/]+\.py", rlhf_lite.__doc__))
    there = {str(p.relative_to(PACKAGE)) for p in MODULES if p.name != "__init__.py"}
    by_folder = {
        n for n in there if Path(n).parent.name in ("screens", "widgets")
    }  # a file for each thing they name
    assert {n for n in there - by_folder if n not in named and Path(n).name not in named} == set(), (
        "missing from the map"
    )
    assert {n for n in named if n not in there and n not in {Path(t).name for t in there}} == set(), (
        "gone, yet on the map"
    )


def test_every_import_is_declared() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w.-]", r)[0].lower().replace("_", "-") for r in project["dependencies"]}
    provided = metadata.packages_distributions()
    used = {name for path in MODULES for name in imports(path)} - set(sys.stdlib_module_names) - {"rlhf_lite"}
    undeclared = {
        name
        for name in used
        if not {d.lower().replace("_", "-") for d in provided.get(name, [name])} & declared
    }
    assert undeclared == set()


SECTIONS = {
    f.name: f.type for f in msgspec.structs.fields(Preset) if isinstance(f.type, type) and f.name != "about"
}
SETTINGS = [(s, f.name) for s, kind in SECTIONS.items() for f in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_every_setting_is_read(section: str, name: str) -> None:
    """By its name, outside the settings themselves and the memory plan, which would only repeat an unused value."""
    read = {found for p in MODULES if p.name not in ("settings.py", "planning.py") for found in attributes(p)}
    assert {section, name} <= read


@pytest.mark.parametrize("kind", [Inputs, ProjectFile], ids=lambda k: k.__name__)
def test_every_input_is_read(kind: type[msgspec.Struct]) -> None:
    read = {name for p in MODULES if p.name != "settings.py" for name in attributes(p)}
    assert {f.name for f in msgspec.structs.fields(kind)} - read - INPUTS_OF_A_COMMAND == set()
