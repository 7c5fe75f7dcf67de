"""A GGUF file behind the OpenAI chat API: ``python -m rlhf_lite.engine serve FILE.gguf [--host H] [--port N]``.

GET /v1/models and POST /v1/chat/completions, for whatever model a client names. One request at a time, the others
wait: llama.cpp aborts when two threads use one model, and one machine has one answer's worth of compute. A client that
goes away ends its answer.

It listens on this machine alone unless another host is named, and then only with a key, which every request must bring
(``Authorization: Bearer KEY``). A web page of another origin gets no answer: a foreign ``Origin`` is refused, and so is
a ``Host`` that is a stranger's name for this machine (DNS rebinding); there are no CORS headers, and bodies are JSON.

The first line on stdin is {"api_key": ...}, empty for none: a command line can be read by everybody. Then
{"type": "ready", "url": ...} on stdout once; it ends when stdin closes.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import json
import select
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rlhf_lite.engine.completion import BadRequest, Completion, Request
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.offload import by_what_is_free
from rlhf_lite.errors import RlhfLiteError, UserError

_MAX_BODY = 4 * 2**20  # bytes
_PATIENCE = 60  # seconds for a client that neither reads nor writes, while others wait
_MODELS, _CHAT = "/v1/models", "/v1/chat/completions"


class Server(ThreadingHTTPServer):
    """Bound, but not yet serving. ``host`` is as the user named it."""

    daemon_threads = True

    def __init__(self, model: LlamaModel, host: str, port: int, api_key: str) -> None:
        self.model, self.host, self.api_key = model, host, api_key
        self.lock = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent where a client went away; it is its own to know."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection. Every refusal closes it, as a body may be unread."""

    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._answer(self._models)

    def do_POST(self) -> None:
        self._answer(self._complete)

    def do_OPTIONS(self) -> None:
        self._answer(lambda: self._fail(BadRequest("this method is not allowed", status=405)))

    do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS

    def _answer(self, how: Any) -> None:
        try:
            self._require_known()
            how()
        except BadRequest as error:
            self._fail(error)
        except UserError as error:
            self._fail(BadRequest(f"{error.message}: {error.why}" if error.why else error.message))
        except RlhfLiteError as error:
            self._fail(BadRequest(f"{error.message}: {error.why}", status=500))

    def _require_known(self) -> None:
        """Raises BadRequest where it is not for us to answer whoever asks."""
        asked = self.headers.get("Host", "")
        try:
            name = urlsplit(f"//{asked}").hostname or ""
        except ValueError:
            name = ""
        if not _ours(name, self.server.host):
            raise BadRequest(f"this server does not go by the name {asked[:100]!r}", status=403)
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{asked}":
            raise BadRequest("a web page of another origin may not use this server", status=403)
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if self.server.api_key and not hmac.compare_digest(given, self.server.api_key.encode()):
            raise BadRequest("the API key is missing or wrong", status=401, code="invalid_api_key")

    def _models(self) -> None:
        name = self.server.model.name
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "rlhf-lite"}
        if self.path == _MODELS:
            return self._send(200, {"object": "list", "data": [entry]})
        if unquote(self.path) == f"{_MODELS}/{name}":
            return self._send(200, entry)
        if self.path.startswith(f"{_MODELS}/"):
            raise BadRequest(f"there is only the model {name}", status=404, code="model_not_found")
        raise BadRequest(f"no such path: {self.path[:100]}", status=404)

    def _body(self) -> bytes:
        if self.path != _CHAT:
            raise BadRequest(f"no such path: {self.path[:100]}", status=404)
        if self.headers.get_content_type() != "application/json":
            raise BadRequest("the body must be application/json", status=415)
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise BadRequest("the request must say its Content-Length", status=411)
        if int(length[:20]) > _MAX_BODY:
            raise BadRequest(f"the body is larger than {_MAX_BODY} bytes", status=413)
        return self.rfile.read(int(length))

    def _complete(self) -> None:
        request = Request.read(self._body())
        with self.server.lock:
            if self._gone():
                return
            completion = Completion(self.server.model, request)
            if request.stream:
                return self._stream(completion)
            body = completion.whole(self._gone)
        self._send(200, body)

    def _stream(self, completion: Completion) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for chunk in completion.chunks(self._gone):
                self._event(json.dumps(chunk))
            self._event("[DONE]")
        except RlhfLiteError as error:  # too late for a status
            self._event(json.dumps(BadRequest(f"{error.message}: {error.why}", status=500).body()))

    def _event(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())

    def _gone(self) -> bool:
        """Whether the client hung up: its side has ended, and nothing more is to be read."""
        try:
            if not select.select([self.connection], [], [], 0)[0]:
                return False
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (OSError, ValueError):
            return True

    def _fail(self, error: BadRequest) -> None:
        self.close_connection = True
        self._send(error.status, error.body())

    def _send(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def version_string(self) -> str:
        return "rlhf-lite"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: prompts are nobody's log."""


def _ours(name: str, host: str) -> bool:
    """Whether a request's ``Host`` may be us: rebinding needs a name, and an address cannot be rebound."""
    try:
        return ipaddress.ip_address(name).is_loopback or not is_loopback(host)
    except ValueError:
        return name in ("localhost", host)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str, api_key: str) -> None:
    """Raises UserError where others could reach the server without a key."""
    if not is_loopback(host) and not api_key:
        raise UserError(
            f"{host} cannot be listened on without a key", why="anybody in reach of it could use the model",
            hint="give one with --api-key or RLHF_LITE_API_KEY, or leave --host out",
        )  # fmt: skip


def make_server(model: LlamaModel, port: int, host: str = "127.0.0.1", api_key: str = "") -> Server:
    """A server, bound but not yet serving; port 0 takes a free one. Raises UserError (port taken, no such host)."""
    check_host(host, api_key)
    try:
        return Server(model, host, port, api_key)
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port} of {host}", why=str(error), hint="name another with --port"
        ) from error


def main(argv: list[str]) -> int:
    """``serve FILE.gguf [--host HOST] [--port N]``"""
    parser = argparse.ArgumentParser(prog="serve")
    parser.add_argument("file", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args(argv)
    key = str(json.loads(sys.stdin.buffer.readline() or b"{}").get("api_key") or "")
    check_host(arguments.host, key)  # before a large file is loaded
    model = LlamaModel(arguments.file, place=by_what_is_free)
    server = make_server(model, arguments.port, arguments.host, key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"type": "ready", "url": server.url}), flush=True)
    sys.stdin.buffer.read()
    return 0
