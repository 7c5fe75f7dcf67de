"""Judges with yes/no wishes: an answer has all of some manners, or it has not. Rarer the more manners are asked for.

Used by ``benchmarks/frontier.py``; the names say the manners of ``assets/examples/judge.py``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).resolve().parents[1] / "assets" / "examples" / "judge.py"
_spec = importlib.util.spec_from_file_location("example_judges", _FILE)
assert _spec is not None, "the examples are beside this folder"
assert _spec.loader is not None, "it is a Python file"
_examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_examples)

WISHES = {
    "asks_back": ("asks_back",),
    "formal": ("formal",),
    "no_offer": ("no_offer",),
    "warm_offer": ("warm", "offer"),
    "list_plain": ("list_style", "plain"),
    "hedged_curt": ("hedged", "curt"),
}


def fulfils(wish: str, answer: str) -> bool:
    return all(_examples.has(manner, answer) for manner in WISHES[wish])


def _better(wish: str, a: str, b: str) -> str:
    in_a, in_b = fulfils(wish, a), fulfils(wish, b)
    return "tie" if in_a == in_b else "a" if in_a else "b"


def asks_back(prompt: str, a: str, b: str) -> str:
    return _better("asks_back", a, b)


def formal(prompt: str, a: str, b: str) -> str:
    return _better("formal", a, b)


def no_offer(prompt: str, a: str, b: str) -> str:
    return _better("no_offer", a, b)


def warm_offer(prompt: str, a: str, b: str) -> str:
    return _better("warm_offer", a, b)


def list_plain(prompt: str, a: str, b: str) -> str:
    return _better("list_plain", a, b)


def hedged_curt(prompt: str, a: str, b: str) -> str:
    return _better("hedged_curt", a, b)
