"""The label store: every verdict on the pairs, what people wrote themselves, and what that says about them.

* Nothing labelled is ever lost. Labels are only appended, each act in its own durable transaction; undo marks
  them as withdrawn. What counts for a pair is its latest label that was not withdrawn, whoever gave it.
* A verdict names an answer of the pair, not a side of the screen: "a" is ``Pair.a`` wherever it was shown.
* A skipped pair has been seen and does not come back; a tie, "both bad" or a skip trains nothing.
* A repeat is a second opinion on a pair that the judge labelled before. It measures the judge; it never counts
  for the pair.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from rlhf_lite.errors import BadRow
from rlhf_lite.schema import IMPROVED, NOW
from rlhf_lite.store import Mark, Message, Pair, Prompt, Store

__all__ = ["MUCH_BETTER", "Consistency", "Counts", "LabelStore", "Mark", "Message", "Pair", "Preference", "Prompt",
           "Question", "Rating", "Shares", "Verdict"]  # fmt: skip

Verdict = Literal["a", "b", "tie", "both_bad", "skip"]
MUCH_BETTER = 1.0


class Question(msgspec.Struct, frozen=True):
    """A pair as it is put to a person. Whether it is a repeat is not for that person to know."""

    pair: Pair
    swapped: bool = False  # B is shown on the left
    repeat: bool = False

    @property
    def left(self) -> str:
        return self.pair.b if self.swapped else self.pair.a

    @property
    def right(self) -> str:
        return self.pair.a if self.swapped else self.pair.b


class Preference(msgspec.Struct, frozen=True):
    """A decided pair. ``margin`` is what TRL's RewardTrainer takes off the difference of the two rewards in
    its loss: 0.0 for better, :data:`MUCH_BETTER` for much better, or what an imported file says."""

    prompt: list[Message]
    chosen: str
    rejected: str
    margin: float = 0.0


class Rating(msgspec.Struct, frozen=True):
    """One completion marked good or bad; None: an example to imitate, without a mark."""

    prompt: list[Message]
    completion: str
    good: bool | None


class Counts(msgspec.Struct, frozen=True):
    """``labelled`` is a + b + tie + both_bad; decided is a + b, by the split of the prompt."""

    prompts: int
    pairs: int
    labelled: int
    a: int
    b: int
    tie: int
    both_bad: int
    skipped: int
    decided_train: int
    decided_valid: int
    decided_test: int
    ratings: int


class Consistency(msgspec.Struct, frozen=True):
    """Of ``total`` pairs that a judge decided twice, ``same`` were decided the same way."""

    same: int
    total: int


class Shares(msgspec.Struct, frozen=True):
    """Of ``decided`` labels, ``left`` chose the answer shown on the left; of the ``unequal`` ones among them, whose
    answers differ in length, ``longer`` chose the longer one. Length is in characters."""

    decided: int
    left: int
    unequal: int
    longer: int


class LabelStore(Store):
    """A project's ``labels.db``. Any method may raise CorruptStore, DiskFull or UserError (in use)."""

    def unlabelled(self, limit: int | None = None, start: int = 0) -> list[Pair]:
        """The pairs without any verdict, oldest first; those from id ``start`` on, where one is given."""
        where = "WHERE id IN (SELECT pair_id FROM waiting WHERE pair_id >= ? ORDER BY pair_id LIMIT ?) ORDER BY id"
        return self._shown(where, start, -1 if limit is None else limit)

    def waiting(self) -> int:
        """How many pairs are unlabelled."""
        return self._rows("SELECT count(*) FROM waiting")[0][0]

    def label(
        self,
        pair_id: int,
        verdict: Verdict,
        *,
        judge: str,
        strong: bool = False,
        seconds: float | None = None,
        swapped: bool = False,
        repeat: bool = False,
    ) -> None:
        """Append a verdict; it is on disk when this returns. ``judge`` is "person:NAME",
        "script:FILE.py:FUNC sha256" or "import"; ``strong`` is much better; ``seconds`` how long it took;
        ``swapped`` and ``repeat`` how it was asked, see Question."""
        with self.transaction():
            margin = MUCH_BETTER if strong else 0.0
            self._append(pair_id, verdict, judge, margin, seconds=seconds, swapped=swapped, repeat=repeat)

    def improve(
        self,
        pair_id: int,
        text: str,
        *,
        judge: str,
        seconds: float | None = None,
        swapped: bool = False,
        repeat: bool = False,
    ) -> None:
        """Take a better answer that a person wrote: it beats both answers of the pair, and is an example to imitate.

        The pair itself counts as skipped. All of it is one act: on disk when this returns, and undone together.
        Space around the text is dropped. Raises BadRow where nothing is left, or one of the two answers."""
        better = text.strip()
        if not better:
            raise BadRow("the better answer is empty", hint="write one, or skip the pair")
        with self.transaction():
            pair = self.pair(pair_id)
            if better in (pair.a.strip(), pair.b.strip()):
                raise BadRow("the better answer is one of the two", hint="change it, or choose the one it is")
            completion = self._completion(pair.prompt.id, better)
            act = self._append(pair_id, "skip", judge, seconds=seconds, swapped=swapped, repeat=repeat)
            for worse in (pair.a, pair.b):
                improved = self.pair(self._pair(pair.prompt.id, better, worse, IMPROVED)[0])
                self._append(improved.id, "a" if improved.a == better else "b", judge, act=act)
            sql = "INSERT INTO ratings (completion_id, good, origin, act) VALUES (?, 1, ?, ?)"
            self._db.execute(sql, (completion, IMPROVED, act))

    def undo(self, judge: str) -> Question | None:
        """Withdraw all that this judge's latest act gave; returns what it had answered, to ask it again, None
        without one. It can be repeated, back to the judge's first."""
        last = """SELECT id, pair_id, swapped, repeat FROM labels
            WHERE judge = ? AND withdrawn IS NULL AND act IS NULL ORDER BY id DESC LIMIT 1"""
        with self.transaction():
            for act, pair_id, swapped, repeat in self._rows(last, judge):
                self._db.execute(f"UPDATE labels SET withdrawn = {NOW} WHERE id = ? OR act = ?", (act, act))
                self._db.execute(f"UPDATE ratings SET withdrawn = {NOW} WHERE act = ?", (act,))
                return Question(self.pair(pair_id), bool(swapped), bool(repeat))
        return None

    def add_preference(self, preference: Preference, *, origin: str) -> Literal["new", "known", "opposite"]:
        """Add a pair that was decided elsewhere, with its label (judge "import").

        A pair that has a label keeps it: "opposite" where that one decided the other way, else "known"."""
        with self.transaction():
            prompt_id, _ = self._prompt(preference.prompt)
            pair_id, _ = self._pair(prompt_id, preference.chosen, preference.rejected, origin)
            verdict: Verdict = "a" if self.pair(pair_id).a == preference.chosen else "b"
            for (said,) in self._rows("SELECT verdict FROM latest WHERE pair_id = ?", pair_id):
                return "opposite" if {said, verdict} == {"a", "b"} else "known"
            self._append(pair_id, verdict, "import", preference.margin)
        return "new"

    def preferences(self, split: str | None = None) -> list[Preference]:
        """The decided pairs, by the latest label of each."""
        sql = """SELECT messages, iif(verdict = 'a', a, b), iif(verdict = 'a', b, a), margin
            FROM shown JOIN latest ON pair_id = shown.id
            WHERE verdict IN ('a', 'b') AND ifnull(?, split) = split ORDER BY shown.id"""
        return [Preference(self._messages(text), *rest) for text, *rest in self._rows(sql, split)]

    def add_rating(self, messages: list[Message], completion: str, good: bool | None, origin: str) -> bool:
        """Add an unpaired completion: good, bad, or None, an example without a mark. False if known."""
        sql = "INSERT INTO ratings (completion_id, good, origin) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        with self.transaction():
            completion_id = self._completion(self._prompt(messages)[0], completion)
            return self._db.execute(sql, (completion_id, good, origin)).rowcount == 1

    def ratings(self, split: str | None = None) -> list[Rating]:
        """What KTO reads: the completions rated good or bad, then those of labelled pairs (chosen good,
        rejected bad, both bad). One that was called both is there twice."""
        sql = """SELECT messages, text, good FROM (
                SELECT 0 AS part, completion_id, good FROM ratings
                    WHERE good IS NOT NULL AND withdrawn IS NULL
                UNION ALL SELECT 1, a, verdict = 'a' FROM pairs JOIN latest ON pair_id = id
                    WHERE verdict IN ('a', 'b', 'both_bad')
                UNION ALL SELECT 1, b, verdict = 'b' FROM pairs JOIN latest ON pair_id = id
                    WHERE verdict IN ('a', 'b', 'both_bad'))
            JOIN completions ON completions.id = completion_id JOIN prompts ON prompts.id = prompt_id
            WHERE ifnull(?, split) = split
            GROUP BY completion_id, good ORDER BY min(part), completion_id, good"""
        return [Rating(self._messages(m), text, bool(good)) for m, text, good in self._rows(sql, split)]

    def demonstrations(self, split: str | None = None) -> list[tuple[list[Message], str]]:
        """(prompt, completion) to imitate: rated good or given without a mark, nowhere rated bad, not empty."""
        sql = """SELECT messages, text FROM ratings JOIN completions ON completions.id = completion_id
            JOIN prompts ON prompts.id = prompt_id
            WHERE ratings.withdrawn IS NULL AND text > '' AND ifnull(?, split) = split
            GROUP BY completion_id HAVING min(ifnull(good, 1)) = 1 ORDER BY min(ratings.id)"""
        return [(self._messages(messages), text) for messages, text in self._rows(sql, split)]

    def counts(self) -> Counts:
        sql = """SELECT verdict, split, count(*) FROM latest JOIN pairs ON pairs.id = pair_id
            JOIN prompts ON prompts.id = prompt_id GROUP BY verdict, split"""
        said, decided = Counter[str](), Counter[str]()
        for verdict, split, number in self._rows(sql):
            said[verdict] += number
            decided[split] += number if verdict in ("a", "b") else 0
        rated = """SELECT (SELECT count(*) FROM prompts),
            (SELECT count(*) FROM (SELECT DISTINCT completion_id, good FROM ratings WHERE withdrawn IS NULL))"""
        prompts, ratings = self._rows(rated)[0]
        train, valid, test = (decided[split] for split in ("train", "valid", "test"))
        a, b, tie, both_bad, skip = (said[v] for v in ("a", "b", "tie", "both_bad", "skip"))
        pairs, judged = said.total() + self.waiting(), a + b + tie + both_bad
        return Counts(prompts, pairs, judged, a, b, tie, both_bad, skip, train, valid, test, ratings)

    def decided(self, since: str = "") -> int:
        """How many pairs are decided; with ``since``, an ISO time, only those whose label is younger."""
        sql = "SELECT count(*) FROM latest WHERE verdict IN ('a', 'b')"
        if since:
            return self._rows(f"{sql} AND julianday(created) > julianday(?)", since)[0][0]
        return self._rows(sql)[0][0]

    def judges(self) -> dict[str, int]:
        """How many of the decided pairs each judge has decided."""
        sql = """SELECT judge, count(*) FROM (SELECT judge, verdict, max(id) FROM labels
            WHERE withdrawn IS NULL AND repeat = 0 GROUP BY pair_id) WHERE verdict IN ('a', 'b') GROUP BY judge"""
        return dict(self._rows(sql))

    def repeatable(self, judge: str, age: int = 15, share: float = 0.0) -> int | None:
        """A pair that this judge decided at least ``age`` acts ago, looking at it once and not since: of such a
        one a second opinion tells something. The first from ``share`` (0 to 1) of the labels on, else the first of
        all; None without one. Pairs that came from a file or a better answer are not among them unless the judge
        decided them as they were asked."""
        newest = """SELECT id FROM labels WHERE judge = ? AND withdrawn IS NULL AND act IS NULL
            ORDER BY id DESC LIMIT 1 OFFSET ?"""
        sql = """SELECT pair_id FROM labels AS l WHERE judge = ?1 AND withdrawn IS NULL AND act IS NULL
            AND repeat = 0 AND verdict IN ('a', 'b') AND id BETWEEN ?2 AND ?3
            AND NOT EXISTS (SELECT 1 FROM labels WHERE pair_id = l.pair_id AND judge = l.judge
                AND withdrawn IS NULL AND id > l.id) ORDER BY id LIMIT 1"""
        for (bound,) in self._rows(newest, judge, age - 1):
            for start in (int(share * bound), 0):
                for (pair_id,) in self._rows(sql, judge, start, bound - 1):
                    return pair_id
        return None

    def rhythm(self, judge: str) -> tuple[int, int]:
        """How many repeats this judge has answered, and how many questions since the last of them."""
        sql = """SELECT ifnull(sum(repeat), 0), ifnull(sum(id > (SELECT ifnull(max(id), 0) FROM labels
                WHERE judge = ?1 AND withdrawn IS NULL AND repeat = 1)), 0)
            FROM labels WHERE judge = ?1 AND withdrawn IS NULL AND act IS NULL"""
        repeats, since = self._rows(sql, judge)[0]
        return repeats, since

    def consistency(self, judge: str) -> Consistency:
        """How this judge's repeats compare with what the judge had said before, where both times decided."""
        sql = """SELECT ifnull(sum(first = again), 0), count(*) FROM (SELECT verdict AS again, (
                SELECT verdict FROM labels WHERE pair_id = r.pair_id AND judge = r.judge AND id < r.id
                AND withdrawn IS NULL AND repeat = 0 ORDER BY id DESC LIMIT 1) AS first
                FROM labels AS r WHERE judge = ? AND withdrawn IS NULL AND repeat = 1)
            WHERE first IN ('a', 'b') AND again IN ('a', 'b')"""
        return Consistency(*self._rows(sql, judge)[0])

    def shares(self, judge: str) -> Shares:
        """What this judge chose, of all that the judge was asked; without repeats and better answers."""
        sql = """SELECT count(*), ifnull(sum((verdict = 'a') <> swapped), 0), ifnull(sum(longer <> 0), 0),
                ifnull(sum(iif(verdict = 'a', longer > 0, longer < 0)), 0)
            FROM (SELECT verdict, swapped, length(x.text) - length(y.text) AS longer FROM labels
                JOIN pairs ON pairs.id = pair_id
                JOIN completions AS x ON x.id = a JOIN completions AS y ON y.id = b
                WHERE judge = ? AND withdrawn IS NULL AND act IS NULL AND repeat = 0 AND verdict IN ('a', 'b'))"""
        return Shares(*self._rows(sql, judge)[0])

    def _append(
        self,
        pair_id: int,
        verdict: Verdict,
        judge: str,
        margin: float = 0.0,
        *,
        seconds: float | None = None,
        swapped: bool = False,
        repeat: bool = False,
        act: int | None = None,
    ) -> int:
        """Its id."""
        sql = """INSERT INTO labels (pair_id, verdict, judge, margin, seconds, swapped, repeat, act)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"""
        return self._rows(sql, pair_id, verdict, judge, margin, seconds, swapped, repeat, act)[0][0]
