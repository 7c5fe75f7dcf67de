"""What the sessions share: requests that are heard while an answer flows, replies as lines of JSON, and one answer's
course from prompt to "done".

Lines of JSON over pipes. Replies: "ready" once (or "error"), then what each request asks for, or one "error" to it.
{"type": "stop"} at any time cancels the last request. The process ends when stdin closes. Nothing here knows torch or
llama.cpp, so that a session can refuse something before it loads either.
"""

from __future__ import annotations

import bisect
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from rlhf_lite.errors import RlhfLiteError, UserError

TEMPERATURE = 0.7
MAX_TOKENS = 512

Reply = dict[str, Any]
Messages = list[dict[str, str]]


class Inbox:
    """Requests read from ``stream`` by a thread of its own, so that a stop is heard while tokens flow.

    Each request comes with the event that cancels it; a stop cancels the last one that had arrived before it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._requests: queue.Queue[tuple[dict[str, Any], threading.Event] | None] = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        stop = threading.Event()
        for line in stream:
            try:
                request = json.loads(line)
            except ValueError:
                request = None
            if not isinstance(request, dict):
                request = {"type": line.decode("utf-8", "replace").strip()}
            if request.get("type") == "stop":
                stop.set()
            else:
                stop = threading.Event()
                self._requests.put((request, stop))
        stop.set()  # nobody listens any more
        self._requests.put(None)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], threading.Event]]:
        while (request := self._requests.get()) is not None:
            yield request


def as_reply(error: RlhfLiteError) -> Reply:
    """An error as a reply: its class and its three parts."""
    return {
        "type": "error",
        "kind": type(error).__name__,
        "message": error.message,
        "why": error.why,
        "hint": error.hint,
    }


def send(replies: IO[bytes], reply: Reply) -> None:
    """Write one reply."""
    replies.write(json.dumps(reply, ensure_ascii=False).encode() + b"\n")
    replies.flush()


def converse(
    requests: IO[bytes],
    replies: IO[bytes],
    answer: Callable[[dict[str, Any], threading.Event], Iterable[Reply]],
) -> None:
    """Answer requests until they end; an error is the reply to its own request, and the session goes on."""
    for request, stop in Inbox(requests):
        try:
            for reply in answer(request, stop):
                send(replies, reply)
        except RlhfLiteError as error:
            send(replies, as_reply(error))


def messages_of(request: dict[str, Any], kind: str) -> Messages:
    """The messages of a request of the one kind that a session knows.

    Raises:
        UserError: another kind, or no messages.
    """
    if request.get("type") != kind:
        raise UserError(
            f"this session does not know the request {request.get('type')!r}",
            hint=f'send {{"type": "{kind}", "messages": []}}',
        )
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
        raise UserError('"messages" must be a list of {"role", "content"}')
    return messages


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))


@dataclass(frozen=True)
class Asked:
    """A "chat" request; ``side`` is empty where none was named."""

    messages: Messages
    side: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None

    @classmethod
    def of(cls, request: dict[str, Any]) -> Asked:
        """Raises UserError where the request is none."""
        messages = messages_of(request, "chat")
        try:
            return cls(
                messages=messages, side=str(request.get("side") or ""),
                temperature=float(request.get("temperature", TEMPERATURE)), top_p=float(request.get("top_p", 1.0)),
                max_tokens=int(request.get("max_tokens", MAX_TOKENS)),
                seed=None if request.get("seed") is None else int(request["seed"]),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise UserError("an option of the request is no number", why=str(error)) from error


@dataclass(frozen=True)
class Prompt:
    """Token ids of a conversation, and how many turns were left out of it."""

    ids: list[int]
    dropped: int


def fit(asked: Asked, ids_of: Callable[[Messages], list[int]], context: int) -> Prompt:
    """The newest whole turns that leave room for the answer, system messages always among them.

    The room is what the answer may take, and at most a quarter of the context. Where turns must go, a quarter of the
    room is made at once: what is left out then stays the same for many turns, and so does what the cache holds. A last
    turn that leaves less is kept: whether it fits at all is for the model to say.
    """
    room = context - min(asked.max_tokens, context // 4)
    ids = ids_of(asked.messages)
    # A turn goes from one user message to the next.
    begins = [i for i, m in enumerate(asked.messages) if m["role"] == "user"]
    if len(ids) <= room or len(begins) < 2:
        return Prompt(ids, 0)
    step = max(1, room // 4)
    most = len(ids) - -(-(len(ids) - room) // step) * step

    def later(turns: int) -> list[int]:
        kept = enumerate(asked.messages)
        return ids_of([m for i, m in kept if i >= begins[turns] or m["role"] == "system"])

    some = range(1, len(begins) - 1)
    dropped = 1 + bisect.bisect_left(some, True, key=lambda turns: len(later(turns)) <= most)
    return Prompt(later(dropped), dropped)


def course(
    prompt: Prompt,
    tokens: Iterable[int],
    *,
    as_text: Callable[[Iterable[int]], Iterator[str]],
    ends: Callable[[int], bool],
    stop: threading.Event,
    began: float,
) -> Iterator[Reply]:
    """One answer's replies: its text as it comes, then "done".

    ``ends`` says whether a token ends an answer; ``began`` is the monotonic time of the request. In "done",
    ``prompt_tokens`` is what the prompt takes of the context, and ``seconds_to_first`` is None without a token.
    """
    taken: list[int] = []
    first: list[float] = []

    def noted() -> Iterator[int]:
        for token in tokens:
            if not taken:
                first.append(time.monotonic() - began)
            taken.append(token)
            yield token

    for text in as_text(noted()):
        yield {"type": "token", "text": text}
    ended = bool(taken) and ends(taken[-1])
    yield {
        "type": "done",
        "reason": "stop" if ended else "cancelled" if stop.is_set() else "length",
        "tokens": len(taken),
        "seconds": round(time.monotonic() - began, 3),
        "prompt_tokens": len(prompt.ids),
        "seconds_to_first": round(first[0], 3) if first else None,
        "dropped": prompt.dropped,
    }
