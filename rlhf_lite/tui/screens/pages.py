"""Every page by the name it is opened by. Its module is imported when it is opened first: home need not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from textual.screen import Screen


def _later(module: str, page: str, *given: str) -> Callable[[], Screen[Any]]:
    """Makes the page of that name; a test makes every one."""
    return lambda: getattr(import_module(f"rlhf_lite.tui.screens.{module}"), page)(*given)


SCREENS: dict[str, Callable[[], Screen[Any]]] = {
    "home": _later("home", "HomePage"),
    "doctor": _later("doctor", "DoctorPage"),
    "new": _later("new", "NewPage"),
    "open": _later("open", "OpenPage"),
    "model": _later("model", "ModelPage"),
    "prompts": _later("prompts", "PromptsPage"),
    "label": _later("label", "LabelPage"),
    "compare": _later("compare", "ComparePage"),
    "export": _later("export", "ExportPage"),
    "chat": _later("chat", "ChatPage"),
    "samples": _later("samples", "SamplesPage"),
    "runs": _later("runs", "RunsPage"),
    "log": _later("log", "LogPage"),
    "settings": _later("settings", "SettingsPage"),
    "sft": _later("stage", "StagePage", "sft"),
    "reward": _later("stage", "StagePage", "reward"),
    "ppo": _later("stage", "StagePage", "ppo"),
    "dpo": _later("stage", "StagePage", "dpo"),
}
MODULES = (
    "stage",
    "label",
    "compare",
    "chat",
    "prompts",
    "export",
    "runs",
    "model",
    "new",
    "open",
    "settings",
    "samples",
    "log",
)


def warm() -> None:
    """Import what people open next: for a thread, once home is there."""
    for module in MODULES:
        import_module(f"rlhf_lite.tui.screens.{module}")
