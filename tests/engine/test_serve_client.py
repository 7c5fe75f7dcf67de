"""The endpoint as the official ``openai`` client uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from export_models import demo_gguf, tiny_gguf
from openai import OpenAI

from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.serve import Server, make_server

QUESTION: Any = [{"role": "user", "content": "How do I boil an egg?"}]


class Slow(LlamaModel):
    """An untrained model, which does not stop by itself soon, with a breath between tokens. ``given``: all tokens so
    far."""

    given = 0
    _busy = False

    def generate(self, *arguments: Any, **options: Any) -> Iterator[int]:
        assert not self._busy, "two requests at once would abort llama.cpp"
        self._busy = True
        try:
            for token in super().generate(*arguments, **options):
                time.sleep(0.01)
                self.given += 1
                yield token
        finally:
            self._busy = False


def start(model: LlamaModel, api_key: str = "") -> Server:
    server = make_server(model, 0, api_key=api_key)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    return server


def stop(server: Server) -> None:
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with LlamaModel(demo_gguf(), n_threads=1) as model:
        yield (found := start(model))
        stop(found)


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[Slow, OpenAI]]:
    with Slow(tiny_gguf("llama"), n_threads=1) as model:
        found = start(model)
        yield model, OpenAI(base_url=found.url, api_key="none", max_retries=0, timeout=60)
        stop(found)


def ask(client: OpenAI, **options: Any) -> Any:
    asked = {"model": "any", "messages": QUESTION, "temperature": 0, "max_tokens": 200, **options}
    return client.chat.completions.create(**asked)


def content(reply: Any) -> str:
    return reply.choices[0].message.content


def test_the_models(client: OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "test"
    assert client.models.retrieve("test") == model
    with pytest.raises(openai.NotFoundError, match="only the model test"):
        client.models.retrieve("gpt-4")


def test_an_answer_and_its_usage(client: OpenAI) -> None:
    reply = ask(client)
    assert content(reply)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens > 5


def test_a_streamed_answer_is_the_whole_one_and_tells_its_usage_last(client: OpenAI) -> None:
    whole = ask(client)
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == content(whole)
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
    assert all(c.usage is None for c in chunks)
    assert (last.choices, last.usage) == ([], whole.usage)


def test_usage_is_not_streamed_unasked(client: OpenAI) -> None:
    assert all(c.choices and c.usage is None for c in ask(client, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_stop_and_budget(client: OpenAI, stream: bool) -> None:
    full = content(ask(client))

    def said(**options: Any) -> tuple[str, str]:
        reply = ask(client, stream=stream, **options)
        if not stream:
            return content(reply), reply.choices[0].finish_reason
        chunks = list(reply)
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        return text, chunks[-1].choices[0].finish_reason

    cut = full[4:14]
    assert said(stop=cut) == (full[: full.index(cut)], "stop")
    assert said(stop=["\0", cut]) == (full[: full.index(cut)], "stop")
    text, reason = said(max_tokens=3)
    assert (full.startswith(text), reason) == (True, "length")
    assert said(max_completion_tokens=3, max_tokens=openai.omit) == (text, "length")


def test_seed_and_temperature(client: OpenAI) -> None:
    warm = [content(ask(client, temperature=1.5, top_p=0.95, seed=s)) for s in (1, 1, 2, -3, -3)]
    assert warm[0] == warm[1]
    assert warm[3] == warm[4]
    assert len(set(warm)) == 3
    assert content(ask(client, temperature=1.5, top_p=0, seed=5)) == content(ask(client))


def test_content_as_parts_and_developer_for_system(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "How do I "}, {"type": "text", "text": "boil an egg?"}]
    assert content(ask(client, messages=[{"role": "user", "content": parts}])) == content(ask(client))
    system, developer = (
        ask(client, messages=[{"role": role, "content": "Be short."}, *QUESTION])
        for role in ("system", "developer")
    )
    assert content(system) == content(developer)
    assert system.usage.prompt_tokens > ask(client).usage.prompt_tokens


def test_what_it_does_not_know_is_ignored(client: OpenAI) -> None:
    more: dict[str, Any] = {
        "frequency_penalty": 0.5,
        "user": "me",
        "extra_body": {"top_k": 3, "made_up": [1]},
    }
    assert content(ask(client, **more)) == content(ask(client))
    null = {"temperature": None, "top_p": None, "stop": None, "seed": None, "stream": None, "n": None}
    assert content(ask(client, **null))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
        ),
    ],
)
def test_a_bad_parameter_is_named(client: OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError, match=param) as caught:
        ask(client, **change)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_a_prompt_beyond_the_context(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is") as caught:
        ask(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


def test_a_path_that_is_not_there(server: Server) -> None:
    other = OpenAI(base_url=server.url + "x", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError):
        ask(other)


def test_the_key(server: Server) -> None:
    locked = start(server.model, api_key="secret")
    clients = [OpenAI(base_url=locked.url, api_key=key, max_retries=0) for key in ("wrong", "secret")]
    try:
        with pytest.raises(openai.AuthenticationError, match="key") as caught:
            ask(clients[0])
        assert caught.value.code == "invalid_api_key"
        assert content(ask(clients[1]))
    finally:
        stop(locked)


def test_a_client_that_leaves_a_stream_ends_its_answer(slow: tuple[Slow, OpenAI]) -> None:
    model, client = slow
    before = model.given
    stream = ask(client, stream=True, max_tokens=400, temperature=1.5, seed=1)
    next(iter(stream))
    stream.close()
    ask(client, max_tokens=1)  # waits for its turn
    assert model.given - before < 100


def test_a_client_that_gives_up_waiting_ends_its_answer(slow: tuple[Slow, OpenAI]) -> None:
    model, client = slow
    before = model.given
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), max_tokens=400, temperature=1.5, seed=1)
    ask(client, max_tokens=1)
    assert model.given - before < 150


def test_two_at_once_wait_for_each_other(slow: tuple[Slow, OpenAI]) -> None:
    _, client = slow
    options = {"max_tokens": 20, "temperature": 1.5, "seed": 1}
    alone = content(ask(client, **options))
    with ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(ask, client, **options) for _ in range(3)]
        assert [content(r.result()) for r in replies] == [alone] * 3
