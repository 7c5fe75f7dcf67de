"""A GGUF file behind the OpenAI chat API, on 127.0.0.1 only: ``python -m rlhf_lite.engine serve FILE.gguf --port N``.

GET /v1/models and POST /v1/chat/completions, streamed or whole, with max_tokens, temperature, top_p, seed and stop.
One request at a time: llama.cpp aborts when two threads use one model, and one machine has one answer's worth of
compute. A browser page of another origin gets no answer (no CORS headers; JSON bodies only).

Says {"type": "ready", "url": ...} on stdout once, and ends when stdin closes.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.session import MAX_TOKENS, as_reply
from rlhf_lite.errors import RlhfLiteError, UserError

_MAX_BODY = 4 * 2**20  # bytes


class Completion:
    """One answer as it is made. ``finish_reason`` and ``tokens`` are known once :meth:`text` has ended."""

    def __init__(self, model: LlamaModel, request: dict[str, Any]) -> None:
        messages, stop = request.get("messages"), request.get("stop") or []
        if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
            raise UserError('"messages" must be a list of {"role", "content"}')
        self._model, self._request = model, request
        self._stop: list[str] = [stop] if isinstance(stop, str) else list(stop)
        self.prompt = model.tokenize(model.render(messages))
        self.finish_reason = "length"
        self.tokens = 0

    def _sampled(self) -> Iterator[int]:
        asked = self._request
        for token in self._model.generate(
            self.prompt,
            max_tokens=int(asked.get("max_completion_tokens") or asked.get("max_tokens") or MAX_TOKENS),
            temperature=float(asked.get("temperature", 1.0)),
            top_p=float(asked.get("top_p", 1.0)),
            seed=asked.get("seed"),
        ):
            self.tokens += 1
            if self._model.is_eog(token):
                self.finish_reason = "stop"
            yield token

    def text(self) -> Iterator[str]:
        """Pieces of the answer, up to the first stop string. What could be the start of one is held back."""
        held = ""
        for piece in self._model.stream_text(self._sampled()):
            held += piece
            cuts = [at for s in self._stop if s and (at := held.find(s)) >= 0]
            if cuts:
                self.finish_reason = "stop"
                yield held[: min(cuts)]
                return
            keep = max((n for s in self._stop for n in range(len(s)) if held.endswith(s[:n])), default=0)
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
        yield held


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))


class Handler(BaseHTTPRequestHandler):
    """The two endpoints. ``model`` and ``lock`` are set on a subclass for each server."""

    protocol_version = "HTTP/1.1"
    model: LlamaModel
    lock: threading.Lock

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._fail(404, f"no such path: {self.path}")
        entry = {"id": self.model.name, "object": "model", "created": 0, "owned_by": "rlhf-lite"}
        self._send(200, {"object": "list", "data": [entry]})

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            return self._fail(404, f"no such path: {self.path}")
        if self.headers.get_content_type() != "application/json":
            return self._fail(415, "the body must be application/json")
        size = int(self.headers.get("Content-Length") or 0)
        if size > _MAX_BODY:
            self.close_connection = True
            return self._fail(413, f"the body is larger than {_MAX_BODY} bytes")
        try:
            request = json.loads(self.rfile.read(size))
            if not isinstance(request, dict):
                raise ValueError("the body is not a JSON object")
            with self.lock:
                self._complete(request)
        except (ValueError, TypeError) as error:
            self._fail(400, str(error))
        except UserError as error:
            self._fail(400, f"{error.message}: {error.why}" if error.why else error.message)
        except RlhfLiteError as error:
            self._fail(500, f"{error.message}: {error.why}")

    def _complete(self, request: dict[str, Any]) -> None:
        completion = Completion(self.model, request)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model.name}
        if request.get("stream"):
            return self._stream(completion, {**head, "object": "chat.completion.chunk"})
        message = {"role": "assistant", "content": "".join(completion.text())}
        usage = {
            "prompt_tokens": len(completion.prompt),
            "completion_tokens": completion.tokens,
            "total_tokens": len(completion.prompt) + completion.tokens,
        }
        choice = {"index": 0, "message": message, "finish_reason": completion.finish_reason}
        self._send(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _stream(self, completion: Completion, head: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

        def send(delta: dict[str, str], reason: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self.wfile.write(b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n")

        try:
            send({"role": "assistant", "content": ""})
            for text in completion.text():
                if text:
                    send({"content": text})
            send({}, completion.finish_reason)
            self.wfile.write(b"data: [DONE]\n\n")
        except ConnectionError:  # the client went away, which is how it cancels
            pass
        except RlhfLiteError as error:  # too late for a status code
            self.wfile.write(b"data: " + json.dumps({"error": {"message": error.message}}).encode() + b"\n\n")

    def _fail(self, status: int, message: str) -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        self._send(status, {"error": {"message": message, "type": kind, "param": None, "code": None}})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: prompts are nobody's log."""


def make_server(model: LlamaModel, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, bound but not yet serving; port 0 takes a free one. Raises UserError (port taken)."""
    handler = type("BoundHandler", (Handler,), {"model": model, "lock": threading.Lock()})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port}", why=str(error), hint="name another with --port"
        ) from error
    server.daemon_threads = True
    return server


def main(argv: list[str]) -> int:
    """``serve FILE.gguf --port N``"""
    parser = argparse.ArgumentParser(prog="serve")
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args(argv)
    try:
        model = LlamaModel(arguments.file)
        server = make_server(model, arguments.port)
    except RlhfLiteError as error:
        print(json.dumps(as_reply(error)), flush=True)
        return error.exit_code
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"type": "ready", "url": f"http://127.0.0.1:{server.server_port}/v1"}), flush=True)
    sys.stdin.buffer.read()
    return 0
