"""The OpenAI-compatible endpoint, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from export_models import demo_gguf

from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.serve import make_server
from rlhf_lite.errors import UserError
from rlhf_lite.jobs import Session

ASK = {
    "messages": [{"role": "user", "content": "How do I boil an egg?"}],
    "temperature": 0,
    "max_tokens": 300,
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with LlamaModel(demo_gguf(), n_threads=1) as model:
        server = make_server(model, 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
        server.server_close()


def ask(
    port: int, body: Any, *, path: str = "/v1/chat/completions", kind: str = "application/json"
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if body is None:
        connection.request("GET", path)
    else:
        raw = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", path, raw, {"Content-Type": kind})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def whole(port: int, **change: Any) -> dict[str, Any]:
    status, text = ask(port, {**ASK, **change})
    assert status == 200, text
    return json.loads(text)


def test_models(port: int) -> None:
    status, text = ask(port, None, path="/v1/models")
    assert status == 200
    assert json.loads(text)["data"][0]["object"] == "model"


def test_a_whole_answer(port: int) -> None:
    reply = whole(port)
    choice = reply["choices"][0]
    assert reply["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_streamed_answer_is_the_whole_one(port: int) -> None:
    status, text = ask(port, {**ASK, "stream": True})
    assert status == 200
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    choices = [json.loads(e)["choices"][0] for e in events[:-1]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert choices[-1]["finish_reason"] == "stop"
    assert (
        "".join(c["delta"].get("content", "") for c in choices)
        == whole(port)["choices"][0]["message"]["content"]
    )


def test_budget_and_seed(port: int) -> None:
    short = whole(port, max_tokens=4)
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 4
    same = [whole(port, temperature=1, seed=7)["choices"] for _ in range(2)]
    assert same[0] == same[1]


def test_a_stop_string_cuts_and_is_left_out(port: int) -> None:
    full = whole(port)["choices"][0]["message"]["content"]
    stop = full[3:30]  # spans tokens
    choice = whole(port, stop=["\0never", stop])["choices"][0]
    assert choice["message"]["content"] == full[: full.index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ({"messages": "hi"}, "application/json", 400),
        ({"messages": [{"role": "user"}]}, "application/json", 400),
        ({**ASK, "temperature": "hot"}, "application/json", 400),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "application/json", 400),
        (ASK, "text/plain", 415),
    ],
)
def test_bad_requests_get_an_error_and_the_server_lives(port: int, body: Any, kind: str, status: int) -> None:
    found, text = ask(port, body, kind=kind)
    assert found == status
    assert json.loads(text)["error"]["message"]
    assert ask(port, None, path="/v1/models")[0] == 200


def test_unknown_path(port: int) -> None:
    assert ask(port, None, path="/v2")[0] == 404


def test_a_taken_port(port: int) -> None:
    with LlamaModel(demo_gguf(), n_threads=1) as model, pytest.raises(UserError, match="port"):
        make_server(model, port)


def test_as_a_session() -> None:
    with Session("serve", str(demo_gguf()), "--port", "0") as session:
        url = session.receive()["url"]
        found = int(url.split(":")[2].split("/")[0])
        assert ask(found, None, path="/v1/models")[0] == 200
