"""The one wrapper of llama_cpp: load a GGUF, tokenize, render, logits, generate, quantize.

Written on the low-level API, because the package's own ``Llama`` drops tokens longer than 32 bytes when it
detokenizes and redirects file descriptors while it loads. llama.cpp *aborts the process* on some damaged files,
so code that must survive one uses this module in a child process (``export/worker.py``, ``chat.py``), and that
process starts with ``jobs.child_environment()``: libgomp otherwise spins while it waits, which on a busy machine
costs a factor of several hundred.

One thread at a time: two threads on one model abort the process.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import jinja2
import llama_cpp.llama_cpp as lib
import numpy as np

from rlhf_lite.engine.chat_template import compile_template, render_template
from rlhf_lite.engine.drawing import draw
from rlhf_lite.engine.gguf_file import HINT, Header, read_header
from rlhf_lite.engine.offload import Place, modest
from rlhf_lite.errors import DataError, JobError, OutOfMemory, UserError

NFC_KEY = "rlhf_lite.tokenizer.nfc"  # written at export: llama.cpp itself has no Unicode normalizer
_BATCH = 512  # tokens a decode call takes; a cancel is heard inside one
_LOGIT_ROWS = 128  # the same where all their logits are wanted, each as wide as the vocabulary
_ABORTED = 2  # llama_decode's word for it
_GGML_F32, _GGML_F16 = 0, 1
_ERROR, _CONTINUED = 4, 5  # ggml log levels
_log: deque[str] = deque(maxlen=8)
_last_level = 0


@lib.llama_log_callback
def _on_log(level: int, text: bytes, _: Any) -> None:
    global _last_level
    if level != _CONTINUED:
        _last_level = level
    if _last_level == _ERROR and text.strip():
        _log.append(text.decode("utf-8", "replace").strip())


def _listen() -> None:
    """Collect llama.cpp's error lines instead of printing them; they are the only reason it gives."""
    _log.clear()
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))


def _reason() -> str:
    return "; ".join(dict.fromkeys(_log)) or "llama.cpp gave no reason"


