"""The OpenAI-compatible endpoint, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.request import Request, urlopen

import pytest
from export_models import demo_gguf

from rlhf_lite.cli import main
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.serve import Server, check_host, make_server
from rlhf_lite.errors import UserError
from rlhf_lite.jobs import Session

ASK = {
    "messages": [{"role": "user", "content": "How do I boil an egg?"}],
    "temperature": 0,
    "max_tokens": 300,
}


@contextmanager
def serving(model: LlamaModel, **options: str) -> Iterator[Server]:
    server = make_server(model, 0, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf(), n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def port(model: LlamaModel) -> Iterator[int]:
    with serving(model) as server:
        yield server.server_port


def ask(
    port: int,
    body: Any,
    *,
    path: str = "/v1/chat/completions",
    kind: str = "application/json",
    **headers: str,
) -> tuple[int, str]:
    """A header's underscore is a hyphen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        connection.request("GET", path, headers=more)
    else:
        raw = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", path, raw, {"Content-Type": kind, **more})
    response = connection.getresponse()
    text = response.read().decode()
    assert not [name for name, _ in response.getheaders() if name.lower().startswith("access-control")]
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


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_a_page_of_another_origin_is_refused(port: int, origin: str) -> None:
    assert ask(port, ASK, Origin=origin)[0] == 403
    assert ask(port, None, path="/v1/models", Origin=origin)[0] == 403


def test_a_page_of_its_own_origin_is_not(port: int) -> None:
    assert ask(port, None, path="/v1/models", Origin=f"http://127.0.0.1:{port}")[0] == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example:80", "192.168.1.7", "", "[", "a@evil"]
)
def test_a_strangers_name_for_this_machine_is_refused(port: int, name: str) -> None:
    assert ask(port, None, path="/v1/models", Host=name)[0] == 403


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]:80"])
def test_its_own_names_are_not(port: int, name: str) -> None:
    assert ask(port, None, path="/v1/models", Host=name)[0] == 200


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "99999999999", "9" * 5000, ""])
def test_a_length_that_cannot_be(port: int, length: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        status = client.recv(100).split()[1]
    assert status in (b"411", b"413")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods(port: int, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, "/v1/models")
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_another_address_wants_a_key(host: str) -> None:
    with pytest.raises(UserError, match="without a key") as caught:
        check_host(host, "")
    assert "--api-key" in caught.value.hint
    check_host(host, "secret")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machines_own_addresses_want_none(host: str) -> None:
    check_host(host, "")


def test_with_a_key_on_every_address_it_goes_by_any_address_but_no_strange_name(model: LlamaModel) -> None:
    with serving(model, host="0.0.0.0", api_key="secret") as server:
        assert server.url.startswith("http://127.0.0.1:")
        asked = partial(ask, server.server_port, None, path="/v1/models", Authorization="Bearer secret")
        assert asked(Host="192.168.1.7:8080")[0] == 200
        assert asked(Host="evil.example")[0] == 403


@pytest.mark.parametrize(
    "given", ["", "Bearer ", "Bearer wrong", "Bearer secre", "Basic secret", "Bearer sécret"]
)
def test_a_key_is_checked_on_every_path(model: LlamaModel, given: str) -> None:
    with serving(model, api_key="secret") as server:
        for body, path in ((None, "/v1/models"), (ASK, "/v1/chat/completions"), (None, "/else")):
            status, text = ask(server.server_port, body, path=path, Authorization=given)
            assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")


def test_a_taken_port(model: LlamaModel, port: int) -> None:
    with pytest.raises(UserError, match="port"):
        make_server(model, port)


def test_as_a_session() -> None:
    with Session("serve", str(demo_gguf()), "--port", "0") as session:
        session.send(api_key="secret")
        url = session.receive()["url"]
        found = int(url.split(":")[2].split("/")[0])
        assert ask(found, None, path="/v1/models")[0] == 401
        assert ask(found, None, path="/v1/models", Authorization="Bearer secret")[0] == 200


def test_a_session_for_others_without_a_key_is_refused() -> None:
    with Session("serve", str(demo_gguf()), "--host", "0.0.0.0", "--port", "0") as session:
        session.send(api_key="")
        with pytest.raises(UserError, match="without a key"):
            session.receive()


def test_the_command_prints_an_address_and_a_line_for_a_shell_that_works() -> None:
    command = [sys.executable, "-m", "rlhf_lite", "serve", str(demo_gguf()), "--port", "0"]
    environment = {**os.environ, "RLHF_LITE_API_KEY": "se cret"}
    listening: Any = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  (a shell's & ignores Ctrl-C)
    serving = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=listening
    )
    with serving:
        try:
            assert serving.stdout is not None
            url, line = (serving.stdout.readline().strip() for _ in range(2))
            assert url.startswith("http://127.0.0.1:")
            program, asked, _, kind, _, key, _, body = shlex.split(line)
            assert (program, asked) == ("curl", f"{url}/chat/completions")
            headers = dict(h.replace("$RLHF_LITE_API_KEY", "se cret").split(": ") for h in (kind, key))
            with urlopen(Request(asked, body.encode(), headers), timeout=60) as reply:
                assert json.load(reply)["choices"][0]["message"]["content"]
            serving.send_signal(signal.SIGINT)
            assert serving.wait(timeout=60) == 130
        finally:
            serving.kill()


def test_the_command_refuses_others_without_a_key(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(demo_gguf()), "--host", "0.0.0.0", "--port", "0"]) == 2
    said = capfd.readouterr().err
    assert "0.0.0.0 cannot be listened on without a key" in said
    assert "--api-key" in said
