"""How far a download is, in bytes as people say them."""

from __future__ import annotations

import itertools

from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.widgets.jobline import JobLine, clock

GB = 1e9  # as hubs and shops count


def size(count: float) -> str:
    """Bytes by thousands: 3.4 GB, 270 MB."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:.0f} MB"


class BytesLine(JobLine):
    """The bar, ``1.2 of 3.4 GB · 12 MB/s · 3 min left``; how it ended, once it has."""

    def _words(
        self, what: str, done: int, total: int, times: list[tuple[float, int]], watched: Watched
    ) -> str:
        if what != "bytes":
            return super()._words(what, done, total, times, watched)
        parts = [f"{size(done)} of {size(total)}"]
        if not watched.busy:
            failure = watched.status.failure
            why = f"failed: {failure.message}" if failure else "stopped"
            return " · ".join([*parts, why, "d goes on from there"])
        moved = [b[1] - a[1] for a, b in itertools.pairwise(times)]
        if len(moved) >= 2 and times[-1][0] > times[0][0]:
            pace = sum(moved) / (times[-1][0] - times[0][0])
            if pace > 0:
                parts += [f"{size(pace)}/s", f"{clock((total - done) / pace)} left"]
        else:
            parts.append("measuring")
        return " · ".join([*parts, "x stops, and keeps what came"])
