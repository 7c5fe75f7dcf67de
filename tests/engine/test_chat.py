"""A chat session over its pipes, as its parent uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from export_models import demo_gguf, tiny_gguf

from rlhf_lite.errors import DataError, UserError
from rlhf_lite.jobs import Session

QUESTION = {"role": "user", "content": "How do I boil an egg?"}


@pytest.fixture
def session() -> Iterator[Session]:
    with Session("chat", str(demo_gguf())) as opened:
        assert opened.receive()["type"] == "ready"
        yield opened


def read_answer(session: Session) -> tuple[str, dict[str, Any]]:
    text = ""
    while (message := session.receive())["type"] == "token":
        text += message["text"]
    return text, message


def test_two_turns(session: Session) -> None:
    session.send(type="chat", messages=[QUESTION], temperature=0, max_tokens=300)
    first, done = read_answer(session)
    assert done["type"] == "done"
    assert done["reason"] == "stop"  # by the model's own stop token
    assert done["tokens"] > 3
    assert first
    assert "<|im_end|>" not in first
    messages = [QUESTION, {"role": "assistant", "content": first}, {"role": "user", "content": "Thank you!"}]
    session.send(type="chat", messages=messages, temperature=0, max_tokens=300)
    second, done = read_answer(session)
    assert done["type"] == "done"
    assert second != first


def test_a_budget_ends_an_answer(session: Session) -> None:
    session.send(type="chat", messages=[QUESTION], max_tokens=2, seed=1)
    _, done = read_answer(session)
    assert (done["reason"], done["tokens"]) == ("length", 2)


def test_stop_cancels_and_the_session_goes_on() -> None:
    with Session(
        "chat", str(tiny_gguf("llama"))
    ) as session:  # an untrained model does not stop by itself soon
        session.receive()
        session.send(type="chat", messages=[QUESTION], temperature=1.5, max_tokens=400, seed=3)
        assert session.receive()["type"] == "token"
        start = time.monotonic()
        session.send(type="stop")
        _, done = read_answer(session)
        assert done["reason"] == "cancelled"
        assert time.monotonic() - start < 5
        session.send(type="chat", messages=[QUESTION], max_tokens=1, seed=3)
        assert read_answer(session)[1]["reason"] == "length"


def test_a_stop_right_behind_its_request_is_heard() -> None:
    with Session("chat", str(tiny_gguf("llama"))) as session:
        session.receive()
        for _ in range(5):
            session.send(type="chat", messages=[QUESTION], temperature=1.5, max_tokens=450, seed=3)
            session.send(type="stop")
            assert read_answer(session)[1]["reason"] == "cancelled"


def test_an_unknown_request_is_an_error_and_the_session_goes_on(session: Session) -> None:
    session.send(type="dance")
    with pytest.raises(UserError, match="dance"):
        session.receive()
    session.send(type="chat", messages=[QUESTION], max_tokens=1)
    assert read_answer(session)[1]["type"] == "done"


def test_a_conversation_that_no_longer_fits(session: Session) -> None:
    session.send(type="chat", messages=[{"role": "user", "content": "word " * 3000}])
    with pytest.raises(UserError, match="context"):
        read_answer(session)


def test_a_damaged_file_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(demo_gguf().read_bytes()[:-1])
    with Session("chat", str(tmp_path / "x.gguf")) as session, pytest.raises(DataError, match="cannot load"):
        session.receive()


def test_the_child_ends_when_its_parent_closes_the_pipe() -> None:
    session = Session("chat", str(demo_gguf()))
    session.receive()
    session.send(type="chat", messages=[QUESTION], max_tokens=400, temperature=1.0)
    session.receive()
    session.close()
    assert session._process.returncode is not None
