"""What reports quote, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from rlhf_lite.engine.candidates import alike
from rlhf_lite.engine.judge import ask
from rlhf_lite.engine.statistics import correlation, distinct_2, mean_with_interval, repetition
from rlhf_lite.errors import UserError


def test_distinct_2_counts_different_bigrams_over_all() -> None:
    assert distinct_2(["a b c", "a b d"]) == pytest.approx(3 / 4)
    assert distinct_2(["one"]) == 0.0


def test_repetition_is_the_share_of_four_tokens_in_a_row_that_were_said_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([7] * 13) == pytest.approx(9 / 10)
    assert repetition([1, 2, 3]) == 0.0


def test_the_interval_of_a_mean_is_two_standard_errors_wide() -> None:
    center, (low, high) = mean_with_interval([0.0, 1.0] * 50)
    assert center == 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5025 / 10, rel=1e-3)


def test_correlation_is_pearsons_and_0_where_nothing_varies() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert correlation(x, 2 * x) == pytest.approx(1.0)
    assert correlation(x, -x) == pytest.approx(-1.0)
    assert correlation(x, torch.ones(3)) == 0.0


@pytest.mark.parametrize(
    ("first", "second", "worthless"),
    [
        ("", "Yes, do.", True),
        ("Open a window.", "Open a window.", True),
        ("Open a window and rest.", "Take a walk after dinner.", False),
    ],
)
def test_empty_and_near_identical_answers_are_not_worth_a_persons_time(
    first: str, second: str, worthless: bool
) -> None:
    assert alike(first, second, 0.9) is worthless


def test_a_judge_may_answer_in_words_or_numbers_and_nothing_else() -> None:
    answers = {"a": "a", "b": "b", "tie": "tie", 0.3: "a", -2: "b", 0: "tie"}
    for given, verdict in answers.items():
        assert ask(lambda *_, given=given: given, "judge.py:f", "p", "x", "y") == verdict
    for nonsense in (None, "A", float("nan"), True):
        with pytest.raises(UserError, match=r"judge\.py:f"):
            ask(lambda *_, given=nonsense: given, "judge.py:f", "p", "x", "y")
