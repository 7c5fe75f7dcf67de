"""An answer while it is being said, and how that goes in words."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from textual.message import Message

from rlhf_lite import conversation
from rlhf_lite.conversation import Sampling
from rlhf_lite.talker import Done, Talker, Told
from rlhf_lite.tui.widgets.conversation import SpokenAnswer
from rlhf_lite.voices import Voice


@dataclass
class Saying:
    """What is being said: each of ``sides`` after the one before, into its own widget; a second answer, which is
    asked for to choose between the two, is not shown yet and has none."""

    kind: Literal["answer", "second"]
    sides: list[Voice]
    into: list[SpokenAnswer]
    before: str | None  # the answer that was there
    sampling: Sampling
    texts: list[str] = field(default_factory=lambda: [""])
    tries: int = 1
    pieces: int = 0
    began: float = 0.0  # of the first piece

    @property
    def side(self) -> Voice:
        return self.sides[len(self.texts) - 1]


@dataclass
class Totals:
    """What was heard since the conversation began."""

    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, done: Done) -> None:
        self.answers += 1
        self.tokens += done.tokens
        self.seconds += done.seconds


@dataclass
class Room:
    """What was told of the context already: that it is nearly full, how many turns were left out."""

    warned: bool = False
    dropped: int = 0

    def news(self, done: Done, limit: int, max_tokens: int) -> list[str]:
        """What to tell after an answer, in a context of ``limit`` tokens."""
        news = [conversation.dropped_words(done.dropped)] if done.dropped > self.dropped else []
        warning = conversation.context_warning(done.used, limit, max_tokens)
        if warning and not self.warned and not done.dropped:
            news.append(warning)
        self.dropped, self.warned = done.dropped, bool(warning)
        return news


class Heard(Message):
    """The child said something."""

    def __init__(self, talker: Talker, told: Told) -> None:
        super().__init__()
        self.talker, self.told = talker, told


def saying_words(saying: Saying, loading: float | None, dot: str) -> str:
    """``loading``: for how many seconds the model has been loading, None where it is there."""
    if loading is not None:
        return f"loading the model… {loading:.0f} s{dot}esc takes the message back"
    who = f"{saying.side} answers" if saying.kind == "answer" else f"a second answer, try {saying.tries}"
    took = time.monotonic() - saying.began
    pace = [f"{saying.pieces / took:.0f} tokens/s"] if saying.pieces > 4 and took > 0.3 else []
    return dot.join([who, f"{saying.pieces} tokens", *pace, "esc stops"])


def last_words(done: Done) -> list[str]:
    """How the last answer went."""
    first = [f"first token {done.seconds_to_first:.2f} s"] if done.seconds_to_first is not None else []
    return [f"{done.rate:.0f} tokens/s", *first]
