"""Which of llama.cpp's tokenizers does what a tokenizer.json says.

Read off its structure, not off a list of known vocabularies, so fine-tunes with added tokens and own tokenizers work.
llama.cpp splits text by regexes of its own, chosen by a name; each name here stands for a structure that it splits the
same way. What has no such name is refused.

What llama.cpp cannot be told:

- Tekken's and GPT-4o's regexes tell upper from lower case in every script and keep combining marks with their letters;
  llama.cpp's versions know the cases of A to Z only, and cut marks off.
- Any token spelled </s> ends an answer and is looked for in text, also where it is an ordinary one, as in Qwen's.
- Qwen's text is put in Unicode's form NFC first: our chat does so, told by a key of the file; other programs do not.
- Where the first word of a text gets a space and no other (Mistral, TinyLlama as transformers reads them), no space is
  added; a template that begins with plain text writes it instead (``vocab.opening_space``).
- Where each piece gets a space but one that has one (their older reading), one that has gets another.
- Phi-3's special tokens swallow ASCII's white space only, and Gemma's tokens of several ▁ are not looked for in text
  that spells them so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_lite.errors import UserError

SPACE = "▁"  # U+2581, what SentencePiece writes for a space
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE, _TAIL = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# (regex, whether a word that is a token is taken whole) -> llama.cpp's name; the regexes as the models publish them.
_SPLITS = {
    (_WORDS + r"|\p{N}{1,3}" + _REST, True): "llama-bpe",  # Llama 3, SmolLM3
    (_WORDS + r"|\p{N}{1,3}" + _REST, False): "dbrx",  # OLMo 2, and GPT-4's vocabulary
    (_WORDS + r"|\p{N}" + _REST, False): "qwen2",
    (
        f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*" + r"|\p{N}" + _REST_SLASH,
        True,
    ): "tekken",  # Mistral Nemo
    (
        f"{_BEFORE}{_UPPER}*{_LOWER}+{_TAIL}|{_BEFORE}{_UPPER}+{_LOWER}*{_TAIL}"
        + r"|\p{N}{1,3}"
        + _REST_SLASH,
        False,
    ): "gpt-4o",
}
_NOT_STRIPPED = {"<unk>", "<s>", "<|endoftext|>"}  # the exceptions of llama.cpp's rule for Phi-3


@dataclass(frozen=True)
class TokenizerKind:
    """How llama.cpp is to read a vocabulary.

    Attributes:
        model: tokenizer.ggml.model, "gpt2" (byte-level BPE) or "llama" (SentencePiece-like BPE).
        pre: tokenizer.ggml.pre, the regex that splits text; "default" for "llama", which has none.
        space_prefix: a space is put before each piece of text, also behind a special token.
        nfc: text is put in Unicode's normal form C, which llama.cpp does not do.
        strips: its special tokens swallow the white space behind them. llama.cpp does this for Phi-3 only, which it
            knows by general.name.
    """

    model: str
    pre: str = "default"
    space_prefix: bool = False
    nfc: bool = False
    strips: bool = False


def unsupported(why: str) -> UserError:
    """The error of a tokenizer that GGUF cannot express."""
    return UserError(
        "this model's tokenizer cannot be written as GGUF",
        why=why,
        hint="tokenizers like those of Llama, TinyLlama, Mistral, Phi-3, Gemma, Qwen, SmolLM, Granite, OLMo 2, GPT-2 "
        "and GPT-4o can be exported",
    )


def kind_of(spec: Mapping[str, Any]) -> TokenizerKind:
    """The kind of a tokenizer.json. Raises UserError where llama.cpp has none that does the same."""
    model = spec["model"]
    if model["type"] != "BPE":
        raise unsupported(f"its model is {model['type']}, not BPE")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise unsupported("its BPE marks parts of words")
    strips = _strips(spec["added_tokens"])
    if model.get("byte_fallback"):
        return _sentencepiece(spec, strips)
    if strips:
        raise unsupported(
            "its special tokens swallow spaces, which llama.cpp does for Phi-3's vocabulary only"
        )
    return TokenizerKind("gpt2", pre=_pre_type(spec), nfc=_normalizes_nfc(spec.get("normalizer")))


def _strips(added: Iterable[Mapping[str, Any]]) -> bool:
    """Whether special tokens swallow the white space behind them, all those that llama.cpp strips for Phi-3."""
    added = list(added)
    for token in added:
        if token["single_word"]:
            raise unsupported(f"its token {token['content']} counts only as a word of its own")
    stripping = {token["content"] for token in added if token["lstrip"] or token["rstrip"]}
    if not stripping:
        return False
    texts = {token["content"] for token in added}
    as_phi3 = texts >= {"</s>", *_NOT_STRIPPED} and stripping == texts - _NOT_STRIPPED
    if not as_phi3 or any(token["lstrip"] for token in added):
        raise unsupported(
            f"its token {min(stripping)} swallows spaces, which llama.cpp does for Phi-3's vocabulary only"
        )
    return True


def _sentencepiece(spec: Mapping[str, Any], strips: bool) -> TokenizerKind:
    """Spaces become ▁; what differs is where one is added, and by which part of tokenizer.json."""
    steps = _steps(spec.get("normalizer"), "normalizers")
    prepends = {"type": "Prepend", "prepend": SPACE} in steps
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE} in steps
    if len(steps) != prepends + replaces:
        raise unsupported(f"llama.cpp has no normalizer {steps[0].get('type')}")
    if prepends and any(token["normalized"] for token in spec["added_tokens"]):
        raise unsupported("its added tokens are looked for after spaces are added")
    match spec.get("pre_tokenizer"):
        case {"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": scheme} if not steps:
            return TokenizerKind("llama", space_prefix=scheme == "always", strips=strips)
        case None if replaces:
            return TokenizerKind("llama", space_prefix=prepends, strips=strips)
        case {"type": "Split", "pattern": {"String": " "}} if (
            replaces
        ):  # Gemma's: no space is left to split at
            return TokenizerKind("llama", space_prefix=prepends, strips=strips)
    raise unsupported("llama.cpp has no pre-tokenizer of its structure")


def _steps(part: Mapping[str, Any] | None, of: str) -> list[Mapping[str, Any]]:
    """A part of tokenizer.json as the list of its steps."""
    return list(part.get(of, [part])) if part else []


def _normalizes_nfc(normalizer: Mapping[str, Any] | None) -> bool:
    steps = [step["type"] for step in _steps(normalizer, "normalizers")]
    if steps in ([], ["NFC"]):
        return bool(steps)
    raise unsupported(f"llama.cpp has no normalizer {steps[0]}")


def _pre_type(spec: Mapping[str, Any]) -> str:
    whole = bool(spec["model"].get("ignore_merges"))
    match _steps(spec.get("pre_tokenizer"), "pretokenizers"):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}] if not whole:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ] if not whole:
            return "smollm"  # SmolLM, SmolLM2, Granite 3, StarCoder
        case [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            # The regexes match every character, so keeping the matches is the same as cutting out what lies between.
            alike = (behavior, invert) in {("Isolated", False), ("Removed", True)}
            if alike and (regex, whole) in _SPLITS:
                return _SPLITS[regex, whole]
    raise unsupported("llama.cpp has no pre-tokenizer of its structure")
