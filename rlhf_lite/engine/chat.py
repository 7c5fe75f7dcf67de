"""One conversation with a GGUF file, over pipes: ``python -m rlhf_lite.engine chat FILE.gguf``.

Requests: {"type": "chat", "messages": [...]} with "temperature" (0: the likeliest), "top_p", "max_tokens" and "seed"
if wanted, and {"type": "stop"}. Replies: "ready" once, with the "device", "cpu" or "gpu"; then for each chat "token"s
and one "done" with "reason" "stop", "length" or "cancelled", or one "error".

The whole conversation is sent each turn; what the KV cache already holds of it is not evaluated again. Where it
outgrows the context its oldest turns are left out, and "done" says how many.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_lite.engine import session
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.offload import by_what_is_free
from rlhf_lite.engine.session import Asked, Reply


def answer(model: LlamaModel, request: dict[str, Any], stop: threading.Event) -> Iterator[Reply]:
    """The replies to one chat request."""
    began = time.monotonic()
    asked = Asked.of(request)
    prompt = session.fit(asked, lambda messages: model.tokenize(model.render(messages)), model.n_ctx)
    tokens = model.generate(
        prompt.ids,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        cancelled=stop.is_set,
    )
    return session.course(
        prompt, tokens, as_text=model.stream_text, ends=model.is_eog, stop=stop, began=began
    )


def main(argv: list[str]) -> int:
    """``chat FILE.gguf``"""
    replies = sys.stdout.buffer
    with LlamaModel(Path(argv[0]), place=by_what_is_free) as model:
        device = "gpu" if model.place.gpu_layers else "cpu"
        ready = {"type": "ready", "name": model.name, "context": model.n_ctx, "device": device}
        session.send(replies, ready)
        session.converse(sys.stdin.buffer, replies, partial(answer, model))
    return 0
