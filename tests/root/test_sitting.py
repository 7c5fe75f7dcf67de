"""What a person who labels relies on: the next question, the way back, repeats that they cannot tell, figures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from rlhf_lite.errors import BadRow
from rlhf_lite.labels import LabelStore, Mark, Question
from rlhf_lite.sitting import Choice, Figures, Sitting

ME = "person:ada"
CHOICES: tuple[Choice, ...] = ("left", "right", "tie", "both_bad", "skip")


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore.open(tmp_path / "labels.db") as opened:
        yield opened


def add_pairs(store: LabelStore, how_many: int, first: str = "yes indeed", second: str = "no") -> None:
    with store.transaction():
        store.add_prompts([{"role": "user", "content": f"question {i}"}] for i in range(how_many))
        for prompt in store.prompts():
            store.add_pair(prompt.id, first, second, origin="0001-generate")


def asked(sitting: Sitting) -> Question:
    assert sitting.current is not None
    return sitting.current


def answer(sitting: Sitting, how_many: int, text: str) -> None:
    """Choose the answer that reads so, whichever side it is on: a judge of firm opinions."""
    for _ in range(how_many):
        sitting.choose("left" if asked(sitting).left == text else "right")


def test_each_pair_is_asked_once_oldest_first_and_then_it_is_over(store: LabelStore) -> None:
    add_pairs(store, 5)
    due, sitting = store.unlabelled(), Sitting(store, ME, 0)
    for pair, choice in zip(due, CHOICES, strict=True):
        question = asked(sitting)
        assert (question.pair, question.left, question.right) == (pair, pair.a, pair.b)
        assert sitting.current is question  # looking twice asks nothing new
        sitting.choose(choice)
    assert sitting.current is None
    sitting.choose("left")  # a key that comes too late
    sitting.improve("perhaps")
    assert sitting.given == {"a": 1, "b": 1, "tie": 1, "both_bad": 1, "skip": 1}
    assert store.counts().labelled + store.counts().skipped == 5
    assert [(p.chosen, p.rejected) for p in store.preferences()] == [
        (due[0].a, due[0].b),
        (due[1].b, due[1].a),
    ]


def test_what_another_window_takes_back_is_asked_before_the_end(store: LabelStore, tmp_path: Path) -> None:
    add_pairs(store, 4)
    first, sitting = store.unlabelled()[0], Sitting(store, ME, 0)
    for choice in ("left", "tie"):
        assert sitting.current
        sitting.choose(choice)
    with LabelStore.open(tmp_path / "labels.db") as other:
        other.undo(ME)
        other.undo(ME)
    seen: list[int] = []
    while sitting.current:
        seen.append(sitting.current.pair.id)
        sitting.choose("left")
    assert first.id in seen
    assert store.waiting() == 0


def test_a_better_answer_decides_two_pairs_towards_the_next_refit(store: LabelStore) -> None:
    add_pairs(store, 40)
    sitting = Sitting(store, ME, 0)
    answer(sitting, 19, "yes indeed")
    for _ in range(3):
        assert sitting.current
        assert sitting.milestone is None
        sitting.improve("better than both")
    assert (store.decided(), sitting.milestone) == (25, 25)


def test_pairs_that_another_process_adds_are_asked_too(store: LabelStore, tmp_path: Path) -> None:
    add_pairs(store, 2)
    sitting = Sitting(store, ME, 0)
    with LabelStore.open(tmp_path / "labels.db") as generating:
        sitting.choose("left") if sitting.current else None
        add_pairs(generating, 3)
        assert sitting.figures().waiting == 2
        answer(sitting, 2, "no")
        assert sitting.current is None
        add_pairs(generating, 4)
        assert asked(sitting).pair.prompt.text == "question 3"
        generating.label(asked(sitting).pair.id, "a", judge="person:bob")
        sitting.choose("right")  # it was shown; what was said of it last counts
        assert sitting.current is None
    assert store.counts().b >= 1


def test_undo_goes_back_question_by_question_over_sittings_and_on_again(store: LabelStore) -> None:
    add_pairs(store, 4)
    first, second, third, fourth = (p.id for p in store.unlabelled())
    earlier = Sitting(store, ME, 0)
    answer(earlier, 2, "yes indeed")
    sitting = Sitting(store, ME, 0)
    answer(sitting, 1, "no")
    assert asked(sitting).pair.id == fourth
    back = [sitting.undo() for _ in range(3)]
    assert [q.pair.id for q in back if q] == [third, second, first]
    assert sitting.undo() is None
    assert asked(sitting).pair.id == first  # nothing left to take back: all as it was
    assert sitting.given == {}
    order: list[int] = []
    while sitting.current:
        order.append(sitting.current.pair.id)
        sitting.choose("tie")
    assert order == [first, second, third, fourth]
    assert sitting.undo() is not None  # also from the end
    assert asked(sitting).pair.id == fourth


def test_a_limit_counts_answers_that_still_stand(store: LabelStore) -> None:
    add_pairs(store, 5)
    sitting = Sitting(store, ME, 0, limit=2)
    assert sitting.figures().waiting == 2
    answer(sitting, 2, "no")
    assert sitting.current is None
    sitting.undo()
    assert sitting.figures().waiting == 1
    answer(sitting, 1, "no")
    assert sitting.current is None
    assert store.waiting() == 3


def test_a_better_answer_settles_the_pair_and_one_undo_takes_it_back(store: LabelStore) -> None:
    add_pairs(store, 2)
    sitting = Sitting(store, ME, 0)
    shown = asked(sitting)
    with pytest.raises(BadRow):
        sitting.improve("no")
    assert asked(sitting) == shown
    sitting.improve("It depends.")
    assert asked(sitting) != shown
    assert (store.decided(), sitting.given["skip"]) == (2, 1)
    assert sitting.undo() == shown == asked(sitting)
    assert (store.decided(), store.demonstrations(), sitting.given) == (0, [], {})


def test_much_better_is_kept_only_of_a_choice(store: LabelStore) -> None:
    add_pairs(store, 2)
    sitting = Sitting(store, ME, 0)
    for choice in ("right", "tie"):
        assert sitting.current
        sitting.choose(choice, strong=True)
    assert [p.margin for p in store.preferences()] == [1.0]


def walk(store: LabelStore, seed: int, how_many: int, judge: str = ME) -> list[Question]:
    sitting, shown = Sitting(store, judge, seed), list[Question]()
    for _ in range(how_many):
        shown.append(asked(sitting))
        sitting.choose("left" if shown[-1].left == "no" else "right")
    return shown


def test_about_every_twelfth_question_is_a_repeat_with_its_sides_swapped(store: LabelStore) -> None:
    add_pairs(store, 400)
    shown = walk(store, 0, 300)
    repeats = [i for i, question in enumerate(shown) if question.repeat]
    assert repeats[0] > 20
    assert 20 <= len(repeats) <= 27  # 280 questions, one in twelve
    assert len({b - a for a, b in pairwise(repeats)}) > 2  # at no place that can be learnt
    for place in repeats:
        again, then = shown[place], [q for q in shown[:place] if q.pair.id == shown[place].pair.id]
        assert [(again.left, again.right)] == [
            (q.right, q.left) for q in then
        ]  # once before, the other way round
        assert place - shown.index(then[0]) >= 15
    fresh = [q for q in shown if not q.repeat]
    assert len({q.pair.id for q in fresh}) == len(fresh) == store.counts().labelled == store.decided()
    assert store.consistency(ME).total == len(repeats) == store.consistency(ME).same
    assert all(p.chosen == "no" for p in store.preferences())


def test_repeats_follow_from_the_seed_and_go_on_where_they_were_after_a_restart(tmp_path: Path) -> None:
    def shown(name: str, seed: int, *sittings: int) -> list[tuple[int, bool]]:
        with LabelStore.open(tmp_path / name) as store:
            add_pairs(store, 120)
            return [(q.pair.id, q.repeat) for number in sittings for q in walk(store, seed, number)]

    whole = shown("one.db", 0, 100)
    assert shown("two.db", 0, *[10] * 10) == whole  # ten short sittings are asked what one long one is
    assert shown("three.db", 1, 100) != whole


def test_a_judge_is_asked_again_only_what_that_judge_was_asked(store: LabelStore) -> None:
    add_pairs(store, 200)
    walk(store, 0, 60, "person:bob")
    mine = walk(store, 0, 60)
    assert not any(q.repeat for q in mine[:20])
    assert {q.pair.id for q in mine if q.repeat} <= {q.pair.id for q in mine if not q.repeat}


def test_a_repeat_can_be_taken_back_and_comes_again_as_it_was(store: LabelStore) -> None:
    add_pairs(store, 100)
    sitting = Sitting(store, ME, 0)
    while not asked(sitting).repeat:
        sitting.choose("left")
    repeat = asked(sitting)
    given = sitting.given
    before = store.preferences(), store.counts()
    sitting.choose("left")
    assert (store.preferences(), store.counts()) == before
    assert sitting.given == given
    following = asked(sitting)
    assert sitting.undo() == repeat == asked(sitting)
    last = sitting.undo()  # from the repeat to what came before it
    assert last is not None
    assert not last.repeat
    sitting.choose("left")
    assert asked(sitting) == repeat
    sitting.improve("It depends.")  # whoever knows better may say so, of what they decided before too
    assert asked(sitting) == following
    assert all(preference in store.preferences() for preference in before[0])
    assert store.decided() == len(before[0]) + 2
    assert sitting.undo() == repeat
    assert (store.preferences(), store.counts()) == before


def test_no_repeat_comes_where_nothing_new_is_left_to_ask(store: LabelStore) -> None:
    add_pairs(store, 60)
    sitting = Sitting(store, ME, 0)
    last: Question | None = None
    while sitting.current:
        last = sitting.current
        sitting.choose("left")
    assert last is not None
    assert not last.repeat
    assert store.waiting() == 0


def test_speed_and_time_left_are_not_ruined_by_a_pause(store: LabelStore) -> None:
    add_pairs(store, 20)
    clock = Clock()
    sitting = Sitting(store, ME, 0, clock=clock)
    clock.now += 500  # before the first look nothing is shown
    for seconds in (10, 10, 10, 7200):
        assert sitting.current
        clock.now += seconds
        sitting.choose("left")
    assert (sitting.figures().per_hour, sitting.figures().seconds_left) == (None, None)
    assert sitting.current
    clock.now += 12
    sitting.choose("left")
    figures = sitting.figures()
    assert (figures.answered, figures.per_hour, figures.seconds_left) == (5, 360, 150)
    sitting.undo()
    assert sitting.figures().per_hour is None
    clock.now += 3
    sitting.choose("left")  # its time runs from when it was shown again
    sitting.undo()
    sitting.undo()
    sitting.undo()
    assert sitting.figures().answered == 2


def test_a_screen_can_read_the_figures_in_a_thread_of_its_own(store: LabelStore, tmp_path: Path) -> None:
    add_pairs(store, 20)
    sitting = Sitting(store, ME, 0)
    answer(sitting, 8, "no")

    def read() -> Figures:
        with LabelStore.open(tmp_path / "labels.db") as own:
            return sitting.figures(own)

    with ThreadPoolExecutor(1) as pool:
        figures = pool.submit(read).result()
    assert (figures.answered, figures.waiting, figures.longer_share) == (8, 12, 0)
    assert figures == sitting.figures()


def test_the_time_of_an_answer_is_stored(store: LabelStore, tmp_path: Path) -> None:
    add_pairs(store, 2)
    clock = Clock()
    sitting = Sitting(store, ME, 0, clock=clock)
    for seconds in (4.5, 2.0):
        assert sitting.current
        clock.now += seconds
        sitting.choose("left")
    assert store._rows("SELECT seconds FROM labels ORDER BY id") == [(4.5,), (2.0,)]


def test_a_side_that_is_chosen_too_often_is_said_from_30_labels_on(store: LabelStore) -> None:
    add_pairs(store, 80, "yes", "noo")
    sitting = Sitting(store, ME, 0)
    for number in range(29):
        assert asked(sitting).pair
        sitting.choose("left" if number % 3 else "right")
    assert sitting.figures().warnings == ()
    assert sitting.current
    sitting.choose("left")
    (said,) = sitting.figures().warnings
    assert "answer A in" in said
    assert "67%" in said
    assert "30 labels" in said
    share = sitting.figures().left_share
    assert share == pytest.approx(20 / 30)
    assert sitting.figures().longer_share is None  # all answers are as long
    for _ in range(8):
        assert sitting.current
        sitting.choose("right")
    assert sitting.figures().warnings == ()


def test_choosing_by_length_is_said_either_way(tmp_path: Path) -> None:
    for name, favourite, word in (("one.db", "yes indeed", "longer"), ("two.db", "no", "shorter")):
        with LabelStore.open(tmp_path / name) as store:
            add_pairs(store, 60)
            walk_to = Sitting(store, ME, 0)
            answer(walk_to, 31, favourite)
            said = " ".join(walk_to.figures().warnings)
            assert f"the {word} one in 100%" in said
            assert walk_to.figures().longer_share == (1 if word == "longer" else 0)


def test_a_person_who_tosses_a_coin_is_told_that_the_pairs_may_be_too_close(store: LabelStore) -> None:
    add_pairs(store, 300)
    sitting, coin = Sitting(store, ME, 0), random.Random(1)
    for _ in range(250):
        assert sitting.current
        sitting.choose(coin.choice(("left", "right")))
    figures = sitting.figures()
    assert figures.consistency.total > 12
    assert figures.consistency.same / figures.consistency.total < 0.7
    (said,) = [w for w in figures.warnings if "Asked again" in w]
    assert f"{figures.consistency.same} of {figures.consistency.total}" in said
    assert "sample hotter, or write a guideline" in said


def test_a_refit_is_offered_after_each_25_decided_and_once(store: LabelStore) -> None:
    add_pairs(store, 90)
    sitting, offers = Sitting(store, ME, 0), list[tuple[int, int]]()

    def go(choice: Choice) -> None:
        assert sitting.current
        sitting.choose(choice)
        if sitting.milestone:
            offers.append((store.decided(), sitting.milestone))

    for _ in range(24):
        go("left")
        go("tie")
    assert offers == []
    while not offers:
        go("left")
    assert offers == [(25, 25)]
    sitting.undo()
    assert sitting.milestone is None
    go("left")
    assert offers == [(25, 25)]
    while store.decided() < 49:
        go("left")
    assert asked(sitting)
    sitting.improve("It depends.")
    assert (store.decided(), sitting.milestone) == (51, 50)
    assert Sitting(store, ME, 0).milestone is None


def test_a_pair_is_flagged_and_noted_where_it_is_shown(store: LabelStore) -> None:
    add_pairs(store, 2)
    sitting = Sitting(store, ME, 0)
    shown = asked(sitting)
    assert sitting.flag()
    sitting.note(" ask Bob ")
    assert sitting.mark == store.mark(shown.pair.id) == Mark(True, "ask Bob")
    sitting.choose("left")
    assert asked(sitting) != shown
    assert sitting.mark == Mark()
    sitting.undo()
    assert not sitting.flag()
    assert store.flagged() == []


def test_a_random_walk_keeps_figures_and_store_in_step(store: LabelStore) -> None:
    add_pairs(store, 150)
    toss, sitting, texts = random.Random(5), Sitting(store, ME, 0), {"yes indeed", "no"}
    for _ in range(500):
        kind, shown = toss.random(), sitting.current
        if kind < 0.3 or shown is None:
            sitting.undo()
        elif kind < 0.4:
            sitting.improve("It depends.")
        else:
            sitting.choose(toss.choice(CHOICES))
        counts, given = store.counts(), sitting.given
        assert (given["tie"], given["both_bad"], given["skip"]) == (
            counts.tie,
            counts.both_bad,
            counts.skipped,
        )
        asked_for = [p for p in store.preferences() if {p.chosen, p.rejected} == texts]
        assert given["a"] + given["b"] == len(asked_for) == sitting.figures().shares.decided
        assert given.total() + store.waiting() == 150
    assert store.consistency(ME).total > 3
