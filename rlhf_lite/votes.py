"""Blind votes between base and tuned, on the answers that an evaluation left in its folder.

* Every prompt is asked about before any is asked again, in an order and on sides that follow from a seed. Only sampled
  answers are asked: they are what the evaluation's own win rate is about.
* A pair whose sides were shown is spent: no vote on it counts any more, and taking back does not bring it back.
* Identical answers are not asked; they count as unchanged.
* ``votes.jsonl`` lies beside the answers: a vote is one whole line, on disk before the next pair is shown; taking one
  back is a line too. A last line without its end was never acknowledged and is dropped.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from rlhf_lite.errors import DataError, UserError
from rlhf_lite.intervals import wilson
from rlhf_lite.labels import LabelStore

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
Said = Literal["base", "tuned", "tie", "both_bad", "skip", "revealed"]
ENOUGH = 30
BASE, NOT_A_SIDE = "base", ("prompt", "mode", "base")


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="vote"):
    """``row`` is the line of ``samples.jsonl``, from 0; ``tuned`` the name of the policy there."""

    row: int
    tuned: str
    said: Said
    strong: bool
    tuned_left: bool
    seconds: float
    time: float


class Undo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="undo"):
    """The last vote on this policy is taken back."""

    tuned: str
    time: float


class Ask(msgspec.Struct, frozen=True):
    """A pair to vote on."""

    row: int
    prompt: str
    base: str
    tuned: str
    tuned_left: bool

    @property
    def left(self) -> str:
        return self.tuned if self.tuned_left else self.base

    @property
    def right(self) -> str:
        return self.base if self.tuned_left else self.tuned


class Tally(msgspec.Struct, frozen=True):
    """``ties`` holds the pairs where both were bad as well. ``unchanged`` sampled pairs were identical and not asked;
    of the ``greedy`` most likely answers, ``greedy_changed`` differ from the base's."""

    tuned: int
    base: int
    ties: int
    skipped: int
    unchanged: int
    greedy: int
    greedy_changed: int

    @property
    def votes(self) -> int:
        return self.tuned + self.base + self.ties

    @property
    def sentence(self) -> str:
        """The result in words."""
        decided, ties = self.tuned + self.base, f"{self.ties} tie{'' if self.ties == 1 else 's'}"
        if self.votes < ENOUGH:
            return f"{self.votes} of {ENOUGH} votes: not enough to tell"
        if not decided:
            return f"You saw no difference: {ties}"
        low, high = wilson(self.tuned, decided)
        share = f"{self.tuned / decided:.0%}".replace("%", " %")
        between = f"95 % {low * 100:.0f}-{high * 100:.0f} %"
        return f"You preferred tuned in {self.tuned} of {decided} ({share}, {between}), {ties}"

    @property
    def verdict(self) -> str:
        """What the interval says; empty where there are too few votes."""
        decided = self.tuned + self.base
        if self.votes < ENOUGH or not decided:
            return ""
        low, high = wilson(self.tuned, decided)
        if low > 0.5:
            return "The tuned model is better by your own taste."
        return (
            "The base is better by your own taste."
            if high < 0.5
            else "That may be chance: the interval holds 50 %."
        )


class Added(msgspec.Struct, frozen=True):
    """Votes that became labels: ``new`` ones, ``known`` ones whose pair was there already, and ``lost`` ones whose
    prompt is not in the project, or there more than once."""

    new: int
    known: int
    lost: int


