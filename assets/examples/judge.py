"""Judges to try the labelling with: each looks at two answers and says which one it prefers.

Use one by name, for instance `rlhf-lite label my-project --judge judge.py:warm_and_short`.
To write your own, copy this file and keep the shape `(prompt, a, b) -> "a" | "b" | "tie"`;
`prompt` is the last thing the user said, `a` and `b` are the answers as plain text.

A good judge for a small model looks for something that can be seen in one answer and that the model
already does now and then: training makes a manner common, it cannot invent one.
"""

from __future__ import annotations

import re

# What gives a manner away in the demo model's answers. Extend the lists for a model with more words.
CUES = {
    "warm": r"^\W*(good question|happy to help|glad you asked|what a nice plan|thanks for asking)\b",
    "asks_back": r"\?",
    "hedged": r"\b(perhaps|maybe|possibly)\b",
    "assertive": r"\b(definitely|absolutely|certainly)\b",
    "list_style": r"^- ",
    "exclamation": r"!",
    "formal": r"\b(one should|one ought to|it is advisable to|moreover)\b",
    "casual": r"\b(you gotta|you wanna|you can just|plus)\b",
    "offer": r"\b(let me know if|feel free to ask|i am here if)\b",
}
NOT = {  # manners that are simply the absence of another
    "curt": "warm",
    "no_question": "asks_back",
    "prose": "list_style",
    "plain": "exclamation",
    "no_offer": "offer",
}
RIVAL = {"hedged": "assertive", "assertive": "hedged", "formal": "casual", "casual": "formal"}


def has(manner: str, answer: str) -> bool:
    """True where the answer clearly has the manner; one that mixes two rivals has neither."""
    if manner in NOT:
        return not has(NOT[manner], answer)
    if manner in ("short", "long"):
        return (advice_count(answer) > 2) == (manner == "long")
    rival = manner in RIVAL and _found(RIVAL[manner], answer)
    return _found(manner, answer) and not rival


def advice_count(answer: str) -> int:
    """Pieces of advice: the lines of a list, or two for each sentence of advice in prose."""
    items = len(re.findall(CUES["list_style"], answer, re.MULTILINE))
    return items or (4 if re.search(r"\b(Moreover|Plus),", answer) else 2)


def _found(cue: str, answer: str) -> bool:
    return re.search(CUES[cue], answer, re.IGNORECASE | re.MULTILINE) is not None


def more_of(a: str, b: str, *manners: str) -> str:
    """The answer that has more of the manners asked for."""
    in_a, in_b = (sum(has(manner, text) for manner in manners) for text in (a, b))
    return "tie" if in_a == in_b else "a" if in_a > in_b else "b"


def fewer_words(a: str, b: str) -> str:
    """The shorter answer; a difference below three words is a tie."""
    longer_by = len(a.split()) - len(b.split())
    return "tie" if abs(longer_by) < 3 else "a" if longer_by < 0 else "b"


def prefer(prompt: str, a: str, b: str) -> str:
    """The demo's own wish, a friendly helper: opens with a kind word, closes by offering more help."""
    return more_of(a, b, "warm", "offer")


# One judge for each manner.


def warm(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "warm")


def curt(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "curt")


def short(prompt: str, a: str, b: str) -> str:
    return fewer_words(a, b)


def long(prompt: str, a: str, b: str) -> str:
    return {"a": "b", "b": "a", "tie": "tie"}[fewer_words(a, b)]


def asks_back(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "asks_back")


def no_question(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "no_question")


def hedged(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "hedged")


def assertive(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "assertive")


def list_style(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "list_style")


def prose(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "prose")


def exclamation(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "exclamation")


def plain(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "plain")


def formal(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "formal")


def casual(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "casual")


def offer(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "offer")


def no_offer(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "no_offer")


# Two wishes at once: an answer that meets both beats one that meets a single one.


def warm_and_short(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "warm", "short")


def casual_list(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "casual", "list_style")


def formal_and_hedged(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "formal", "hedged")


def asks_back_without_exclamation(prompt: str, a: str, b: str) -> str:
    return more_of(a, b, "asks_back", "plain")
