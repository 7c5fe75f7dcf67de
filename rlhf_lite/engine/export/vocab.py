"""A tokenizer.json as GGUF metadata: tokens, merges, scores, special ids and the chat template.

The kind of pre-tokenizer is read off the structure of tokenizer.json, so fine-tunes with added tokens and own
tokenizers work. SentencePiece-style scores are the negated merge ranks: they are what orders the merges, and
tokenizer.json has no others. What is not recognised is refused; whether the result tokenizes the same is
measured before an export is called done (``verify.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from rlhf_lite.engine.chat_template import compile_template
from rlhf_lite.engine.llama import NFC_KEY
from rlhf_lite.errors import DataError, UserError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = _WORDS + r"|\p{N}{1,3}" + _REST
_QWEN2_SPLIT = _WORDS + r"|\p{N}" + _REST
_EXTRA_STOP_SLOTS = ("EOT", "EOM")  # GGUF has no list of end tokens, but three names for them


@dataclass(frozen=True)
class Vocabulary:
    """``tokens`` and ``types`` have one entry for each row of the embedding; ids are indices into them."""

    kind: str  # tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece-style BPE)
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]  # empty for byte-level BPE
    merges: list[str]
    special_ids: dict[str, int]  # "EOS", "EOT", "EOM" (all end an answer), "BOS", "PAD", "UNK"
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    nfc: bool
    chat_template: str

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add it all to ``writer``'s metadata."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_merges(self.merges)
        for name, token in self.special_ids.items():
            writer.add_uint32(getattr(gguf.Keys.Tokenizer, f"{name}_ID"), token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.add_space_prefix)
        writer.add_chat_template(self.chat_template)
        writer.add_bool(NFC_KEY, self.nfc)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, stops: frozenset[int], rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer, for an embedding of ``rows`` rows; ``stops`` are the ids that end an answer.

    Raises DataError (damaged, or more tokens than rows), UserError (a tokenizer GGUF cannot express).
    """
    if not tokenizer.is_fast:
        raise _unsupported("it has no tokenizer.json")
    backend: Any = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    model = spec["model"]
    if model["type"] != "BPE":
        raise _unsupported(f"its model is {model['type']}, not BPE")
    byte_fallback = bool(model.get("byte_fallback"))
    tokens = _token_list(spec, rows)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    add_bos, add_eos = _added_ends(spec.get("post_processor"))
    compile_template(str(tokenizer.chat_template))  # a broken one is met here, not in the first chat
    return Vocabulary(
        kind="llama" if byte_fallback else "gpt2",
        pre="default" if byte_fallback else _pre_type(spec),
        tokens=tokens,
        types=_token_types(spec, tokens, byte_fallback),
        scores=_merge_rank_scores(tokens, merges) if byte_fallback else [],
        merges=merges,
        special_ids=_special_ids(tokenizer, stops),
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=byte_fallback and _adds_space_prefix(spec),
        nfc=_normalizes_nfc(spec.get("normalizer"), byte_fallback),
        chat_template=str(tokenizer.chat_template),
    )


def _unsupported(why: str) -> UserError:
    return UserError(
        "this model's tokenizer cannot be written as GGUF",
        why=why,
        hint="models with a Llama, Qwen, SmolLM or GPT-2 tokenizer can be exported",
    )


def _pre_type(spec: dict[str, Any]) -> str:
    match spec.get("pre_tokenizer"):
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return "gpt-2"
        case {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split"} as split, {"type": "ByteLevel"} as level],
        }:
            regex = split["pattern"].get("Regex")
            plain = not level.get("use_regex", True) and not level.get("add_prefix_space")
            if plain and regex == _LLAMA3_SPLIT:
                return "llama-bpe" if spec["model"].get("ignore_merges") else "dbrx"
            if plain and regex == _QWEN2_SPLIT:
                return "qwen2"
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            ],
        }:
            return "smollm"
    raise _unsupported("llama.cpp has no pre-tokenizer of its structure")


def _normalizes_nfc(normalizer: dict[str, Any] | None, byte_fallback: bool) -> bool:
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            return False
        case {"type": "NFC"} | {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return True
    if byte_fallback:  # Prepend and Replace spell SentencePiece's spaces, which llama.cpp does by itself
        return False
    raise _unsupported(f"llama.cpp has no normalizer {normalizer.get('type')}")


def _adds_space_prefix(spec: dict[str, Any]) -> bool:
    normalizer, pre = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(s.get("type") == "Prepend" for s in steps) or pre.get("prepend_scheme", "never") != "never"


def _token_list(spec: dict[str, Any], rows: int) -> list[str]:
    ids = {**spec["model"]["vocab"], **{t["content"]: t["id"] for t in spec["added_tokens"]}}
    tokens = [f"[PAD{i}]" for i in range(rows)]
    for text, token in ids.items():
        if token >= rows:
            raise DataError(
                f"token {token} has no row in the embedding",
                why=f"the embedding has {rows} rows",
                hint="resize the model's embedding to its tokenizer",
            )
        tokens[token] = text
    if len(set(tokens)) != rows or "" in tokens:  # llama.cpp aborts on a duplicate
        raise DataError(
            "the tokenizer has empty or duplicate tokens", hint="repair the model's tokenizer.json"
        )
    return tokens


def _token_types(spec: dict[str, Any], tokens: list[str], byte_fallback: bool) -> list[int]:
    known = set(spec["model"]["vocab"])
    types = [int(gguf.TokenType.NORMAL if text in known else gguf.TokenType.UNUSED) for text in tokens]
    if byte_fallback:
        for i, text in enumerate(tokens):
            if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
                types[i] = int(gguf.TokenType.BYTE)
    for added in spec["added_tokens"]:
        text = added["content"]
        control = added.get("special") or (text.startswith("<|") and text.endswith("|>"))
        types[added["id"]] = int(gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED)
    unknown = spec["model"].get("unk_token")
    if byte_fallback and unknown in tokens:
        types[tokens.index(unknown)] = int(gguf.TokenType.UNKNOWN)
    return types


def _merge_rank_scores(tokens: list[str], merges: list[str]) -> list[float]:
    rank: dict[str, int] = {}
    for i, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), i)
    return [-float(rank.get(text, len(merges))) for text in tokens]


def _special_ids(tokenizer: PreTrainedTokenizerBase, stops: frozenset[int]) -> dict[str, int]:
    named: dict[str, Any] = {
        "BOS": tokenizer.bos_token_id,
        "PAD": tokenizer.pad_token_id,
        "UNK": tokenizer.unk_token_id,
    }
    eos: Any = tokenizer.eos_token_id
    first = eos if eos in stops else min(stops)
    others = sorted(stops - {first})
    if len(others) > len(_EXTRA_STOP_SLOTS):
        raise _unsupported(
            f"it has {len(stops)} end tokens, and GGUF has room for {1 + len(_EXTRA_STOP_SLOTS)}"
        )
    ends = {"EOS": first, **dict(zip(_EXTRA_STOP_SLOTS, others, strict=False))}
    return ends | {name: token for name, token in named.items() if token is not None}


def _added_ends(processor: dict[str, Any] | None) -> tuple[bool, bool]:
    """Whether plain text gets a BOS before and an EOS behind."""
    for step in (processor or {}).get("processors", [processor or {}]):
        if step.get("type") == "TemplateProcessing":
            return "SpecialToken" in step["single"][0], "SpecialToken" in step["single"][-1]
    return False, False
