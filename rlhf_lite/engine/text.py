"""Chat template, token ids, padding, stop tokens: the one place where text becomes numbers.

The rule that the rest stands on: *a completion's ids end with the model's stop token, and nothing follows it.* ChatML
templates put a newline after ``<|im_end|>``; a reward model trained on that newline and asked at ``<|im_end|>``
answers a question it never learned. So training texts are built here, never by rendering a whole conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from rlhf_lite.errors import DataError, UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Padded:
    """Token ids of prompts with their completions, one behind the other, padding on the right. A causal model's real
    tokens do not see it, so that no mask has to be made.

    Shapes: ``ids`` (B, L), the longest text; ``own`` (B, L), True = a completion's token; ``response_mask`` (B, R), the
    longest completion, True = a real token. Both have N times True, in the same order.
    """

    ids: torch.Tensor
    own: torch.Tensor
    response_mask: torch.Tensor

    @property
    def before(self) -> torch.Tensor:
        """Where each of the completions' tokens is foretold: one place before it, (B, L)."""
        return self.own.roll(-1, 1)

    @property
    def targets(self) -> torch.Tensor:
        """The completions' ids, (N,)."""
        return self.ids[self.own]

    def spread(self, found: torch.Tensor) -> torch.Tensor:
        """What was found of each of the completions' tokens, (N, …), by completion: (B, R, …), 0 on padding."""
        mask = self.response_mask
        spread = found.new_zeros(*mask.shape, *found.shape[1:])
        return spread.masked_scatter(mask.view(*mask.shape, *[1] * (found.ndim - 1)), found)


@dataclass(frozen=True)
class Prompts:
    """Prompts to be answered: padded on the left, so that every answer starts at the same column.

    Shapes: ``ids`` and ``mask`` (B, P); True = a real token.
    """

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def position_ids(self) -> torch.Tensor:
        """Positions that do not count padding, (B, P)."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)


def load_tokenizer(model: str, *, trust_remote_code: bool, plain_template: bool) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template and a pad token that is not a stop token.

    Raises:
        DataError: no tokenizer in the folder, or no chat template and none was asked for.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"no usable tokenizer in {model}",
            why=str(error).splitlines()[0],
            hint="add tokenizer.json and tokenizer_config.json",
        ) from error
    if plain_template and not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
    if not tokenizer.chat_template:
        raise DataError(
            f"{model} has no chat template", why="prompts cannot be rendered",
            hint="make the project with --plain-template to use ChatML, or pick an instruct model",
        )  # fmt: skip
    return tokenizer


def pad_id(tokenizer: PreTrainedTokenizerBase, stops: frozenset[int]) -> int:
    """An id to pad with. Padding is masked by length, so any id is right; one that is no stop token shows less
    surprise in a debugger. 0 where the tokenizer names no other."""
    named = tokenizer.pad_token_id
    return named if isinstance(named, int) and named not in stops else 0


def stop_ids(model: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends an answer: the tokenizer's eos and all that the generation config names."""
    found: set[int] = set()
    if isinstance(tokenizer.eos_token_id, int):
        found.add(tokenizer.eos_token_id)
    try:
        named = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        named = None
    found.update([named] if isinstance(named, int) else named or [])
    if not found:
        raise DataError(f"{model} names no end-of-text token", hint="set eos_token in tokenizer_config.json")
    return frozenset(found)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """The prompt as the chat template renders it, up to where the answer begins."""
    return encode(tokenizer, render(tokenizer, messages))


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """The prompt as text, up to where the answer begins.

    Raises:
        UserError: the template refuses these messages (roles out of order, say).
        DataError: the template is no valid jinja.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            "the chat template does not compile", why=f"line {error.lineno}: {error.message}"
        ) from error
    except (jinja2.TemplateError, OverflowError) as error:
        raise UserError("the chat template refuses this conversation", why=str(error)) from error


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, nothing added."""
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(ids)


def completion_ids(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """A finished answer's ids: its text, then the tokenizer's eos, then nothing."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise DataError(
            "the tokenizer names no end-of-text token", hint="set eos_token in tokenizer_config.json"
        )
    return [*encode(tokenizer, completion), end]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """An answer's text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def pad(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], fill: int, device: torch.device
) -> Padded:
    """Lay prompts and completions out as :class:`Padded`; no prompt is empty."""
    texts = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    longest, answer = max(map(len, texts)), max(map(len, completions), default=0)
    ids = torch.full((len(texts), longest), fill, dtype=torch.long)
    own = torch.zeros((len(texts), longest), dtype=torch.bool)
    response_mask = torch.zeros((len(texts), answer), dtype=torch.bool)
    for row, (text, completion) in enumerate(zip(texts, completions, strict=True)):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        own[row, len(text) - len(completion) : len(text)] = True
        response_mask[row, : len(completion)] = True
    return Padded(ids.to(device), own.to(device), response_mask.to(device))


def pad_prompts(prompts: Sequence[Sequence[int]], fill: int, device: torch.device) -> Prompts:
    """Lay prompts out as :class:`Prompts`."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), fill, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = True
    return Prompts(ids.to(device), mask.to(device))
