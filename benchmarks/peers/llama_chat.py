"""llama-cpp-python as its own documentation uses it, in a process of its own: the peer of ``chatting.py``.

``python llama_chat.py FILE.gguf CONTEXT THREADS``. Requests are lines of JSON: {"how": "completion" or "generate",
"messages", "max_tokens", "seed", "prompt_tokens"}; a reply is one line: {"first", "seconds", "tokens"}, timed around
the call, which begins with the conversation as messages. "completion" is ``create_chat_completion`` streamed;
"generate" is ``Llama.generate`` on the rendered and tokenized prompt, and gives tokens, not text. Both draw at
temperature 1 from the whole vocabulary.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from llama_cpp import Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

WHOLE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
Request = dict[str, Any]


def completion(llama: Llama, asked: Request) -> Iterator[Any]:
    chunks: Any = llama.create_chat_completion(
        asked["messages"], max_tokens=asked["max_tokens"], seed=asked["seed"], stream=True, **WHOLE
    )
    return (chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content"))


def generate(llama: Llama, asked: Request) -> Iterator[Any]:
    template = Jinja2ChatFormatter(
        template=llama.metadata["tokenizer.chat_template"],
        eos_token=llama.detokenize([llama.token_eos()], special=True).decode(),
        bos_token=llama.detokenize([llama.token_bos()], special=True).decode(),
    )
    prompt = template(messages=asked["messages"]).prompt
    ids = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    llama.set_seed(asked["seed"])
    tokens = llama.generate(ids, temp=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
    for _, token in zip(range(asked["max_tokens"]), tokens, strict=False):
        yield token
        if token == llama.token_eos():
            return


def main(path: str, context: int, threads: int) -> None:
    llama = Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)
    for line in sys.stdin:
        asked = json.loads(line)
        began, first = time.perf_counter(), 0.0
        for _ in {"completion": completion, "generate": generate}[asked["how"]](llama, asked):
            first = first or time.perf_counter() - began
        seconds = time.perf_counter() - began
        tokens = llama.n_tokens - asked["prompt_tokens"] + 1  # the last was drawn, but not evaluated
        print(json.dumps({"first": first, "seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
