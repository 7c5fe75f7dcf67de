"""A model hub on 127.0.0.1 with one small repository: the few routes that a download asks for."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" * 6 + "c0ff"
MODEL = "someone/model"
CHUNK = 2**16


class FakeHub(ThreadingHTTPServer):
    """What it serves, how it misbehaves, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.api_error: tuple[int, str] | None = None
        self.file_error: tuple[int, str] | None = None
        self.wrong_bytes = False
        self.pause = 0.0  # seconds between chunks of a large file
        self.hang_up_after: int | None = None  # bytes, once
        self.sizes: dict[str, int] = {}  # said instead of the true ones
        self.asked: list[tuple[str, str, str]] = []  # method, path, range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: a client that stops hangs up on us."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if path == f"/api/models/{MODEL}":
            return self._refuse(*hub.api_error) if hub.api_error else self._listing()
        name = path.removeprefix(f"/{MODEL}/resolve/").partition("/")[2]
        if hub.file_error:
            return self._refuse(*hub.file_error)
        if name not in hub.files:
            return self._refuse(404, "EntryNotFound")
        return self._file(name, body)

    def _listing(self) -> None:
        siblings: list[dict[str, Any]] = []
        for name, content in self.server.files.items():
            size = self.server.sizes.get(name, len(content))
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": _etag(name, content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": _etag(name, content), "size": size, "pointerSize": 100}
            siblings.append(entry)
        raw = json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str, body: bool) -> None:
        hub, content = self.server, self.server.files[name]
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(name, content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        sent = bytes(len(content)) if hub.wrong_bytes and name.endswith(".safetensors") else content
        for at in range(start, len(sent), CHUNK):
            if hub.hang_up_after is not None and at >= hub.hang_up_after:
                hub.hang_up_after = None
                self.close_connection = True
                return
            self.wfile.write(sent[at : at + CHUNK])
            self.wfile.flush()
            time.sleep(hub.pause)


def _etag(name: str, content: bytes) -> str:
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()
