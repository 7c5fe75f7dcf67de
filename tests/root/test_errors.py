"""Exit codes are a contract with scripts; an error crosses the process line in parts and comes out the same."""

from __future__ import annotations

import inspect

import pytest

from rlhf_lite import errors

EXIT_CODES = {
    2: ("SettingsError", "NotEnoughLabels", "DeviceBusy"),
    3: ("NoGpu", "OutOfMemory", "DiskFull", "ToolMissing"),
    4: ("CorruptStore", "BadRow", "CheckpointMismatch"),
    5: ("JobDied", "Diverged"),
}
KINDS = [(name, code) for code, names in EXIT_CODES.items() for name in names]


@pytest.mark.parametrize(("name", "code"), KINDS)
def test_each_error_survives_the_process_line_with_its_exit_code(name: str, code: int) -> None:
    rebuilt = errors.from_parts(name, "what", "why", "next")
    assert type(rebuilt).__name__ == name
    assert (rebuilt.exit_code, rebuilt.message, rebuilt.why, rebuilt.hint) == (code, "what", "why", "next")


def test_an_error_of_a_newer_version_is_a_failed_job() -> None:
    assert errors.from_parts("SolarFlare", "what", "", "").exit_code == 5


def test_the_tree_in_the_docstring_names_every_error() -> None:
    named = {
        name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)
    }
    assert errors.__doc__ is not None
    assert {name for name in named if name not in errors.__doc__} == set()
