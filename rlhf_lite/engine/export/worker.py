"""llama.cpp in a process of its own, for an export: it may abort without taking the export with it.

Requests are lines of JSON on stdin; a reply is one line of JSON on stdout, and logits follow theirs as raw
float32. The child loads no torch.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rlhf_lite.engine.llama import LlamaModel, quantize_file
from rlhf_lite.errors import JobDied, RlhfLiteError, from_parts
from rlhf_lite.jobs import child_environment


@dataclass(frozen=True)
class Specials:
    """``added``: ids that llama.cpp puts around a prompt by itself; ``eos``: the end token that the file names."""

    added: list[int]
    eos: int | None


class LlamaWorker:
    """The parent's side. Errors of the child are raised here; its death becomes a JobDied that says what it did."""

    def __init__(self, n_threads: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "rlhf_lite.engine.export.worker", str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=child_environment(),
        )

    def __enter__(self) -> LlamaWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()
        self._stderr.close()

    def quantize(self, source: Path, target: Path, ftype: int) -> None:
        self._ask("quantize", source=str(source), target=str(target), ftype=ftype)

    def open(self, path: Path) -> int:
        """Load a GGUF; returns its context length. Needed before the calls below."""
        return self._ask("open", path=str(path))["n_ctx"]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self._ask("tokenize", texts=list(texts))["ids"]

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        return self._ask("render", messages=list(messages))["text"]

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether every one of ``tokens`` ends a generation."""
        return self._ask("ends", tokens=list(tokens))["all"]

    def specials(self) -> Specials:
        return Specials(**self._ask("specials"))

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        return self._ask("greedy", ids=list(ids), max_tokens=max_tokens)["ids"]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32."""
        rows, columns = self._ask("logits", ids=list(ids))["shape"]
        assert self._child.stdout is not None
        raw = self._child.stdout.read(rows * columns * 4)
        if len(raw) < rows * columns * 4:
            raise self._death("logits")
        return np.frombuffer(raw, dtype=np.float32).reshape(rows, columns)

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise self._death(do)
        reply = json.loads(line)
        if "kind" in reply:
            raise from_parts(reply["kind"], reply["message"], reply["why"], reply["hint"])
        return reply

    def _death(self, doing: str) -> JobDied:
        code = self._child.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._stderr.seek(0)
        last = self._stderr.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        return JobDied(f"llama.cpp died ({how}) at: {doing}", why="; ".join(last), hint="export again")


def _serve(request: dict[str, Any], model: LlamaModel, out: BinaryIO) -> dict[str, Any]:
    match request["do"]:
        case "tokenize":
            return {"ids": [model.tokenize(text) for text in request["texts"]]}
        case "render":
            return {"text": model.render(request["messages"])}
        case "ends":
            return {"all": all(model.is_eog(token) for token in request["tokens"])}
        case "specials":
            eos = model.metadata("tokenizer.ggml.eos_token_id")
            return {"added": model.added_tokens(), "eos": None if eos is None else int(eos)}
        case "greedy":
            return {
                "ids": list(model.generate(request["ids"], max_tokens=request["max_tokens"], temperature=0))
            }
        case "logits":
            rows = model.logits(request["ids"])
            out.write(json.dumps({"shape": rows.shape}).encode() + b"\n")
            out.write(rows.tobytes())
            return {}
    raise ValueError(request["do"])


def main(n_threads: int) -> None:
    """The child's loop: one request at a time until stdin closes."""
    out = sys.stdout.buffer
    model: LlamaModel | None = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if request["do"] == "quantize":
                quantize_file(Path(request["source"]), Path(request["target"]), request["ftype"], n_threads)
                reply: dict[str, Any] = {"done": True}
            elif request["do"] == "open":
                model = LlamaModel(Path(request["path"]), n_threads=n_threads, kv="f32")
                reply = {"n_ctx": model.n_ctx}
            else:
                assert model is not None
                reply = _serve(request, model, out)
        except RlhfLiteError as error:
            reply = {
                "kind": type(error).__name__,
                "message": error.message,
                "why": error.why,
                "hint": error.hint,
            }
        if reply:
            out.write(json.dumps(reply).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
