"""A session of its own thread: asked without waiting, it tells what comes back as it comes.

Whoever draws a screen cannot wait for a child that loads a model for seconds. So the child is started, asked and
read by one thread, and what it says is handed to ``tell`` on that thread. A question may be put before the model is
loaded; it waits. What a talker says after :meth:`Talker.close` is not told.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from rlhf_lite import jobs
from rlhf_lite.errors import JobError, MachineError, RlhfLiteError


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded. ``device`` is "cpu" or "gpu", empty where the session does not tell."""

    name: str
    context: int
    sides: list[str] = []
    device: str = ""


class Piece(msgspec.Struct, frozen=True, tag="token"):
    """Some more of the answer."""

    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The answer's end; see :func:`rlhf_lite.engine.session.course`."""

    reason: str
    tokens: int
    seconds: float
    prompt_tokens: int = 0
    seconds_to_first: float | None = None
    dropped: int = 0

    @property
    def used(self) -> int:
        """Tokens of the context that the conversation takes now."""
        return self.prompt_tokens + self.tokens

    @property
    def rate(self) -> float:
        """Tokens a second, from the first token on; 0 where there is nothing to measure."""
        took = self.seconds - (self.seconds_to_first or 0)
        return (self.tokens - 1) / took if self.tokens > 1 and took > 0 else 0.0


class Failed(msgspec.Struct, frozen=True):
    """There is no answer; ``gone`` where there is no child any more either."""

    error: RlhfLiteError
    gone: bool


Told = Ready | Piece | Done | Failed


class Talker:
    """One child, from its start to its end."""

    def __init__(self, verb: str, arguments: tuple[str, ...], tell: Callable[[Talker, Told], None]) -> None:
        self._verb, self._arguments, self._tell = verb, arguments, tell
        self._requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # between a request being sent and a stop that is for it
        self._session: jobs.Session | None = None
        self._sent = self._stopping = self._closed = False
        # A daemon, so that leaving the app waits for nobody: the child ends when its stdin closes.
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, **request: Any) -> None:
        """Ask for one answer; told as pieces and then done, or failed."""
        self._stopping = False
        self._requests.put({"type": "chat", **request})

    def take_back(self) -> bool:
        """Withdraw what was asked for last, if the child has not been told of it yet."""
        try:
            self._requests.get_nowait()
        except queue.Empty:
            return False
        return True

    def stop(self) -> None:
        """Cut short the answer that was asked for last; it still ends by being told."""
        with self._lock:
            self._stopping = True
            if self._sent and self._session:
                self._session.send(type="stop")

    def close(self) -> None:
        """End the child; returns at once, the child may take a few seconds."""
        with self._lock:
            self._closed = True
        self._requests.put(None)
        if self._session:
            threading.Thread(target=self._session.close, daemon=True).start()

    def _run(self) -> None:
        try:
            with self._lock:
                if self._closed:
                    return
                self._session = session = jobs.Session(self._verb, *self._arguments)
            self._say(_reply(session.receive()))
            while (request := self._requests.get()) is not None:
                self._answer(session, request)
        except RlhfLiteError as error:
            self._lose(error)
        except (
            OSError,
            ValueError,
        ) as error:  # no process to be had, or no line of JSON; or closed while read
            self._lose(JobError("the chat process cannot be talked to", why=str(error)))

    def _answer(self, session: jobs.Session, request: dict[str, Any]) -> None:
        with self._lock:
            session.send(**request)
            self._sent = True
            if self._stopping:
                session.send(type="stop")
        try:
            while isinstance(told := _reply(session.receive()), Piece):
                self._say(told)
            self._sent = False
            self._say(told)
        except (JobError, MachineError):  # the last that a dying child says
            raise
        except RlhfLiteError as error:  # of this one request
            self._sent = False
            self._say(Failed(error, gone=False))

    def _say(self, told: Told) -> None:
        if not self._closed:
            self._tell(self, told)

    def _lose(self, error: RlhfLiteError) -> None:
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._tell(self, Failed(error, gone=True))
            if self._session:
                self._session.close()


def _reply(message: dict[str, Any]) -> Told:
    return msgspec.convert(message, Ready | Piece | Done)
