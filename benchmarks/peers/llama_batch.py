"""llama.cpp answering several prompts at once: one file of weights, one sequence a prompt, its own sampler.

The peer of ``rollout.py``. The file is written by our own exporter from the same base, in F16, which is llama.cpp's
usual type for unquantized weights; keys and values are F16 too. Temperature 1, nothing truncated (its ``dist`` sampler
alone); a sequence that has ended leaves the batch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import torch

from rlhf_lite.engine import text
from rlhf_lite.engine.export import gguf as converter
from rlhf_lite.engine.export.merge import MergedWeights, SafetensorsFolder, read_json
from rlhf_lite.engine.export.vocab import read_vocabulary
from rlhf_lite.settings import Quantization


def write_gguf(model: Path, quantization: Quantization, target: Path) -> Path:
    """The base as it is loaded with this quantization, as F16."""
    tokenizer = text.load_tokenizer(str(model), trust_remote_code=False, plain_template=False)
    weights = MergedWeights(SafetensorsFolder(model), quantization, torch.float32, None)
    rows = weights.shapes["model.embed_tokens.weight"][0]
    vocabulary = read_vocabulary(tokenizer, text.stop_ids(str(model), tokenizer), rows)
    plan = converter.plan_gguf(read_json(model / "config.json"), vocabulary, weights)
    converter.write_gguf(plan, "f16", target, "base", lambda *_: None)
    return target


@lib.llama_log_callback
def _silent(*_: Any) -> None:
    pass


class LlamaBatch:
    """A GGUF file with room for so many sequences of so many tokens each."""

    def __init__(self, path: Path, sequences: int, length: int, threads: int) -> None:
        lib.llama_log_set(_silent, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._model: Any = lib.llama_model_load_from_file(
            str(path).encode(), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_seq_max, params.n_ctx, params.n_batch = sequences, sequences * length, sequences * length
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._ctx: Any = lib.llama_init_from_model(self._model, params)
        if not self._ctx:
            raise SystemExit(f"llama.cpp has no room for {sequences} sequences of {length} tokens")
        self._memory: Any = lib.llama_get_memory(self._ctx)
        self._vocab: Any = lib.llama_model_get_vocab(self._model)
        self._batch = lib.llama_batch_init(sequences * length, 0, 1)

    def close(self) -> None:
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._ctx)
        lib.llama_model_free(self._model)

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, seed: int) -> list[list[int]]:
        """An answer to each prompt, the token that ends it included."""
        lib.llama_memory_clear(self._memory, True)
        sampler: Any = lib.llama_sampler_init_dist(seed)
        answers: list[list[int]] = [[] for _ in prompts]
        fresh = {
            row: list(prompt) for row, prompt in enumerate(prompts)
        }  # what each live sequence goes on with
        past = [0] * len(prompts)
        while fresh:
            last = self._decode(fresh, past)
            fresh = {}
            for row, place in last.items():
                token = lib.llama_sampler_sample(sampler, self._ctx, place)
                answers[row].append(token)
                if len(answers[row]) < max_new_tokens and not lib.llama_vocab_is_eog(self._vocab, token):
                    fresh[row] = [token]
        lib.llama_sampler_free(sampler)
        return answers

    def _decode(self, fresh: dict[int, list[int]], past: list[int]) -> dict[int, int]:
        """Evaluate; returns each sequence's place in the batch that has logits."""
        batch, place, last = self._batch, 0, {}
        for row, tokens in fresh.items():
            for token in tokens:
                batch.token[place], batch.pos[place] = token, past[row]
                batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, row, 0
                past[row] += 1
                place += 1
            last[row] = place - 1
            batch.logits[place - 1] = 1
        batch.n_tokens = place
        if code := lib.llama_decode(self._ctx, batch):
            raise SystemExit(f"llama.cpp could not evaluate a batch of {place} tokens: code {code}")
        return last
