"""What the app tells its screens."""

from __future__ import annotations

from textual.message import Message

from rlhf_lite.tui.feed import Change


class RunChanged(Message):
    """A run said something, started or ended."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change


class ProjectChanged(Message):
    """Another project was opened, or labels or prompts of this one changed."""
