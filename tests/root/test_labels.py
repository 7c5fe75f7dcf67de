"""What a person who labels relies on: nothing lost, fair sides, a hold-out by prompt, writers that get along."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from rlhf_lite import schema
from rlhf_lite import store as store_module
from rlhf_lite.errors import BadRow, CorruptStore, DataError, UserError
from rlhf_lite.labels import (
    MUCH_BETTER,
    Consistency,
    LabelStore,
    Mark,
    Message,
    Pair,
    Preference,
    Rating,
    Shares,
    Verdict,
)  # fmt: skip

ME = "person:ada"


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore.open(tmp_path / "labels.db") as opened:
        yield opened


def sql(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


def pairs_in(store: LabelStore, how_many: int) -> list[int]:
    with store.transaction():
        store.add_prompts(ask(f"question {i}") for i in range(how_many))
        added = [store.add_pair(p.id, "yes", "no", origin="0001-generate") for p in store.prompts()]
    return [pair_id for pair_id in added if pair_id is not None]


def test_a_prompt_is_stored_once_with_all_its_turns(store: LabelStore) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        *ask("Hello"),
        {"role": "assistant", "content": "Hi."},
        *ask("¿Qué tal, 世界?"),
    ]
    assert store.add_prompts([turns, ask("other"), turns]) == 2
    assert store.add_prompts([turns]) == 0
    assert [p.messages for p in store.prompts()] == [turns, ask("other")]
    assert store.prompts()[0].text == "¿Qué tal, 世界?"


def test_pairs_come_back_oldest_first_until_each_has_been_seen(store: LabelStore) -> None:
    first, second, third = pairs_in(store, 3)
    assert [p.id for p in store.unlabelled()] == [first, second, third]
    assert [p.id for p in store.unlabelled(1)] == [first]
    store.label(first, "tie", judge=ME)
    store.label(second, "skip", judge=ME)
    assert [p.id for p in store.unlabelled()] == [third]


def test_the_same_pair_is_added_once_whichever_answer_is_named_first(store: LabelStore) -> None:
    store.add_prompts([ask("q")])
    (prompt,) = store.prompts()
    assert store.add_pair(prompt.id, "one", "two", origin="x") is not None
    assert store.add_pair(prompt.id, "one", "two", origin="x") is None
    assert store.add_pair(prompt.id, "two", "one", origin="y") is None
    assert store.add_pair(prompt.id, "one", "three", origin="y") is not None
    with pytest.raises(BadRow, match="different answers"):
        store.add_pair(prompt.id, "one", "one", origin="y")


def test_which_answer_is_a_is_a_fair_coin_that_the_seed_decides(tmp_path: Path) -> None:
    def sides(name: str, seed: int, first: str, second: str) -> list[str]:
        with LabelStore.open(tmp_path / name, seed) as store, store.transaction():
            store.add_prompts(ask(f"question {i}") for i in range(400))
            for prompt in store.prompts():
                store.add_pair(prompt.id, first, second, origin="x")
            return [pair.a for pair in store.unlabelled()]

    shown = sides("one.db", 0, "yes", "no")
    assert 155 < shown.count("yes") < 245  # 4.5 standard deviations of a fair coin
    assert sides("two.db", 0, "no", "yes") == shown  # the order in which they were given has no say
    assert sides("three.db", 1, "yes", "no") != shown


def test_sides_stay_where_they_were_shown(tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "labels.db", seed=1) as store:
        pairs_in(store, 20)
        shown = store.unlabelled()
    with LabelStore.open(tmp_path / "labels.db", seed=2) as store:
        assert store.unlabelled() == shown


def test_a_verdict_decides_chosen_and_rejected(store: LabelStore) -> None:
    a_better, b_much, tie, bad, skip = pairs_in(store, 5)
    shown = store.unlabelled()
    store.label(a_better, "a", judge=ME)
    store.label(b_much, "b", judge=ME, strong=True, seconds=3.5)
    store.label(tie, "tie", judge=ME)
    store.label(bad, "both_bad", judge=ME)
    store.label(skip, "skip", judge=ME)
    assert store.preferences() == [
        Preference(ask("question 0"), shown[0].a, shown[0].b, 0.0),
        Preference(ask("question 1"), shown[1].b, shown[1].a, MUCH_BETTER),
    ]
    counts = store.counts()
    assert (counts.prompts, counts.pairs, counts.labelled) == (5, 5, 4)
    assert (counts.a, counts.b, counts.tie, counts.both_bad, counts.skipped) == (1, 1, 1, 1, 1)
    assert counts.decided_train + counts.decided_valid + counts.decided_test == 2


def test_relabelling_counts_the_latest_and_keeps_the_history(store: LabelStore, tmp_path: Path) -> None:
    (pair,) = pairs_in(store, 1)
    given: list[tuple[Verdict, str]] = [("a", ME), ("b", "script:judge.py:prefer 0f"), ("a", ME), ("tie", ME)]
    for verdict, judge in given:
        store.label(pair, verdict, judge=judge)
    assert store.preferences() == []
    assert store.counts().tie == store.counts().labelled == 1
    history = sql(tmp_path / "labels.db", "SELECT verdict FROM labels ORDER BY id")
    assert [verdict for (verdict,) in history] == ["a", "b", "a", "tie"]


def test_undo_goes_back_label_by_label_over_a_restart_and_keeps_what_it_took_back(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        first, second = pairs_in(store, 2)
        store.label(first, "a", judge=ME)
        store.label(second, "a", judge="person:bob")
        store.label(second, "b", judge=ME)
    with LabelStore.open(path) as store:
        again = store.undo(ME)
        assert again is not None
        assert again.pair.id == second
        assert store.counts().a == 2  # what bob said of it counts again
        assert [q.pair.id for q in (store.undo(ME), store.undo(ME)) if q] == [first]
        assert [p.id for p in store.unlabelled()] == [first]
    assert sql(path, "SELECT count(*), count(withdrawn) FROM labels") == [(3, 2)]


def test_no_prompt_is_in_two_splits_and_the_shares_are_75_10_15(tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "one.db") as one, LabelStore.open(tmp_path / "two.db", seed=7) as two:
        one.add_prompts(ask(f"question {i}") for i in range(1000))
        two.add_prompts(ask(f"question {i}") for i in reversed(range(1000)))
        split = {p.text: p.split for p in one.prompts()}
        assert {p.text: p.split for p in two.prompts()} == split  # in any project, in any order
        parts = [{p.text for p in one.prompts(part)} for part in ("train", "valid", "test")]
    assert sum(map(len, parts)) == 1000
    assert set.union(*parts) == set(split)
    for part, share in zip(parts, (0.75, 0.10, 0.15), strict=True):
        assert len(part) / 1000 == pytest.approx(share, abs=0.05)


def test_the_hold_out_is_by_prompt_whatever_is_labelled(store: LabelStore) -> None:
    with store.transaction():
        store.add_prompts(ask(f"question {i}") for i in range(60))
        for prompt in store.prompts():
            for other in ("no", "perhaps", "never"):
                store.add_pair(prompt.id, "yes", other, origin="x")
        for pair in store.unlabelled():
            store.label(pair.id, "a", judge=ME)
    parts = [store.preferences(part) for part in ("train", "valid", "test")]
    asked = [{p.prompt[0]["content"] for p in part} for part in parts]
    assert all(asked)
    assert sum(map(len, asked)) == 60 == len(set.union(*asked))
    counts = store.counts()
    assert [len(p) for p in parts] == [counts.decided_train, counts.decided_valid, counts.decided_test]


def test_ratings_demonstrations_and_what_kto_reads(store: LabelStore) -> None:
    assert store.add_rating(ask("q"), "fine", True, "import:x")
    assert not store.add_rating(ask("q"), "fine", True, "import:y")
    store.add_rating(ask("q"), "awful", False, "import:x")
    store.add_rating(ask("q"), "an example", None, "import:x")
    store.add_rating(ask("q"), "disputed", True, "import:x")
    store.add_rating(ask("q"), "disputed", False, "import:x")
    store.add_rating(ask("q"), "", True, "import:x")
    assert store.demonstrations() == [(ask("q"), "fine"), (ask("q"), "an example")]
    assert store.counts().ratings == 6
    better, bad = pairs_in(store, 2)[-2:]
    store.label(better, "a", judge=ME)
    store.label(bad, "both_bad", judge=ME)
    rated, paired = store.ratings()[:5], store.ratings()[5:]
    assert {(r.completion, r.good) for r in rated} == {
        ("fine", True),
        ("awful", False),
        ("disputed", True),
        ("disputed", False),
        ("", True),
    }
    assert sorted(r.good is True for r in paired) == [False, False, False, True]
    assert all(isinstance(r, Rating) for r in paired)


WRITER = """
import sys
from pathlib import Path
from rlhf_lite.labels import LabelStore
path, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
with LabelStore.open(path) as store:
    for i in range(10):
        store.add_prompts([[{"role": "user", "content": f"{me} {i}"}], [{"role": "user", "content": f"both {i}"}]])
        for prompt in store.prompts():
            if prompt.text in (f"{me} {i}", f"both {i}"):
                pair = store.add_pair(prompt.id, "yes", "no", origin=me)
                if pair is not None:
                    store.label(pair, "a", judge=me)
    print("done", flush=True)
    sys.stdin.readline()
