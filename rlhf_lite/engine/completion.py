"""One chat completion in the words of OpenAI's API: what was asked, checked, and the answer as it is made.

Source: https://platform.openai.com/docs/api-reference/chat/create. What this server does not know (tools, penalties,
log probabilities) is ignored, as clients send much by default; what it knows and cannot do is refused.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.session import MAX_TOKENS

Positive = Annotated[int, Meta(ge=1)]
Stop = Annotated[str, Meta(min_length=1)]


class BadRequest(Exception):
    """A refusal in the API's own parts; ``param`` is what it is about."""

    def __init__(self, message: str, *, status: int = 400, param: str = "", code: str = "") -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param or None, "code": self.code or None}
        return {"error": error}


class Part(msgspec.Struct):
    """Of a message; pictures and sound are refused."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def plain(self) -> dict[str, str]:
        """As chat templates know it; "developer" is the newer word for "system"."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": role, "content": text}


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(msgspec.Struct):
    """The body. Null is as good as absent."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @classmethod
    def read(cls, raw: bytes) -> Request:
        """Raises BadRequest, naming the parameter."""
        try:
            return msgspec.json.decode(raw, type=cls)
        except msgspec.ValidationError as error:
            words, _, path = str(error).partition(" - at `$.")
            param = re.split(r"[.\[`]", path)[0]
            if param == "n":
                words = "one answer at a time: n must be 1"
            raise BadRequest(f"{path.rstrip('`') or 'the body'}: {words}", param=param) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class Completion:
    """One answer. ``finish_reason`` and ``tokens`` are known once :meth:`text` has ended."""

    def __init__(self, model: LlamaModel, request: Request) -> None:
        self._model, self._request = model, request
        self.prompt = model.tokenize(model.render([message.plain() for message in request.messages]))
        if len(self.prompt) >= model.n_ctx:
            raise BadRequest(
                f"This model's maximum context length is {model.n_ctx} tokens. However, your messages resulted in "
                f"{len(self.prompt)} tokens. Please reduce the length of the messages.",
                param="messages", code="context_length_exceeded",
            )  # fmt: skip
        self.finish_reason = "length"
        self.tokens = 0
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def _sampled(self, cancelled: Callable[[], bool]) -> Iterator[int]:
        asked = self._request
        for token in self._model.generate(
            self.prompt,
            max_tokens=asked.max_completion_tokens or asked.max_tokens or MAX_TOKENS,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=asked.seed,
            cancelled=cancelled,
        ):
            self.tokens += 1
            if self._model.is_eog(token):
                self.finish_reason = "stop"
            yield token

    def text(self, cancelled: Callable[[], bool]) -> Iterator[str]:
        """Pieces of the answer, up to the first stop string. What could be the start of one is held back."""
        held, stops = "", self._request.stops
        for piece in self._model.stream_text(self._sampled(cancelled)):
            held += piece
            if cuts := [at for s in stops if (at := held.find(s)) >= 0]:
                self.finish_reason = "stop"
                yield held[: min(cuts)]
                return
            keep = max((n for s in stops for n in range(len(s)) if held.endswith(s[:n])), default=0)
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
        yield held

    @property
    def usage(self) -> dict[str, int]:
        prompt = len(self.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "total_tokens": prompt + self.tokens,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model.name}

    def whole(self, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": "".join(self.text(cancelled))}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}

    def chunks(self, cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """The answer as it is streamed; its usage last, where that was asked for."""
        options = self._request.stream_options
        head = self._head("chat.completion.chunk")
        if wanted := options is not None and options.include_usage:
            head["usage"] = None

        def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
            return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        yield chunk({"role": "assistant", "content": ""})
        for text in self.text(cancelled):
            if text:
                yield chunk({"content": text})
        yield chunk({}, self.finish_reason)
        if wanted:
            yield {**head, "choices": [], "usage": self.usage}
