"""The benchmarks take hours and are run by hand; what they import of the project is here all the same."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

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