"""


def start_writer(path: Path, name: str, script: str = WRITER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(path), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_two_processes_make_and_write_one_store_at_once(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    both = [start_writer(path, name) for name in ("one", "two")]
    assert [hear(p) for p in both] == ["ready"] * 2
    for process in both:
        say(process)  # both find no file and make it
    assert [hear(p) for p in both] == ["done"] * 2
    for process in both:
        process.communicate("\n")
    with LabelStore.open(path) as store:
        counts = store.counts()
    assert (counts.prompts, counts.pairs, counts.labelled) == (30, 30, 30)


def test_a_store_made_by_several_at_the_same_moment_opens_for_all(tmp_path: Path) -> None:
    def make(path: Path, start: threading.Barrier) -> None:
        start.wait()
        LabelStore.open(path).close()

    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            start = threading.Barrier(4)
            for made in [pool.submit(make, tmp_path / f"{number}.db", start) for _ in range(4)]:
                made.result()


def test_a_killed_process_loses_no_label_it_has_given(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    writer = start_writer(path, "one")
    hear(writer)
    say(writer)
    assert hear(writer) == "done"
    os.kill(writer.pid, signal.SIGKILL)  # the store is still open, its write-ahead log still there
    writer.communicate()
    with LabelStore.open(path) as store:
        assert store.counts().labelled == 20


def test_a_store_held_by_another_program_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        (pair,) = pairs_in(store, 1)
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder, LabelStore.open(path) as store:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="in use") as caught:
            store.label(pair, "a", judge=ME)
        assert caught.value.hint
        assert len(store.unlabelled()) == 1  # reading goes on
        holder.execute("ROLLBACK")
        store.label(pair, "a", judge=ME)


def test_a_step_that_fails_half_way_leaves_nothing(store: LabelStore) -> None:
    with pytest.raises(BadRow, match="not valid Unicode"):
        store.add_prompts([ask("good"), ask("half a \ud83d surrogate")])
    assert store.prompts() == []


@pytest.mark.parametrize(
    "content", [b"this is a letter, no database " * 99, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_store_is_named_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.db"
    path.write_bytes(content)
    with pytest.raises(CorruptStore) as caught:
        LabelStore.open(path)
    assert str(path) in caught.value.message
    assert caught.value.why
    assert caught.value.hint
    assert path.read_bytes() == content


def test_a_page_overwritten_in_the_middle_is_named_damaged(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        pairs_in(store, 300)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(CorruptStore), LabelStore.open(path) as store:
        store.unlabelled()


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    sql(path, "CREATE TABLE songs (name)")
    with pytest.raises(CorruptStore) as caught:
        LabelStore.open(path)
    assert "other program" in caught.value.why
    assert sql(path, "SELECT name FROM sqlite_master") == [("songs",)]


def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        pairs_in(store, 1)
    sql(path, "PRAGMA user_version = 99")
    with pytest.raises(DataError) as caught:
        LabelStore.open(path)
    assert "99" in caught.value.why
    assert "update" in caught.value.hint
    assert sql(path, "PRAGMA user_version") == [(99,)]


def test_a_folder_that_is_not_there_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        LabelStore.open(tmp_path / "nowhere" / "labels.db")


def answers(store: LabelStore) -> set[tuple[str, str]]:
    return {(p.chosen, p.rejected) for p in store.preferences()}


def test_a_better_answer_beats_both_is_an_example_and_settles_the_pair(store: LabelStore) -> None:
    first, second = pairs_in(store, 2)
    store.improve(first, " perhaps\n", judge=ME, seconds=9.0)
    assert answers(store) == {("perhaps", "yes"), ("perhaps", "no")}
    assert [p.margin for p in store.preferences()] == [0.0, 0.0]
    assert store.demonstrations() == [(ask("question 0"), "perhaps")]
    assert [p.id for p in store.unlabelled()] == [second]
    counts = store.counts()
    assert (counts.a + counts.b, counts.skipped, counts.ratings) == (2, 1, 1)
    assert counts.pairs == counts.labelled + counts.skipped + store.waiting()


def test_one_undo_takes_all_of_a_better_answer_back_and_it_can_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        first, second = pairs_in(store, 2)
        store.improve(first, "perhaps", judge=ME, swapped=True)
    with LabelStore.open(path) as store:
        again = store.undo(ME)
        assert again is not None
        assert (again.pair.id, again.swapped, again.repeat) == (first, True, False)
        assert again.left == again.pair.b
        assert (store.preferences(), store.demonstrations(), store.ratings()) == ([], [], [])
        # The pairs with the text that was taken back are nobody's to judge.
        assert [p.id for p in store.unlabelled()] == [first, second]
        assert (store.counts().pairs, store.counts().ratings, store.undo(ME)) == (2, 0, None)
        store.improve(first, "perhaps", judge=ME)
        assert len(store.preferences()) == 2
        assert len(store.demonstrations()) == 1
    assert sql(path, "SELECT count(*), count(withdrawn) FROM labels") == [(6, 3)]  # nothing is lost


def test_taking_a_better_answer_back_leaves_what_others_said_of_the_same_text(store: LabelStore) -> None:
    (pair,) = pairs_in(store, 1)
    store.add_rating(ask("question 0"), "never", True, "import:x")
    for judge, text in (("person:bob", "perhaps"), (ME, "perhaps"), (ME, "never")):
        store.improve(pair, text, judge=judge)
    assert store.counts().ratings == 2
    assert store.undo("person:bob") is not None
    assert store.undo(ME) is not None
    assert {text for _, text in store.demonstrations()} == {"never", "perhaps"}
    assert answers(store) == {("perhaps", "yes"), ("perhaps", "no")}


@pytest.mark.parametrize("text", ["", " \n", "yes", " no "])
def test_a_better_answer_that_is_none_is_refused_and_nothing_stored(store: LabelStore, text: str) -> None:
    (pair,) = pairs_in(store, 1)
    with pytest.raises(BadRow) as caught:
        store.improve(pair, text, judge=ME)
    assert caught.value.hint
    assert store.waiting() == 1
    assert store.undo(ME) is None


def test_a_better_answer_that_is_no_text_leaves_nothing_half_done(store: LabelStore) -> None:
    (pair,) = pairs_in(store, 1)
    with pytest.raises(BadRow, match="not valid Unicode"):
        store.improve(pair, "half a \ud83d surrogate", judge=ME)
    assert store.waiting() == 1


def test_a_repeat_never_trains_and_never_counts(store: LabelStore) -> None:
    first, second = pairs_in(store, 2)
    store.label(first, "a", judge=ME)
    before = store.preferences(), store.ratings(), store.counts(), store.decided()
    store.label(first, "b", judge=ME, strong=True, swapped=True, repeat=True)
    store.label(second, "a", judge=ME, repeat=True)
    assert (store.preferences(), store.ratings(), store.counts(), store.decided()) == before
    assert [p.id for p in store.unlabelled()] == [second]
    asked = [store.undo(ME), store.undo(ME)]
    assert [(q.pair.id, q.swapped, q.repeat) for q in asked if q] == [
        (second, False, True),
        (first, True, True),
    ]
    assert (store.preferences(), store.ratings(), store.counts(), store.decided()) == before


def askable(store: LabelStore) -> list[int]:
    """All that may come, found from everywhere."""
    found = {store.repeatable(ME, share=i / 200) for i in range(200)}
    return sorted(pair for pair in found if pair is not None)


def test_what_can_be_asked_again_is_old_decided_and_not_asked_twice(store: LabelStore) -> None:
    ids = pairs_in(store, 30)
    store.label(ids[0], "a", judge="person:bob")
    store.improve(ids[1], "perhaps", judge=ME)
    store.label(ids[2], "tie", judge=ME)
    for pair in ids[3:18]:
        store.label(pair, "a", judge=ME)
    assert askable(store) == []  # the first that was decided is 14 answers old
    store.label(ids[18], "skip", judge=ME)
    assert askable(store) == [ids[3]]
    store.label(ids[19], "b", judge=ME)
    assert askable(store) == ids[3:5]
    store.label(ids[3], "skip", judge=ME, repeat=True)
    store.label(ids[4], "b", judge=ME)  # looked at once more
    assert askable(store) == ids[5:7]
    store.add_preference(Preference(ask("file"), "good", "bad"), origin="import:x")
    for pair in ids[20:]:
        store.label(pair, "tie", judge=ME)
    assert askable(store) == ids[5:17]


def test_consistency_is_of_pairs_decided_both_times(store: LabelStore) -> None:
    same, other, tie_then, tie_now, gone = pairs_in(store, 5)
    said: list[tuple[int, Verdict, Verdict]] = [
        (same, "a", "a"),
        (other, "a", "b"),
        (tie_then, "tie", "a"),
        (tie_now, "b", "tie"),
        (gone, "b", "b"),
    ]
    for pair, then, _ in said:
        store.label(pair, then, judge=ME)
    for pair, _, now in said:
        store.label(pair, now, judge=ME, repeat=True)
        store.label(pair, now, judge="person:bob", repeat=True)  # bob had never seen it
    assert store.consistency(ME) == Consistency(2, 3)
    store.undo(ME)
    assert store.consistency(ME) == Consistency(1, 2)
    store.label(same, "b", judge=ME)  # a later change of mind is no inconsistency
    assert store.consistency(ME) == Consistency(1, 2)
    assert store.consistency("person:bob") == Consistency(0, 0)


def test_shares_of_the_side_and_of_the_longer_answer(store: LabelStore) -> None:
    with store.transaction():
        store.add_prompts(ask(f"question {i}") for i in range(5))
        for prompt in store.prompts():
            store.add_pair(prompt.id, "long and longer", "short", origin="x")
        store.add_pair(store.prompts()[0].id, "same", "size", origin="x")
    *unequal, equal = store.unlabelled()
    for pair in unequal[:4]:  # the short one is put on the left, and chosen
        store.label(pair.id, "a" if pair.a == "short" else "b", judge=ME, swapped=pair.b == "short")
    long = unequal[4]  # and here the long one, on the right
    store.label(long.id, "b" if long.a == "short" else "a", judge=ME, swapped=long.b == "short")
    store.label(equal.id, "a", judge=ME, swapped=True)
    for pair in unequal[:2]:
        store.label(pair.id, "a", judge=ME, repeat=True)
        store.improve(pair.id, "the longest answer of all", judge="person:bob")
    store.label(unequal[0].id, "a", judge="person:cleo")
    store.undo("person:cleo")
    assert store.shares(ME) == Shares(decided=6, left=4, unequal=5, longer=1)
    assert store.shares("person:bob") == store.shares("person:cleo") == Shares(0, 0, 0, 0)


def test_a_flag_and_a_note_stay_with_the_pair(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        first, second = pairs_in(store, 2)
        assert store.mark(first) == Mark(False, "")
        store.note(first, "both are rude")
        store.flag(first)
        store.flag(second)
    with LabelStore.open(path) as store:
        store.label(first, "a", judge=ME)
        store.undo(ME)
        assert store.mark(first) == Mark(True, "both are rude")
        store.flag(second, False)
        assert [p.id for p in store.flagged()] == [first]
        store.note(first, "")
        assert store.mark(first) == Mark(True, "")


def test_decided_since_a_time(store: LabelStore, tmp_path: Path) -> None:
    first, second, third = pairs_in(store, 3)
    store.label(first, "a", judge=ME)
    store.label(second, "tie", judge=ME)
    with closing(sqlite3.connect(tmp_path / "labels.db")) as db, db:
        db.execute("UPDATE labels SET created = '2026-01-01T10:00:00.000Z'")
    store.label(third, "b", judge=ME)
    assert store.decided() == 2
    assert store.decided("2026-01-01T10:00:00Z") == 1
    assert store.decided("2026-01-01T10:30:00+01:00") == 2
    assert store.decided("2999-01-01") == 0


class Act(NamedTuple):
    """One key press: the pairs it gave a verdict, by prompt and texts, each with what it chose; and an example."""

    judge: str
    pair: int
    repeat: bool
    gave: dict[tuple[str, ...], str | None]
    example: str | None


def key_of(prompt: str, *texts: str) -> tuple[str, ...]:
    return (prompt, *sorted(texts))


def random_act(store: LabelStore, pair: Pair, judge: str, toss: random.Random) -> Act:
    """A label or a better answer, given to the store."""
    question, repeat = pair.prompt.text, toss.random() < 0.15
    key = key_of(question, pair.a, pair.b)
    if toss.random() < 0.75:
        verdict = toss.choice(get_args(Verdict))
        store.label(pair.id, verdict, judge=judge, repeat=repeat)
        chosen = {"a": pair.a, "b": pair.b}.get(verdict)
        return Act(judge, pair.id, repeat, {} if repeat else {key: chosen}, None)
    text = toss.choice(["perhaps", "never", "ask again"])
    store.improve(pair.id, text, judge=judge, repeat=repeat)
    gave: dict[tuple[str, ...], str | None] = {} if repeat else {key: None}
    gave |= {key_of(question, text, worse): text for worse in (pair.a, pair.b)}
    return Act(judge, pair.id, repeat, gave, text)


def test_a_random_walk_of_labels_undos_and_better_answers_agrees_with_a_simple_model(tmp_path: Path) -> None:
    path, toss, acts = tmp_path / "labels.db", random.Random(3), list[Act]()
    store = LabelStore.open(path)
    pairs_in(store, 12)
    pairs = {p.id: p for p in store.unlabelled()}
    for _ in range(500):
        judge, kind = toss.choice([ME, "person:bob"]), toss.random()
        if kind < 0.55:
            acts.append(random_act(store, toss.choice(list(pairs.values())), judge, toss))
        elif kind < 0.97:
            undone, mine = store.undo(judge), [act for act in acts if act.judge == judge][-1:]
            assert [(q.pair.id, q.repeat) for q in [undone] if q] == [(a.pair, a.repeat) for a in mine]
            acts = [act for act in acts if act not in mine or act is not mine[0]]
        else:
            store.close()
            store = LabelStore.open(path)
        now: dict[tuple[str, ...], str | None] = {}
        for act in acts:
            now |= act.gave
        trained = {
            (key_of(p.prompt[0]["content"], p.chosen, p.rejected), p.chosen) for p in store.preferences()
        }
        assert trained == {(key, chosen) for key, chosen in now.items() if chosen}
        examples = {(pairs[act.pair].prompt.text, act.example) for act in acts if act.example}
        assert {(m[0]["content"], text) for m, text in store.demonstrations()} == examples
        waiting = {p.id for p in pairs.values() if key_of(p.prompt.text, p.a, p.b) not in now}
        assert {p.id for p in store.unlabelled()} == waiting
        counts = store.counts()
        assert (counts.a + counts.b, counts.pairs) == (len(trained), len(now) + len(waiting))
        assert store.decided() == len(trained)
    assert sql(path, "SELECT count(*) FROM labels WHERE withdrawn IS NOT NULL")[0][0] > 50
    store.close()


IMPROVER = """
import sys
from pathlib import Path
from rlhf_lite.labels import LabelStore
path, me = Path(sys.argv[1]), sys.argv[2]
with LabelStore.open(path) as store:
    waiting = store.unlabelled()
    print("ready", flush=True)
    sys.stdin.readline()
    for pair in waiting:
        store.improve(pair.id, "perhaps", judge=me)
        store.undo(me)
        store.improve(pair.id, "perhaps", judge=me)
