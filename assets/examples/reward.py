"""A programmable reward: PPO can climb a function instead of a reward model learned from labels.

Use it with `rlhf-lite train my-project ppo --reward reward.py:score`. To write your own, keep the shape:
lists of equal length in, one number for each completion out, higher is better. The scale does not matter, as
scores are normalised; the order does.
"""

from __future__ import annotations

LEAST_WORDS, MOST_WORDS = 8, 60


def score(prompts: list[str], completions: list[str]) -> list[float]:
    """1 for an answer that asks something back, less 1 where it is no sensible length.

    A reward without such a second part is easily gamed: a bare "?" would win.
    """
    return [asks_back(text) - odd_length(text) for text in completions]


def asks_back(text: str) -> float:
    return float("?" in text)


def odd_length(text: str) -> float:
    return float(not LEAST_WORDS <= len(text.split()) <= MOST_WORDS)
