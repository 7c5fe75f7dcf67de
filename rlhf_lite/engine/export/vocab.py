"""A tokenizer as GGUF metadata: tokens, their types and scores, merges, special ids and the chat template.

Which of llama.cpp's tokenizers reads them the same way is ``tokenizer_kind.py``'s to say. SentencePiece's scores are
the negated merge ranks: they are what orders the merges, and tokenizer.json has no others. Whether the result
tokenizes the same is measured before an export is called done (``verify.py``).

What other programs put before a prompt by themselves is set by what the tuned model was given, which is its rendered
template and nothing else: a BOS where that begins with one (llama.cpp's server takes away the template's own then, and
Ollama's templates write none), and never an EOS behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from rlhf_lite.engine import text
from rlhf_lite.engine.chat_template import compile_template, render_template
from rlhf_lite.engine.export.tokenizer_kind import SPACE, TokenizerKind, kind_of, unsupported
from rlhf_lite.engine.llama import NFC_KEY
from rlhf_lite.errors import DataError

_EOS_IDS_KEY = "tokenizer.ggml.eos_token_ids"  # Ollama's: all end tokens, where llama.cpp has slots
# GGUF has three slots for end tokens; besides, llama.cpp takes any token of one of these texts for one.
_KNOWN_STOPS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<|end_of_text|>",
    "<eos>",
}  # fmt: skip
_EXTRA_STOP_SLOTS = ("EOT", "EOM")
# {% generation %} marks the answers' places for transformers alone and renders nothing.
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
# llama.cpp guesses a tokenizer's habits from these words in the model's name.
_MISREAD_NAMES = re.compile(r"phi-?3|modern-?bert", re.IGNORECASE)
_HELLO = ({"role": "user", "content": "Hello"},)


@dataclass(frozen=True)
class Vocabulary:
    """``tokens`` and ``types`` have one entry for each row of the embedding; ids are indices into them."""

    kind: TokenizerKind
    tokens: list[str]
    types: list[int]
    scores: list[float]  # of SentencePiece-like ones, which have no merges
    merges: list[str]  # of byte-level ones, which have no scores
    special_ids: dict[str, int]  # "EOS", "EOT", "EOM" (all end an answer), "BOS", "PAD", "UNK"
    stops: list[int]
    add_bos: bool
    chat_template: str

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add it all to ``writer``'s metadata."""
        writer.add_tokenizer_model(self.kind.model)
        writer.add_tokenizer_pre(self.kind.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        for name, token in self.special_ids.items():
            writer.add_uint32(getattr(gguf.Keys.Tokenizer, f"{name}_ID"), token)
        writer.add_array(_EOS_IDS_KEY, self.stops)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(self.kind.space_prefix)
        writer.add_chat_template(self.chat_template)
        writer.add_bool(NFC_KEY, self.kind.nfc)

    def model_name(self, name: str) -> str:
        """``name`` as general.name may spell it: llama.cpp strips the spaces behind a special token where it says
        "phi-3", and must do so for vocabularies like Phi-3's and for no others."""
        fit = _MISREAD_NAMES.sub("model", name)
        return f"{fit} (phi-3 tokenizer)" if self.kind.strips else fit


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, stops: frozenset[int], rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer, for an embedding of ``rows`` rows; ``stops`` are the ids that end an answer.

    Raises DataError (damaged, or more tokens than rows), UserError (a tokenizer GGUF cannot express).
    """
    if not tokenizer.is_fast:
        raise unsupported("it has no tokenizer.json")
    backend: Any = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    kind = kind_of(spec)
    tokens = _token_list(spec, kind, rows)
    unknown: Any = tokenizer.unk_token_id
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        types=_token_types(spec, kind, tokens, unknown),
        scores=_merge_rank_scores(tokens, merges) if kind.model == "llama" else [],
        merges=merges,
        special_ids=_special_ids(tokenizer, tokens, stops),
        stops=sorted(stops),
        add_bos=bool(added_tokens(tokenizer)),
        chat_template=_template(tokenizer, opening_space(tokenizer)),
    )


def opening_space(tokenizer: PreTrainedTokenizerBase) -> str:
    """The space, if any, that the file's template writes before what the tokenizer's own template renders.

    Some tokenizers put a space before a text that begins with neither a space nor a special token, and nowhere else.
    llama.cpp puts one behind every special token too, or none at all: so none, and the template begins with it.
    """
    backend: Any = tokenizer.backend_tokenizer
    pre = backend.pre_tokenizer
    if getattr(pre, "prepend_scheme", None) != "first":
        return ""
    rendered = text.render(tokenizer, _HELLO)
    special = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    return "" if rendered.startswith((" ", SPACE, *special)) else " "


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What other programs are to put before a prompt by themselves: the BOS, or nothing.

    It is BOS where rendered chats begin with it, unless it is also how turns begin (ChatML's <|im_start|> in SmolLM2):
    then the template's text has it, whoever writes it.
    """
    bos: Any = tokenizer.bos_token
    if not bos or not text.render(tokenizer, _HELLO).startswith(bos):
        return []
    template = compile_template(_without_markers(tokenizer))
    other = render_template(template, _HELLO, {"bos_token": SPACE, "eos_token": SPACE})
    backend: Any = tokenizer.backend_tokenizer
    begins = other.startswith(SPACE) or backend.encode("", add_special_tokens=True).tokens[:1] == [bos]
    return [backend.token_to_id(bos)] if begins else []


def _without_markers(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's own template, its marks for transformers made to do nothing."""
    return _GENERATION.sub(
        lambda m: f"{m[1]}{'endif' if m[2] else 'if true'}{m[3]}", tokenizer.get_chat_template()
    )


def _template(tokenizer: PreTrainedTokenizerBase, opening: str) -> str:
    """The template for programs that are not transformers. A broken one is met here, not in the first chat."""
    source = _without_markers(tokenizer)
    for name in ("bos_token", "eos_token"):
        if getattr(tokenizer, name) is None and name in source:  # elsewhere it would be any token
            source = f"{{% set {name} = '' %}}{source}"
    source = f"{{{{ ' ' }}}}{source}" if opening else source
    compile_template(source)
    return source


def _token_list(spec: Mapping[str, Any], kind: TokenizerKind, rows: int) -> list[str]:
    ids = {**spec["model"]["vocab"], **{t["content"]: t["id"] for t in spec["added_tokens"]}}
    tokens = [f"[PAD{i}]" for i in range(rows)]
    for content, token in ids.items():
        if token >= rows:
            raise DataError(
                f"token {token} has no row in the embedding",
                why=f"the embedding has {rows} rows",
                hint="resize the model's embedding to its tokenizer",
            )
        tokens[token] = content
    if kind.model == "llama" and spec["normalizer"]:
        # These are looked for where spaces are ▁ already, llama.cpp looks before.
        for added in (token for token in spec["added_tokens"] if token["normalized"]):
            tokens[added["id"]] = added["content"].replace(SPACE, " ")
    if len(set(tokens)) != rows or "" in tokens:  # llama.cpp aborts on a duplicate
        raise DataError(
            "the tokenizer has empty or duplicate tokens", hint="repair the model's tokenizer.json"
        )
    return tokens


def _token_types(
    spec: Mapping[str, Any], kind: TokenizerKind, tokens: list[str], unknown: int | None
) -> list[int]:
    known = spec["model"]["vocab"]
    types = [int(gguf.TokenType.NORMAL if content in known else gguf.TokenType.UNUSED) for content in tokens]
    if kind.model == "llama":
        for i, content in enumerate(tokens):
            if len(content) == 6 and content.startswith("<0x") and content.endswith(">"):
                types[i] = int(gguf.TokenType.BYTE)
    for added in spec["added_tokens"]:
        content = added["content"]
        if added["special"] or (content.startswith("<|") and content.endswith("|>")):
            types[added["id"]] = int(gguf.TokenType.CONTROL)
        elif SPACE not in content or tokens[added["id"]] != content or content not in known:
            # One of ▁ that is in the vocabulary is made by merges, and llama.cpp shows its spaces only if it is normal.
            types[added["id"]] = int(gguf.TokenType.USER_DEFINED)
    if kind.model == "llama" and unknown is not None:
        types[unknown] = int(gguf.TokenType.UNKNOWN)
    return types


def _merge_rank_scores(tokens: list[str], merges: list[str]) -> list[float]:
    rank: dict[str, int] = {}
    for i, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), i)
    return [-float(rank.get(content, len(merges))) for content in tokens]


def _special_ids(
    tokenizer: PreTrainedTokenizerBase, tokens: list[str], stops: frozenset[int]
) -> dict[str, int]:
    """The slots; end tokens that llama.cpp would not know by their text come first."""
    named: dict[str, Any] = {
        "BOS": tokenizer.bos_token_id,
        "PAD": tokenizer.pad_token_id,
        "UNK": tokenizer.unk_token_id,
    }
    eos: Any = tokenizer.eos_token_id
    first = eos if eos in stops else min(stops)
    others = sorted(stops - {first}, key=lambda token: (tokens[token] in _KNOWN_STOPS, token))
    unnamed = [
        tokens[token] for token in others[len(_EXTRA_STOP_SLOTS) :] if tokens[token] not in _KNOWN_STOPS
    ]
    if unnamed:
        raise unsupported(f"GGUF has no room for its end token {unnamed[0]}, beside the {len(stops)} others")
    ends = {"EOS": first, **dict(zip(_EXTRA_STOP_SLOTS, others, strict=False))}
    return ends | {name: token for name, token in named.items() if token is not None}