print("done", flush=True)
"""


def test_two_processes_improve_the_same_pairs_at_once_and_either_can_take_its_own_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        pairs_in(store, 10)
    two = [start_writer(path, name, IMPROVER) for name in ("one", "two")]
    assert [hear(p) for p in two] == ["ready"] * 2
    for process in two:
        say(process)
    assert [hear(p) for p in two] == ["done"] * 2
    for process in two:
        process.communicate()
    with LabelStore.open(path) as store:
        assert (len(store.preferences()), len(store.demonstrations())) == (20, 10)
        assert sum(1 for _ in iter(lambda: store.undo("one"), None)) == 10
        assert (len(store.preferences()), len(store.demonstrations())) == (20, 10)
        assert sum(1 for _ in iter(lambda: store.undo("two"), None)) == 10
        assert (store.preferences(), store.demonstrations(), store.waiting()) == ([], [], 10)


# A file as version 1 wrote it, word for word: it has to open in every version to come.
VERSION_1 = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, messages TEXT NOT NULL,
    split TEXT NOT NULL CHECK (split IN ('train', 'valid', 'test')),
    created TEXT NOT NULL DEFAULT '2026-11-21');
CREATE TABLE completions (id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompts,
    digest BLOB NOT NULL, text TEXT NOT NULL, UNIQUE (prompt_id, digest));
CREATE TABLE pairs (id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompts,
    a INTEGER NOT NULL REFERENCES completions, b INTEGER NOT NULL REFERENCES completions,
    origin TEXT NOT NULL, created TEXT NOT NULL DEFAULT '2026-11-21', CHECK (a <> b));
CREATE UNIQUE INDEX pairs_once ON pairs (min(a, b), max(a, b));
CREATE TABLE labels (id INTEGER PRIMARY KEY, pair_id INTEGER NOT NULL REFERENCES pairs,
    verdict TEXT NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    margin REAL NOT NULL, judge TEXT NOT NULL, seconds REAL, created TEXT NOT NULL DEFAULT '2026-11-21',
    withdrawn TEXT);
CREATE INDEX labels_of_pair ON labels (pair_id);
CREATE TABLE ratings (id INTEGER PRIMARY KEY, completion_id INTEGER NOT NULL REFERENCES completions,
    good INTEGER CHECK (good IN (0, 1)), origin TEXT NOT NULL, created TEXT NOT NULL DEFAULT '2026-11-21');
CREATE UNIQUE INDEX ratings_once ON ratings (completion_id, ifnull(good, -1));
CREATE VIEW shown AS SELECT pairs.id, pairs.prompt_id, messages, split, a.text AS a, b.text AS b, origin
    FROM pairs JOIN prompts ON prompts.id = pairs.prompt_id
    JOIN completions AS a ON a.id = pairs.a JOIN completions AS b ON b.id = pairs.b;
CREATE VIEW latest AS SELECT pair_id, verdict, margin FROM labels AS l
    WHERE withdrawn IS NULL AND NOT EXISTS (
    SELECT 1 FROM labels WHERE pair_id = l.pair_id AND id > l.id AND withdrawn IS NULL);
INSERT INTO prompts (digest, messages, split) VALUES (x'01', '[{"content":"Hi","role":"user"}]', 'test');
INSERT INTO completions (prompt_id, digest, text) VALUES (1, x'02', 'Hello!'), (1, x'03', 'What?');
INSERT INTO pairs (prompt_id, a, b, origin) VALUES (1, 2, 1, '0001-generate');
INSERT INTO labels (pair_id, verdict, margin, judge) VALUES (1, 'b', 1.0, 'person:ada');
INSERT INTO ratings (completion_id, good, origin) VALUES (1, 1, 'import:old.jsonl');
PRAGMA user_version = 1;
"""


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
    return path


