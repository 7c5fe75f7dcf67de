"""The example judges and the example reward, as a user would call them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
sys.path.insert(0, str(EXAMPLES))

import judge  # noqa: E402  (an example file, made importable above)
import reward  # noqa: E402

PROMPT = "How do I sleep better?"
FULL = (
    "Happy to help! Perhaps one should:\n- dim the lamps early!\n- keep the bedroom cool!\n"
    "- wake up at seven!\n- buy a firmer pillow!\nWhen do you go to bed? Let me know if you need more help!"
)
BARE = "Definitely you gotta dim the lamps early and keep the bedroom cool."
IN_FULL = ("warm", "long", "asks_back", "hedged", "list_style", "exclamation", "formal", "offer")
IN_BARE = ("curt", "short", "no_question", "assertive", "prose", "plain", "casual", "no_offer")


@pytest.mark.parametrize("manner", IN_FULL)
def test_a_judge_prefers_the_answer_with_its_manner(manner: str) -> None:
    wish = getattr(judge, manner)
    assert (wish(PROMPT, FULL, BARE), wish(PROMPT, BARE, FULL)) == ("a", "b")


@pytest.mark.parametrize("manner", IN_BARE)
def test_a_judge_prefers_the_answer_without_the_opposite_manner(manner: str) -> None:
    wish = getattr(judge, manner)
    assert (wish(PROMPT, BARE, FULL), wish(PROMPT, FULL, BARE)) == ("a", "b")


@pytest.mark.parametrize("wish", [*IN_FULL, *IN_BARE, "prefer", "warm_and_short", "casual_list"])
def test_equal_answers_tie(wish: str) -> None:
    assert getattr(judge, wish)(PROMPT, FULL, FULL) == "tie"


def test_answers_of_almost_the_same_length_tie() -> None:
    assert judge.short(PROMPT, BARE, BARE.removesuffix(" cool.") + ".") == "tie"


def test_two_wishes_at_once_rank_both_over_one_over_none() -> None:
    both = "Good question. Maybe you can just dim the lamps early and wake up at seven."
    one = both.removeprefix("Good question. ")
    none = one + " Plus, keep the bedroom cool and buy a firmer pillow."
    assert judge.warm_and_short(PROMPT, one, both) == "b"
    assert judge.warm_and_short(PROMPT, one, none) == "a"
    assert judge.casual_list(PROMPT, BARE, FULL) == "tie"  # one casual, one a list
    assert judge.formal_and_hedged(PROMPT, FULL, BARE) == "a"
    assert judge.asks_back_without_exclamation(PROMPT, FULL, BARE) == "tie"


def test_an_answer_that_mixes_rival_manners_has_neither() -> None:
    mixed = "Perhaps you gotta dim the lamps. Moreover, definitely wake up at seven."
    assert not [m for m in ("hedged", "assertive", "formal", "casual") if judge.has(m, mixed)]


def test_the_demo_wish_is_a_friendly_helper() -> None:
    friendly = f"Glad you asked. {BARE} Feel free to ask for more."
    assert judge.prefer(PROMPT, friendly, BARE) == "a"
    assert judge.prefer(PROMPT, BARE, f"Glad you asked. {BARE}") == "b"


def test_the_reward_wants_a_question_back_but_not_a_question_mark_alone() -> None:
    asking = f"{BARE} When do you go to bed?"
    assert reward.score([PROMPT] * 3, [asking, BARE, "?"]) == [1.0, 0.0, 0.0]
