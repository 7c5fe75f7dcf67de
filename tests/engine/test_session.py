"""A conversation that outgrows the context: whole turns go, oldest first, and not one at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rlhf_lite.engine.session import Asked, Messages, Prompt, fit

SYSTEM = {"role": "system", "content": "s" * 10}


def conversation(turns: int, *, system: bool = False) -> Messages:
    """Turn n is 40 tokens long, a token a character; the last message is a question."""
    said = [
        ({"role": "user", "content": f"{n:20}"}, {"role": "assistant", "content": "a" * 20})
        for n in range(turns)
    ]
    return [*([SYSTEM] if system else []), *(m for pair in said for m in pair)][: -1 if turns else None]


def asked(messages: Messages, max_tokens: int = 100) -> Asked:
    return Asked.of({"type": "chat", "messages": messages, "max_tokens": max_tokens})


def ids_of(messages: Messages) -> list[int]:
    return [ord(c) for m in messages for c in m["content"]]


def fitted(turns: int, context: int = 400, **options: Any) -> tuple[Prompt, Messages]:
    messages = conversation(turns, **options)
    return fit(asked(messages), ids_of, context), messages


def test_what_fits_is_left_alone() -> None:
    prompt, messages = fitted(7)
    assert prompt == Prompt(ids_of(messages), 0)
    assert len(prompt.ids) == 260  # of 400, 100 are the answer's


@pytest.mark.parametrize("turns", range(9, 60))
def test_whole_turns_go_and_the_answer_has_room(turns: int) -> None:
    prompt, messages = fitted(turns)
    assert prompt.dropped > 0
    assert prompt.ids == ids_of(messages[2 * prompt.dropped :])
    assert 300 - 75 - 40 < len(prompt.ids) <= 300  # a quarter of the room at most, and the rest of a turn


def test_what_is_left_out_stays_the_same_for_some_turns() -> None:
    """So that the keys and values of what stays are used again: its beginning does not move."""
    dropped = [fitted(turns)[0].dropped for turns in range(1, 60)]
    assert dropped == sorted(dropped)
    changes = sum(a != b for a, b in itertools.pairwise(dropped))
    assert changes <= 60 / 1.8  # a turn is 40 tokens, a quarter of the room is 75


def test_system_messages_stay() -> None:
    prompt, messages = fitted(20, system=True)
    assert prompt.ids[:10] == ids_of([SYSTEM])
    assert prompt.ids[10:] == ids_of(messages[1 + 2 * prompt.dropped :])


def test_the_last_turn_stays_whatever_its_length() -> None:
    messages = [*conversation(3), {"role": "user", "content": "x" * 1000}]
    assert fit(asked(messages), ids_of, 400).ids == [ord("x")] * 1000
    only = [{"role": "user", "content": "x" * 1000}]
    assert fit(asked(only), ids_of, 400) == Prompt([ord("x")] * 1000, 0)


def test_a_long_history_is_rendered_a_few_times() -> None:
    times = 0

    def counted(messages: Messages) -> list[int]:
        nonlocal times
        times += 1
        return ids_of(messages)

    assert fit(asked(conversation(1000)), counted, 400).dropped > 900
    assert times < 15
