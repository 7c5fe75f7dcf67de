"""Somebody who has seen the app before, with a folder of their own for projects."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where new projects go; the state and settings of one test are not those of another."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "welcomed").touch()
    monkeypatch.setenv("RLHF_LITE_STATE", str(state))
    monkeypatch.setenv("RLHF_LITE_CONFIG", str(state / "config.toml"))
    monkeypatch.setenv("RLHF_LITE_PROJECTS", str(tmp_path / "projects"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "projects"
