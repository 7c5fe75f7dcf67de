"""The top row: where you are, what the device has left, and what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.widgets import Static

from rlhf_lite import jobs

if TYPE_CHECKING:
    from rlhf_lite.tui.app import RlhfApp


class TopBar(Static):
    """One row; the project's name is cut first where there is no room."""

    def __init__(self, page: str) -> None:
        super().__init__(classes="topbar")
        self.page = page

    def on_mount(self) -> None:
        self.set_interval(1.0, self.refresh)

    def render(self) -> Text:
        desk = cast("RlhfApp", self.app).desk
        arrow, dot = (">", "*") if desk.ascii else ("▸", "●")
        busy = desk.feed.busy if desk.feed else []
        job = f"{dot} {busy[-1].run.name} {_share(busy[-1])}".rstrip() if busy else f"{dot} idle"
        device = "GPU" if jobs.device_name() == "gpu" else "CPU"
        right = f"{device}  {job} "
        left = ["rlhf-lite", *([desk.project.file.name] if desk.project else []), self.page]
        text = Text(f" {f' {arrow} '.join(left)}", no_wrap=True, end="")
        room = self.size.width - len(right)
        text.truncate(max(room, 0), overflow="ellipsis", pad=True)
        return text.append(right)


def _share(watched) -> str:
    shown = [p for p in watched.status.progress.values() if p[1]]
    return f"{shown[-1][0] / shown[-1][1]:.0%}" if shown else ""