def default_threads() -> int:
    """All cores this process may use but one, or OMP_NUM_THREADS where that is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit():
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


class LlamaModel(AbstractContextManager["LlamaModel"]):
    """A GGUF file, loaded. ``place`` says where to; ``kv`` is the type of the KV cache: "f16", or "f32" where logits
    are compared.

    Raises UserError (no such file), DataError (not a GGUF that llama.cpp can read), OutOfMemory.
    """

    def __init__(
        self, path: Path, *, place: Callable[[Header], Place] = modest, n_threads: int | None = None,
        kv: Literal["f16", "f32"] = "f16",
    ) -> None:  # fmt: skip
        self.path, self.place = path, place(read_header(path))
        _listen()
        lib.llama_backend_init()
        self._model: Any = lib.llama_model_load_from_file(str(path).encode(), _model_params(self.place))
        if not self._model:
            raise DataError(f"cannot load {path.name}", why=_reason(), hint=HINT)
        self._vocab: Any = lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self.n_ctx = self.place.context
        self._ctx = self._new_context(n_threads or default_threads(), kv)
        self._memory: Any = lib.llama_get_memory(self._ctx)
        self._batch = lib.llama_batch_init(_BATCH, 0, 1)
        for i in range(_BATCH):
            self._batch.n_seq_id[i], self._batch.seq_id[i][0] = 1, 0
        self._evaluated: list[int] = []  # ids whose keys and values the cache holds
        self._template: jinja2.Template | None = None
        self._nfc = self.metadata(NFC_KEY) == "true" or self.metadata("tokenizer.ggml.pre") == "qwen2"

    def _new_context(self, n_threads: int, kv: str) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = self.n_ctx, _BATCH, _BATCH
        params.n_threads = params.n_threads_batch = n_threads
        params.offload_kqv = params.op_offload = self.place.gpu_layers > 0
        params.type_k = params.type_v = _GGML_F32 if kv == "f32" else _GGML_F16
        if kv == "f32":  # flash attention rounds keys and values to F16 again
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise OutOfMemory(f"no room for {self.n_ctx} tokens", why=_reason(), hint="close other programs")
        return context

    def close(self) -> None:
        """Free the model. Never while another thread generates."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._ctx)
        lib.llama_model_free(self._model)

    def __exit__(self, *_: object) -> None:
        self.close()

    def metadata(self, key: str) -> str | None:
        """A metadata value of the file as text, cut at 4 kB, or None."""
        buffer: Any = ctypes.create_string_buffer(4096)
        found = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer)) >= 0
        return buffer.value.decode("utf-8", "replace") if found else None

    @property
    def name(self) -> str:
        """Short, and without what would move a terminal's cursor: a stranger may have written it."""
        name = self.metadata("general.name") or self.path.stem
        return "".join(c for c in name if c.isprintable())[:100]

    def is_eog(self, token: int) -> bool:
        """Whether ``token`` ends an answer (any of the file's end-of-generation tokens)."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids of ``text``, no BOS added. ``special``: the text may hold control tokens."""
        raw = (unicodedata.normalize("NFC", text) if self._nfc else text).encode("utf-8", "replace")
        size = len(raw) + 8
        buffer = (lib.llama_token * size)()
        n = lib.llama_tokenize(self._vocab, raw, len(raw), buffer, size, False, special)
        if n < 0:
            raise JobError("llama.cpp could not tokenize a text", why=f"it asked for {-n} tokens")
        return list(buffer[:n])

    def added_tokens(self) -> list[int]:
        """What llama.cpp puts around a text by itself where it is asked to, as other programs do: BOS, EOS, none."""
        buffer = (lib.llama_token * 4)()
        n = lib.llama_tokenize(self._vocab, b"", 0, buffer, len(buffer), True, True)
        return list(buffer[:n])

    def piece(self, token: int, special: bool = True) -> bytes:
        """The exact bytes of one token; control tokens are empty where ``special`` is False."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def stream_text(self, tokens: Iterable[int]) -> Iterator[str]:
        """Text as it arrives: a character split over tokens is held back until it is whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if text := decoder.decode(self.piece(token, special=False)):
                yield text
        if rest := decoder.decode(b"", final=True):
            yield rest

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as the file's own chat template writes it, ready for an answer.

        Raises UserError (no template, or it refuses these messages), DataError (a broken template).
        """
        if self._template is None:
            raw = lib.llama_model_chat_template(self._model, None)
            if raw is None:
                hint = "use a file made by `rlhf-lite export`, or an instruct model"
                raise UserError(f"{self.path.name} has no chat template", hint=hint)
            self._template = compile_template(raw.decode("utf-8", "replace"))
        ends: list[Any] = [lib.llama_vocab_bos(self._vocab), lib.llama_vocab_eos(self._vocab)]
        bos, eos = ("" if token < 0 else self.piece(token).decode("utf-8", "replace") for token in ends)
        return render_template(self._template, messages, {"bos_token": bos, "eos_token": eos})

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Next-token logits after every position of ``ids``: (T, V) float32. Forgets the cache first."""
        self._check_length(ids)
        lib.llama_memory_clear(self._memory, True)
        self._evaluated = []
        rows = np.empty((len(ids), self.n_vocab), dtype=np.float32)
        for start in range(0, len(ids), _LOGIT_ROWS):
            chunk = ids[start : start + _LOGIT_ROWS]
            self._decode(chunk, every_position=True)
            out = lib.llama_get_logits(self._ctx)
            rows[start : start + len(chunk)] = np.ctypeslib.as_array(out, (len(chunk), self.n_vocab))
        return rows

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[int]:
        """Yield sampled tokens, the end-of-generation token included; ends after it, after ``max_tokens``,
        when the context is full, or when ``cancelled`` says so, also in the middle of the prompt.
        Keys and values of the longest prefix shared with the last call are reused.
        """
        self._check_length(ids)
        rng = np.random.default_rng(None if seed is None else seed % 2**64)  # any whole number
        if not self._evaluate(ids[self._reuse(ids) :], cancelled):
            return
        token = -1
        for n in range(min(max_tokens, self.n_ctx - len(ids))):
            if n:
                self._decode([token])
            row = np.ctypeslib.as_array(lib.llama_get_logits_ith(self._ctx, -1), (self.n_vocab,))
            token = draw(row, temperature, top_p, rng)
            yield token
            if self.is_eog(token) or cancelled():
                return

    def _check_length(self, ids: Sequence[int]) -> None:
        if not 0 < len(ids) < self.n_ctx:
            raise UserError(
                f"the conversation has {len(ids)} tokens, the context holds {self.n_ctx}",
                why="nothing would be left for an answer" if ids else "there is nothing to continue",
                hint="start a new conversation" if ids else "write a message",
            )

    def _reuse(self, ids: Sequence[int]) -> int:
        """Drop what the cache holds beyond the prefix it shares with ``ids``; how many tokens stay."""
        pairs = zip(self._evaluated, ids[:-1], strict=False)  # the last is decoded again for its logits
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if not lib.llama_memory_seq_rm(self._memory, 0, shared, -1):
            lib.llama_memory_clear(self._memory, True)
            shared = 0
        del self._evaluated[shared:]
        return shared

    def _evaluate(self, ids: Sequence[int], cancelled: Callable[[], bool]) -> bool:
        """Evaluate the rest of a prompt; False where it was cancelled.

        llama.cpp asks before each step of a batch, which may take seconds; not while tokens are generated one by one,
        where asking would cost more than it saves.
        """
        ask = lib.ggml_abort_callback(lambda _: cancelled())
        lib.llama_set_abort_callback(self._ctx, ask, ctypes.c_void_p(0))
        try:
            starts = range(0, len(ids), _BATCH)
            return all(not cancelled() and self._decode(ids[s : s + _BATCH]) for s in starts)
        finally:
            lib.llama_set_abort_callback(self._ctx, lib.ggml_abort_callback(), ctypes.c_void_p(0))

    def _decode(self, ids: Sequence[int], every_position: bool = False) -> bool:
        """Evaluate up to a batch behind what the cache holds; False where it was aborted."""
        batch, past = self._batch, len(self._evaluated)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, past + i
            batch.logits[i] = every_position or i == len(ids) - 1
        _log.clear()
        code = lib.llama_decode(self._ctx, batch)
        if code == 0:
            self._evaluated.extend(ids)
            return True
        if code != _ABORTED or not lib.llama_memory_seq_rm(self._memory, 0, past, -1):
            lib.llama_memory_clear(self._memory, True)
            self._evaluated = []
        if code != _ABORTED:
            raise JobError("llama.cpp could not evaluate the text", why=f"code {code}: {_reason()}")
        return False


def _model_params(place: Place) -> Any:
    params: Any = lib.llama_model_default_params()
    params.n_gpu_layers = place.gpu_layers
    if not place.gpu_layers:  # or a build for a GPU takes half a gigabyte of it all the same
        params.split_mode, params.main_gpu = lib.LLAMA_SPLIT_MODE_NONE, -1
    return params


def quantize_file(source: Path, target: Path, ftype: int, n_threads: int) -> None:
    """llama.cpp's own quantizer. Leaves a partial ``target`` on failure, which the caller removes.

    Raises JobError with llama.cpp's reason. ``source == target`` would kill the process, so it is refused.
    """
    if source.resolve() == target.resolve():
        raise JobError("cannot quantize a file onto itself", why=str(source))
    _listen()
    params: Any = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype = n_threads, ftype
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), params) != 0:
        raise JobError(f"llama.cpp could not quantize {source.name}", why=_reason())
