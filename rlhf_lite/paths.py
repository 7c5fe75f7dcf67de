"""Where things live. Makes nothing on import.

``RLHF_LITE_STATE`` moves the per-user state (device locks) and ``RLHF_LITE_CONFIG`` names the settings file of the
app: tests and shared machines need both.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parent


def _shipped(*parts: str) -> Path:
    """A folder that a wheel carries inside the package and a checkout keeps in its root."""
    inside = _PACKAGE.joinpath(*parts)
    return inside if inside.exists() else _PACKAGE.parent.joinpath(*parts)


def presets() -> Path:
    """The folder of shipped presets."""
    return _shipped("presets")


def demo_model() -> Path:
    """The folder of the built-in model."""
    return _shipped("assets", "demo-model")


def examples() -> Path:
    """The folder with example prompts, judge and reward files."""
    return _shipped("assets", "examples")


def projects() -> Path:
    """Where new projects go unless the user says otherwise; need not exist."""
    return Path(platformdirs.user_data_dir("rlhf-lite")) / "projects"


def state() -> Path:
    """Per-user state: device locks, and which projects were opened."""
    override = os.environ.get("RLHF_LITE_STATE")
    return Path(override) if override else Path(platformdirs.user_state_dir("rlhf-lite"))


def config_file() -> Path:
    """The app's own settings; need not exist."""
    override = os.environ.get("RLHF_LITE_CONFIG")
    return Path(override) if override else Path(platformdirs.user_config_dir("rlhf-lite")) / "config.toml"


def shown(path: Path) -> str:
    """A path as a person would type it from here: relative where it lies below the current folder."""
    try:
        return str(path.relative_to(Path.cwd())) or "."
    except (ValueError, OSError):
        return str(path)
