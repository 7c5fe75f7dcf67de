"""A child that chats with one file after another: for the fuzz test. A path a line on stdin; what came of it, a line
on stdout."""

from __future__ import annotations

import sys
from pathlib import Path

from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.errors import RlhfLiteError

for line in sys.stdin:
    try:
        with LlamaModel(Path(line.rstrip("\n")), n_threads=1) as model:
            ids = model.tokenize(model.render([{"role": "user", "content": "The cat sees <s>a house? 日本"}]))
            "".join(model.stream_text(model.generate(ids[-200:], max_tokens=4, seed=0)))
            answer = f"answered {model.name}"
    except RlhfLiteError as error:
        answer = f"{type(error).__name__}: {error.message}: {error.why}"
    print(" ".join(answer.split()), flush=True)
