"""One answer at a time from the views of a shared base: sampled token by token, told as text while it comes.

:mod:`rlhf_lite.engine.sampling` answers many prompts at once and keeps log-probabilities; here somebody waits for the
first word. Keys and values of the last conversation stay, for each view its own, since an adapter changes them: the
next turn evaluates only what is new.

On a CPU a 4-bit layer is unpacked anew for every token, which takes a hundred times as long as multiplying by it
(measured: 24 ms to 0.24 ms for 896 × 4864). So :func:`unpack` does it once, where memory has the room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from rlhf_lite import memory
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.errors import DataError, UserError

MAX_CONTEXT = 4096  # tokens; keys and values for the 128k of some models would not fit a small machine
_CHUNK = 256  # tokens of a prompt evaluated at once: small enough that a cancel is heard soon


@dataclass
class _Seen:
    """The ids whose keys and values a cache holds."""

    ids: list[int] = field(default_factory=list[int])
    cache: DynamicCache = field(default_factory=DynamicCache)


class Decoder:
    """Answers from a base's views; ``context`` is the longest conversation, in tokens."""

    def __init__(self, base: SharedBase) -> None:
        self._base = base
        self._seen: dict[str | None, _Seen] = {}
        self.context = min(base.context, MAX_CONTEXT)
        base.model.eval()

    def generate(
        self,
        view: str | None,
        ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int | None,
        cancelled: Callable[[], bool],
    ) -> Iterator[int]:
        """Yield sampled tokens, the stop token included; ends after it, after ``max_tokens``, when the context is
        full, or when ``cancelled`` says so (asked between pieces of the prompt too).

        Raises:
            UserError: the prompt fills the context, or is empty.
        """
        if not 0 < len(ids) < self.context:
            raise UserError(
                f"the conversation has {len(ids)} tokens, the context holds {self.context}",
                why="nothing would be left for an answer" if ids else "there is nothing to continue",
                hint="start a new conversation" if ids else "write a message",
            )
        generator = torch.Generator(self._base.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        with self._base.view(view):
            seen = self._reuse(view, ids)
            fresh = ids[len(seen.ids) :]
            logits = torch.empty(0)
            for start in range(0, len(fresh), _CHUNK):
                if cancelled():
                    return
                logits = self._forward(view, seen, fresh[start : start + _CHUNK])
            for left in reversed(range(min(max_tokens, self.context - len(ids)))):
                token = pick(logits, temperature, top_p, generator)
                yield token
                if token in self._base.stops or not left or cancelled():
                    return
                logits = self._forward(view, seen, [token])

    def _reuse(self, view: str | None, ids: Sequence[int]) -> _Seen:
        """What a view's cache holds, cut down to the prefix it shares with ``ids``."""
        seen = self._seen.setdefault(view, _Seen())
        pairs = zip(seen.ids, ids[:-1], strict=False)  # the last is evaluated again for its logits
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if len(seen.ids) > shared:
            seen.cache.crop(shared - len(seen.ids))
            del seen.ids[shared:]
        return seen

    def _forward(self, view: str | None, seen: _Seen, ids: Sequence[int]) -> torch.Tensor:
        """Next-token logits (V,) after ``ids``, in the view one is in."""
        row = torch.tensor([list(ids)], device=self._base.device)
        try:
            with torch.no_grad():
                out = self._base.model(
                    input_ids=row, past_key_values=seen.cache, use_cache=True, logits_to_keep=1
                )
        except BaseException:  # some layers may have taken the new keys and others not
            self._seen.pop(view, None)
            raise
        seen.ids.extend(ids)
        return out.logits[0, -1].float()


def unpack(model: nn.Module) -> None:
    """Replace the 4-bit layers by fp32 ones of the very same numbers, in place and before any adapter is added.
    Left alone where that takes more than half of the memory that is free.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    needed = sum(4 * m.in_features * m.out_features for m in layers.values())
    if 2 * needed > memory.read_ram(Path("/proc/meminfo")).free:
        return
    for name, packed in layers.items():
        state = getattr(packed.weight, "quant_state", None)
        assert state is not None, "a loaded 4-bit layer is quantized"
        with torch.device("meta"):
            dense = nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None)
        weight = dequantize_4bit(packed.weight.data, state).float()
        dense.weight, dense.bias = nn.Parameter(weight, requires_grad=False), packed.bias
        model.set_submodule(name, dense)


def pick(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token id from ``logits`` (V,): the argmax at temperature 0, else softmax(logits / temperature), of whose
    likeliest tokens those that together reach ``top_p`` are kept.

    Raises:
        DataError: the logits are not finite.
    """
    top = logits.max()
    if not bool(torch.isfinite(top)):
        raise DataError(
            "the model's output is not a number", why="its weights or the adapter's are damaged",
            hint="train again from an earlier run",
        )  # fmt: skip
    if temperature <= 0:
        return int(logits.argmax())
    probabilities = torch.softmax((logits - top) / temperature, -1)
    if top_p >= 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    ordered, tokens = probabilities.sort(descending=True)
    beyond = ordered.cumsum(0) - ordered >= top_p
    beyond[0] = False
    drawn = torch.multinomial(ordered.masked_fill(beyond, 0), 1, generator=generator)
    return int(tokens[drawn])


def stream_text(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> Iterator[str]:
    """Text as it arrives, without special tokens: a character split over tokens is held back until it is whole.

    Tokens are decoded behind those of the last piece, since some tokenizers write a word's space only after another.
    """
    ids: list[int] = []
    start = told = 0  # ids[start:told] is the last piece, ids[told:] what has not been told

    def fresh() -> str:
        before, after = (
            str(tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for part in (ids[start:told], ids[start:])
        )
        return after[len(before) :]

    for token in tokens:
        ids.append(token)
        text = fresh()
        if text and not text.endswith("\ufffd"):
            yield text
            start, told = told, len(ids)
    if rest := fresh():
        yield rest