def test_a_version_1_file_opens_with_its_labels_and_takes_more(version_1: Path) -> None:
    with LabelStore.open(version_1) as store:
        assert store.preferences("test") == [Preference(ask("Hi"), "Hello!", "What?", MUCH_BETTER)]
        assert store.demonstrations() == [(ask("Hi"), "Hello!")]
        store.label(1, "tie", judge=ME)
        assert store.counts().tie == 1
        assert store.undo(ME) is not None
        assert len(store.preferences()) == 1
        store.improve(1, "Good morning!", judge=ME)
        assert store.demonstrations() == [(ask("Hi"), "Hello!"), (ask("Hi"), "Good morning!")]
        assert store.undo(ME) is not None
    assert sql(
        version_1, "SELECT id, pair_id, verdict, margin, judge FROM labels WHERE withdrawn IS NULL"
    ) == [(1, 1, "b", 1.0, "person:ada")]
    with LabelStore.open(version_1) as store:
        again = store.undo(ME)  # what version 1 stored can be taken back too
        assert again is not None
        assert (again.pair.id, again.left, again.swapped, again.repeat) == (1, "What?", False, False)
        assert store.waiting() == 1


def form(path: Path) -> list[Any]:
    """Its tables, columns, indexes and views, without regard to white space."""
    written = "SELECT name, sql FROM sqlite_master WHERE type IN ('view', 'index') AND sql > '' ORDER BY name"
    columns = """SELECT m.name, c.name, c.type, c.[notnull] FROM sqlite_master m, pragma_table_info(m.name) c
        ORDER BY m.name, c.cid"""
    return [(name, " ".join(text.split())) for name, text in sql(path, written)] + sql(path, columns)


def test_a_new_file_is_what_the_version_1_script_says_and_what_it_becomes(
    version_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        LabelStore.open(tmp_path / "then.db").close()
    assert form(tmp_path / "then.db") == form(version_1)
    LabelStore.open(tmp_path / "new.db").close()
    LabelStore.open(version_1).close()
    assert form(tmp_path / "new.db") == form(version_1)


def test_a_migration_is_applied_once_and_whole_or_not_at_all(
    version_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ("ALTER TABLE labels ADD COLUMN note TEXT", "UPDATE labels SET note = 'kept'")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, (*step, "NONSENSE")))
    with pytest.raises(CorruptStore):
        LabelStore.open(version_1)
    assert sql(version_1, "PRAGMA user_version") == [(1,)]
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:-1], step))
    for _ in range(2):
        LabelStore.open(version_1).close()
    assert sql(version_1, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    assert sql(version_1, "SELECT verdict, note FROM labels") == [("b", "kept")]
