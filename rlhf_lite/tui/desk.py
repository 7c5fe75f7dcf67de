"""What every page works with: the open project, its runs, the user's settings."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_lite.config import AppConfig
from rlhf_lite.project import Project
from rlhf_lite.tui.feed import Feed


@dataclass
class Desk:
    """Made by the app, shared by its pages; ``project`` and ``feed`` are None until one is opened."""

    config: AppConfig
    ascii: bool = False
    project: Project | None = None
    feed: Feed | None = None

    def open(self, project: Project) -> None:
        """Work on this project from now on; jobs of the last one go on by themselves."""
        self.project, self.feed = project, Feed(project)
