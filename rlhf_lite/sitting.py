"""One person's labelling session: what is asked next, what the answers add up to, when to say something about it.

* It holds one question at a time and keeps its place in the store alone, so that pairs which another process adds
  are asked too, and a sitting that ends in any way goes on where it was.
* Now and then a pair is asked again with its sides swapped. The person is not told: knowing would change the answer.
* It advises and never forbids; a preference for long answers may be a taste.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from rlhf_lite.labels import Consistency, LabelStore, Mark, Question, Shares, Verdict

Choice = Literal["left", "right", "tie", "both_bad", "skip"]

BEFORE_REPEATS = 20  # answers of a judge before the first repeat can come
REPEAT_AFTER = (
    8,
    14,
)  # so many other questions lie between two repeats: every 12th is one, at no fixed place
RATE_AFTER = 5
BIAS_AFTER, BIAS = 30, 0.60
CONSISTENCY_AFTER, CONSISTENT = 5, 0.70
REFIT_EVERY = 25

TOO_CLOSE = "These pairs may be too close: sample hotter, or write a guideline."


class Figures(msgspec.Struct, frozen=True):
    """How it goes. ``answered`` and ``per_hour`` are of this sitting, ``shares`` and ``consistency`` of all that the
    judge ever said. ``per_hour`` follows from the median time per answer, so that a pause does not count;
    it and ``seconds_left`` are None before a few answers."""

    answered: int
    waiting: int
    per_hour: float | None
    seconds_left: float | None
    shares: Shares
    consistency: Consistency
    warnings: tuple[str, ...]  # sentences for the person, the most pressing first

    @property
    def left_share(self) -> float | None:
        """How often the answer on the left was chosen, 0 to 1."""
        return self.shares.left / self.shares.decided if self.shares.decided else None

    @property
    def longer_share(self) -> float | None:
        """How often the longer answer was chosen, 0 to 1."""
        return self.shares.longer / self.shares.unequal if self.shares.unequal else None


class _Answer(msgspec.Struct, frozen=True):
    pair_id: int
    verdict: Verdict
    repeat: bool
    seconds: float


class Sitting:
    """Ask :attr:`current`, answer it with :meth:`choose` or :meth:`improve`, until it is None.

    ``seed`` decides when which pair is repeated; ``limit`` ends the sitting after so many answers. Any method may
    raise what the store raises; an answer is on disk when its method returns."""

    def __init__(
        self,
        store: LabelStore,
        judge: str,
        seed: int,
        *,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._judge, self._seed, self._limit, self._clock = store, judge, seed, limit, clock
        self._current: Question | None = None
        self._shown_at = 0.0
        self._answers: list[_Answer] = []
        self._decided = store.decided()
        self._from = 0  # no pair below this id waits: with many labels, looking from the first on takes long
        self._milestone: int | None = None
        self._offered = self._decided // REFIT_EVERY

    @property
    def current(self) -> Question | None:
        """What to show now; its time runs from the first look at it. None: nothing waits, for now or at the limit."""
        if self._current is None:
            self._show(self._next())
        return self._current

    def choose(self, choice: Choice, *, strong: bool = False) -> None:
        """Answer the question that is shown; nothing happens where none is. ``strong``: much better."""
        if (shown := self._current) is None:
            return
        seconds, verdict = self._clock() - self._shown_at, _verdict(choice, shown)
        self._store.label(
            shown.pair.id,
            verdict,
            judge=self._judge,
            strong=strong and verdict in ("a", "b"),
            seconds=seconds,
            swapped=shown.swapped,
            repeat=shown.repeat,
        )
        self._answered(shown, verdict, seconds, decided=int(verdict in ("a", "b") and not shown.repeat))

    def improve(self, text: str) -> None:
        """Answer with a better third answer. Raises BadRow, and still asks, where it is empty or one of the two."""
        if (shown := self._current) is None:
            return
        seconds = self._clock() - self._shown_at
        self._store.improve(
            shown.pair.id,
            text,
            judge=self._judge,
            seconds=seconds,
            swapped=shown.swapped,
            repeat=shown.repeat,
        )
        self._answered(shown, "skip", seconds, decided=2)

    def undo(self) -> Question | None:
        """Take back this person's latest answer, be it of an earlier sitting, and show its question again.

        The question that was shown comes later. None, and all stays as it is, where there is no answer."""
        if (undone := self._store.undo(self._judge)) is None:
            return None
        for place in range(
            len(self._answers) - 1, -1, -1
        ):  # not always the last: a second sitting may be open
            if (self._answers[place].pair_id, self._answers[place].repeat) == (undone.pair.id, undone.repeat):
                del self._answers[place]
                break
        self._decided, self._milestone, self._from = self._store.decided(), None, 0
        self._show(undone)
        return undone

    def flag(self) -> bool:
        """Flag the pair that is shown, or take its flag off; returns whether it is flagged now."""
        if self._current is None:
            return False
        on = not self.mark.flagged
        self._store.flag(self._current.pair.id, on)
        return on

    def note(self, text: str) -> None:
        """Keep a note on the pair that is shown; an empty text removes it."""
        if self._current is not None:
            self._store.note(self._current.pair.id, text.strip())

    @property
    def mark(self) -> Mark:
        """Flag and note of the pair that is shown."""
        return self._store.mark(self._current.pair.id) if self._current else Mark()

    @property
    def given(self) -> Counter[Verdict]:
        """The verdicts of this sitting, without repeats; a better answer is a "skip" of its pair."""
        return Counter(answer.verdict for answer in self._answers if not answer.repeat)

    @property
    def milestone(self) -> int | None:
        """Where the latest answer completed another 25 decided pairs: how many those are, 25, 50, ... Then a quick
        refit of the reward model is worth an offer; each number is offered once."""
        return self._milestone

    def figures(self, store: LabelStore | None = None) -> Figures:
        """What to show beside the question. It reads the store: ask once per answer, not once per frame. In another
        thread it is given that thread's own ``store`` to read."""
        store = store or self._store
        waiting = self._waiting(store)
        median = None
        if len(self._answers) >= RATE_AFTER:
            median = max(statistics.median(answer.seconds for answer in self._answers), 0.1)
        shares, consistency = store.shares(self._judge), store.consistency(self._judge)
        return Figures(
            answered=len(self._answers),
            waiting=waiting,
            per_hour=3600 / median if median else None,
            seconds_left=waiting * median if median else None,
            shares=shares,
            consistency=consistency,
            warnings=tuple(_warnings(shares, consistency)),
        )

    def _show(self, question: Question | None) -> None:
        self._current, self._shown_at = question, self._clock()

    def _left_to_ask(self) -> int | None:
        return None if self._limit is None else max(self._limit - self.given.total(), 0)

    def _waiting(self, store: LabelStore) -> int:
        waiting, limit = store.waiting(), self._left_to_ask()
        return waiting if limit is None else min(waiting, limit)

    def _next(self) -> Question | None:
        if self._left_to_ask() == 0:
            return None
        # Another window may have taken a label back: at the end, look at all of them.
        waiting = self._store.unlabelled(1, self._from) or self._store.unlabelled(1)
        if not waiting:
            return None
        self._from = waiting[0].id
        return self._repeat() or Question(waiting[0])

    def _repeat(self) -> Question | None:
        """A repeat, where one is due. What comes follows from the store and the seed alone, so undo and a restart
        change nothing about it."""
        repeats, since = self._store.rhythm(self._judge)
        toss = random.Random(f"{self._seed} {self._judge} {repeats}")
        due = toss.randint(*REPEAT_AFTER) + (0 if repeats else BEFORE_REPEATS)
        if since < due or (old := self._store.repeatable(self._judge, share=toss.random())) is None:
            return None
        return Question(self._store.pair(old), swapped=True, repeat=True)

    def _answered(self, shown: Question, verdict: Verdict, seconds: float, *, decided: int) -> None:
        """``decided``: how many pairs were decided by it."""
        self._answers.append(_Answer(shown.pair.id, verdict, shown.repeat, seconds))
        self._current, self._milestone = None, None
        self._decided += decided
        if self._decided // REFIT_EVERY > self._offered:
            self._offered = self._decided // REFIT_EVERY
            self._milestone = self._offered * REFIT_EVERY


def _verdict(choice: Choice, shown: Question) -> Verdict:
    if choice == "left":
        return "b" if shown.swapped else "a"
    if choice == "right":
        return "a" if shown.swapped else "b"
    return choice


def _warnings(shares: Shares, consistency: Consistency) -> list[str]:
    said: list[str] = []
    if bias := _bias(shares.left, shares.decided, "answer A", "answer B"):
        said.append(f"You chose {bias}. Their places are random: read both before you choose.")
    if bias := _bias(shares.longer, shares.unequal, "the longer one", "the shorter one"):
        said.append(f"You chose {bias}. If length is not what you mean, look twice: the model will learn it.")
    if consistency.total >= CONSISTENCY_AFTER and consistency.same < CONSISTENT * consistency.total:
        said.append(
            f"Asked again, you said the same {consistency.same} of {consistency.total} times. {TOO_CLOSE}"
        )
    return said


def _bias(one: int, of: int, name: str, other: str) -> str:
    """Which of the two was chosen too often, and how often; empty where neither was."""
    share = one / of if of else 0.5
    if of < BIAS_AFTER or max(share, 1 - share) <= BIAS:
        return ""
    return f"{name if share > BIAS else other} in {max(share, 1 - share):.0%} of {of} labels"