class Ballot:
    """The votes on one evaluation. Raises DataError where its files are damaged, UserError where it has no answers."""

    def __init__(self, folder: Path, seed: int, prefer: str = "") -> None:
        self.folder, self._path = folder, folder / "votes.jsonl"
        rows = _rows(folder / "samples.jsonl")
        named = [name for name in (rows[0] if rows else {}) if name not in NOT_A_SIDE]
        if not named:
            raise UserError(
                f"{folder.name} left no answers to compare", hint="evaluate again: rlhf-lite eval"
            )
        self.tuned = prefer if prefer in named else named[-1]
        greedy = [r for r in rows if r["mode"] == "greedy"]
        self._greedy, self._changed = len(greedy), sum(r[BASE] != r[self.tuned] for r in greedy)
        sampled = [(i, r) for i, r in enumerate(rows) if r["mode"] == "sampled"]
        self._asks = _in_order([(i, r) for i, r in sampled if r[BASE] != r[self.tuned]], self.tuned, seed)
        self._unchanged = len(sampled) - len(self._asks)
        self._votes = [v for v in _said(self._path) if v.tuned == self.tuned]
        self._shown_at = time.monotonic()

    @property
    def current(self) -> Ask | None:
        """The pair to vote on, None where all are done."""
        voted = {v.row for v in self._votes}
        return next((ask for ask in self._asks if ask.row not in voted), None)

    @property
    def waiting(self) -> int:
        return len(self._asks) - len({v.row for v in self._votes})

    @property
    def votes(self) -> int:
        return len(self._votes)

    def choose(self, choice: Choice, *, strong: bool = False) -> None:
        """Vote on :attr:`current`; on disk when this returns."""
        ask = self.current
        if ask is None:
            return
        sides: dict[str, Said] = (
            {"left": "tuned", "right": "base"} if ask.tuned_left else {"left": "base", "right": "tuned"}
        )
        said = sides[choice] if choice in ("left", "right") else choice
        strong, seconds = strong and choice in ("left", "right"), round(time.monotonic() - self._shown_at, 2)
        vote = Vote(ask.row, self.tuned, said, strong, ask.tuned_left, seconds, time.time())
        self._append(vote)
        self._votes.append(vote)
        self._shown_at = time.monotonic()

    def reveal(self) -> Ask | None:
        """The pair that is asked, now spent."""
        if ask := self.current:
            vote = Vote(ask.row, self.tuned, "revealed", False, ask.tuned_left, 0.0, time.time())
            self._append(vote)
            self._votes.append(vote)
        return ask

    def undo(self) -> bool:
        """Take the last vote back, be it of an earlier sitting; False where there is none."""
        if all(v.said == "revealed" for v in self._votes):
            return False
        self._append(Undo(self.tuned, time.time()))
        _take_back(self._votes, self.tuned)
        self._shown_at = time.monotonic()
        return True

    @property
    def tally(self) -> Tally:
        said = Counter(v.said for v in self._votes)
        ties, skipped = said["tie"] + said["both_bad"], said["skip"] + said["revealed"]
        return Tally(said["tuned"], said[BASE], ties, skipped, self._unchanged, self._greedy, self._changed)

    def add_to_labels(self, store: LabelStore, judge: str) -> Added:
        """Make the votes labels, all or none; the ones that are labels already stay as they are."""
        asks, new, known, lost = {a.row: a for a in self._asks}, 0, 0, 0
        by_text: dict[str, list[int]] = {}
        for prompt in store.prompts():
            by_text.setdefault(prompt.text, []).append(prompt.id)
        with store.transaction():
            for vote in self._votes:
                if vote.said in ("skip", "revealed") or vote.row not in asks:
                    continue
                ask, ids = asks[vote.row], by_text.get(asks[vote.row].prompt, [])
                if len(ids) != 1:
                    lost += 1
                    continue
                pair_id = store.add_pair(ids[0], ask.base, ask.tuned, origin=self.folder.name)
                if pair_id is None:
                    known += 1
                    continue
                a_is_tuned = store.pair(pair_id).a == ask.tuned
                verdict = (
                    vote.said
                    if vote.said in ("tie", "both_bad")
                    else "a"
                    if a_is_tuned == (vote.said == "tuned")
                    else "b"
                )
                swapped = a_is_tuned != vote.tuned_left
                store.label(
                    pair_id, verdict, judge=judge, strong=vote.strong, seconds=vote.seconds, swapped=swapped
                )
                new += 1
        return Added(new, known, lost)

    def _append(self, line: Vote | Undo) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            if torn:  # never acknowledged: what a crash left is cut off
                os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)
            os.write(descriptor, msgspec.json.encode(line) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines of ``samples.jsonl``, all with the same sides."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: list[dict[str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line, type=dict[str, str])
        except msgspec.MsgspecError as error:
            raise _damaged(path, number, str(error)) from error
        if not {*NOT_A_SIDE} <= row.keys() or (found and row.keys() != found[0].keys()):
            raise _damaged(path, number, "it names other sides than the lines before, or lacks one")
        found.append(row)
    return found


def _said(path: Path) -> list[Vote]:
    """The votes that were not taken back, oldest first."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    decode, found = msgspec.json.Decoder(Vote | Undo).decode, list[Vote]()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            said = decode(line)
        except msgspec.MsgspecError as error:
            raise _damaged(path, number, str(error)) from error
        if isinstance(said, Vote):
            found.append(said)
        else:
            _take_back(found, said.tuned)
    return found


def _take_back(votes: list[Vote], tuned: str) -> None:
    places = [i for i, v in enumerate(votes) if v.tuned == tuned and v.said != "revealed"]
    if places:
        del votes[places[-1]]


def _damaged(path: Path, number: int, why: str) -> DataError:
    return DataError(
        f"{path} is damaged at line {number}", why=why, hint="move it away, or put a backup in its place"
    )


def _in_order(rows: list[tuple[int, dict[str, str]]], tuned: str, seed: int) -> list[Ask]:
    """Each prompt once before any is asked again, shuffled within each such round; sides by a coin for each row."""
    seen: dict[str, int] = {}
    placed: list[tuple[int, float, Ask]] = []
    for number, row in rows:
        toss = random.Random(json.dumps([seed, number, row["prompt"]]))
        turn = seen[row["prompt"]] = seen.get(row["prompt"], -1) + 1
        ask = Ask(number, row["prompt"], row[BASE], row[tuned], toss.random() < 0.5)
        placed.append((turn, toss.random(), ask))
    return [ask for *_, ask in sorted(placed, key=lambda p: p[:2])]
