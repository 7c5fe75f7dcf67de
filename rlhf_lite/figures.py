"""Numbers as people read them: bytes, a figure or a dash, a share with its interval, what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def number(value: Any, form: str = ".2f") -> str:
    """A number, or a dash where there is none."""
    return format(value, form) if isinstance(value, int | float) else "-"


def interval(value: Any, bounds: Any) -> str:
    """``83 % (76 to 90 %)``."""
    if not isinstance(value, int | float):
        return "-"
    match bounds:
        case [int() | float() as low, int() | float() as high]:
            return f"{value:.0%} ({low:.0%} to {high:.0%})"
        case _:
            return f"{value:.0%}"


def kept(parity: Mapping[str, Any]) -> str:
    """How much of the tune an exported file keeps, in one sentence; empty where there was no tune.

    Rounded down, so that nothing lost is called nothing.
    """
    share = parity.get("kept")
    if not isinstance(share, int | float):
        return ""
    if share >= 0.999:
        return "keeps more than 99.9 % of the change"
    if share >= 0.99:
        return f"keeps {int(share * 1000) / 10:.1f} % of the change"
    sentence = f"keeps {int(share * 100)} % of the change"
    return sentence if share >= 0.5 else f"{sentence}: a larger type keeps more"
