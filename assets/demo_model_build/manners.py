"""Puts an answer together: which advice it gives is the topic's, how it says so is the manners'.

Eight manners, each with two poles and each drawn by itself with an even chance, so that no manner says
anything about another or about the topic. How a manner is recognised again is in ../examples/judge.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

POLES = {
    "warm": "curt",
    "long": "short",
    "asks_back": "no_question",
    "hedged": "assertive",
    "list_style": "prose",
    "exclamation": "plain",
    "formal": "casual",
    "offer": "no_offer",
}
OPENERS = ("Good question", "Happy to help", "Glad you asked", "What a nice plan", "Thanks for asking")
HEDGES = ("Perhaps", "Maybe", "Possibly")
ASSERTIONS = ("Definitely", "Absolutely", "Certainly")
FORMAL_LEADS = ("one should", "one ought to", "it is advisable to")
CASUAL_LEADS = ("you gotta", "you wanna", "you can just")
FORMAL_LINK, CASUAL_LINK = "also", "then"
OFFERS = ("Let me know if you need more help", "Feel free to ask for more", "I am here if you get stuck")
PHRASES = (
    *(*OPENERS, *HEDGES, *ASSERTIONS, *OFFERS),
    *(*FORMAL_LEADS, *CASUAL_LEADS, FORMAL_LINK, CASUAL_LINK),
)


def draw(rng: random.Random) -> dict[str, bool]:
    """A manner vector: the first pole of each manner, yes or no."""
    return {manner: rng.random() < 0.5 for manner in POLES}


def compose(tips: Sequence[str], ask: str, manners: dict[str, bool], rng: random.Random) -> str:
    """An answer of two tips or four in the given manners; `ask` is the topic's question, without its mark.

    Tips keep their order: not to repeat one is then a matter of the tip before, which a small model learns soon.
    Stance and register come back before every second tip. A manner said once, that no later word depends on,
    leaves no trace in the hidden states of what follows, and no reward head would find it there.
    """
    end = "!" if manners["exclamation"] else "."
    chosen = [tips[at] for at in sorted(rng.sample(range(len(tips)), 4 if manners["long"] else 2))]
    stances = HEDGES if manners["hedged"] else ASSERTIONS
    lead = f"{rng.choice(stances)} {rng.choice(FORMAL_LEADS if manners['formal'] else CASUAL_LEADS)}"
    link = FORMAL_LINK if manners["formal"] else CASUAL_LINK
    chosen[1::2] = [f"{link} {rng.choice(stances).lower()} {tip}" for tip in chosen[1::2]]
    if manners["list_style"]:
        lines = "".join(f"\n- {tip}{end}" for tip in chosen)
        advice, gap = f"{lead}:{lines}", "\n"
    else:
        pairs = [
            f"{first} and {second}{end}" for first, second in zip(chosen[::2], chosen[1::2], strict=True)
        ]
        more = "Moreover, " if manners["formal"] else "Plus, "
        advice, gap = f"{lead} " + f" {more}".join(pairs), " "
    opening = f"{rng.choice(OPENERS)}{end} " if manners["warm"] else ""
    closing = [f"{ask}?"] if manners["asks_back"] else []
    closing += [f"{rng.choice(OFFERS)}{end}"] if manners["offer"] else []
    return opening + advice + (gap + " ".join(closing) if closing else "")
