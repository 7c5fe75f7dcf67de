"""Tokenizers in a file against transformers: the same ids, the same rendered chats, the same ends.

Each family's own kind of tokenizer, on strings that have broken converters before. What llama.cpp cannot express is
named here, and shown to be so.
"""

from __future__ import annotations

import copy
import json
import random
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import export_tokenizers as families
import pytest
from export_tokenizers import KINDS, stops_of, tokenizer, vocabulary_of, write_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_lite.engine import text
from rlhf_lite.engine.export.tokenizer_kind import kind_of
from rlhf_lite.engine.export.vocab import opening_space, read_vocabulary
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.errors import DataError, UserError

WORDS = [
    "Hello", "world", "it's", "DON'T", "we'Ll", "naïve", "café", "Ünïcödé", "日本語", "中文", "한국어", "Привет", "мир",
    "ΚΌΣΜΟΣ", "κόσμος", "مرحبا", "שלום", "नमस्ते", "สวัสดี", "გამარჯობა", "Straße", "œuvre", "elephants", "unmerged",
    "12345", "3.14159", "1,000,000", "٣٤٥", "१२३", "½", "²", "Ⅷ", "x²", "v1.2", "0x1F", "e\u0301", "n\u0303a", "Å",
    "🙂", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "\u200b",
    "\u00ad", "\ufeff", "\u2060", "\u202e", "\ue000", "\U000f0000", "\ufffd",
    "def f(x):", "return x", "//", "/* a */", "{}", "[0]", "a_b", "a-b", "a/b", "\\n",
    "http://x.y/z?q=1&r=%20", "<p>",
    "&amp;", "$5", "€5", "50%", "#tag", "@me", "...", "…", "—", "“q”", "'q'", "`c`", "!!!", "?!",
    "1st", "iPhone", "camelCase",
]  # fmt: skip
SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ", "\n\t", "\u00a0",
          "\u2003",
          "\u3000", "\u2028", "\u0085", "\v", "\f", "\u202f", " \u00a0 ", "▁", "▁▁"]  # fmt: skip
CONTROLS = ["\x00", "\x01\x02", "\x07", "\x1b[31m", "\x7f", "\x80", "\x9f", "a\x00b"]
RUNS = ["a" * 3000, " " * 3000, "7" * 3000, "=" * 3000, "\n" * 300, "ab" * 1500, "é" * 1000, "日" * 1000,
        "🙂" * 500,
        "\t" * 200, "x " * 1500, "-=" * 500, "A" * 64 + "b" * 64]  # fmt: skip
SPECIALS = ["<s>", "<unk>", "<bos>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|user|>", "<|end|>", "[INST]",
            "<0x41>",
            "<start_of_turn>", "<|endoftext|>", "<table>", "<tool_call>", "[PAD700]", "<|im_start", "im_end|>",
            "< s>"]  # fmt: skip


def strings() -> list[str]:
    """About 450, NFC or not, without a literal </s>; always the same."""
    rng = random.Random(0)
    made = ["", *WORDS, *SPACES, *CONTROLS, *RUNS]
    made += [f"{space}{word}" for word, space in zip(WORDS, SPACES * 4, strict=False)]
    made += [f"{word}{space}" for word, space in zip(WORDS, SPACES[::-1] * 4, strict=False)]
    made += [f"hi{special}there" for special in SPECIALS] + [f"{s}{s}" for s in SPECIALS]
    made += [f" {special} \n" for special in SPECIALS]
    for _ in range(120):
        parts = rng.choices(WORDS, k=rng.randint(2, 12))
        made.append("".join(part + rng.choice([*SPACES[:12], "", "", " ", " "]) for part in parts))
    made.append("lone \ud800 surrogate \udfff".encode("utf-8", "replace").decode())
    return made


STRINGS = strings()


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A family's name, its tokenizer, and llama.cpp with a file made of it."""
    kind = request.param
    path = write_file(
        vocabulary_of(tokenizer(kind)), tmp_path_factory.mktemp("vocabularies") / f"{kind}.gguf"
    )
    with LlamaModel(path, n_threads=1) as model:
        yield kind, tokenizer(kind), model


def mixes_cases(string: str) -> bool:
    """What llama.cpp's versions of Tekken's and GPT-4o's regexes may split otherwise: combining marks, and letters
    beyond ASCII that have a case."""
    return any(
        unicodedata.category(c)[0] == "M"
        or (not c.isascii() and unicodedata.category(c) in {"Lu", "Ll", "Lt"})
        for c in string
    )


def comparable(kind: str) -> list[str]:
    """The strings whose ids must be the same for a kind."""
    if kind in {"tekken", "gpt-4o"}:
        return [s for s in STRINGS if not mixes_cases(s)]
    if (
        kind == "mistral-legacy"
    ):  # one space behind a special token or at the start is taken for the added one
        return [
            s
            for s in STRINGS
            if not s.startswith((" ", "▁")) and not any(f"{t} " in s for t in ("<s>", "<unk>"))
        ]
    if kind in {"tinyllama", "mistral"}:  # as in a chat, behind a special token
        return [f"<s>{s}" for s in STRINGS]
    return STRINGS


def test_there_are_a_few_hundred_strings() -> None:
    assert len(set(STRINGS)) > 350
    assert len(comparable("tekken")) > 250


def test_same_ids(pair: Any) -> None:
    kind, reference, model = pair
    wrong = [s for s in comparable(kind) if model.tokenize(s) != text.encode(reference, s)]
    assert wrong == []


def test_a_literal_end_token_in_text_is_known_to_differ(pair: Any) -> None:
    """llama.cpp takes any token spelled </s> for an end token, also where it is ordinary text."""
    kind, reference, model = pair
    ordinary = "</s>" in reference.get_vocab() and "</s>" not in reference.all_special_tokens
    same = model.tokenize("<s>a</s>b") == text.encode(reference, "<s>a</s>b")
    if (
        not ordinary or kind == "phi3" or kind == "gemma"
    ):  # there it is an added token, which both look for first
        assert same
    else:
        assert not same


def test_text_that_is_not_nfc(pair: Any) -> None:
    """Our chat normalizes for the vocabularies that want it; llama.cpp by itself does not."""
    kind, reference, model = pair
    string = "<s>e\u0301te\u0301 n\u0303"
    assert model.tokenize(string) == text.encode(reference, string) or kind in {"tekken", "gpt-4o"}
    model._nfc, normalizes = False, model._nfc
    try:
        alone = model.tokenize(string) == text.encode(reference, string)
    finally:
        model._nfc = normalizes
    assert normalizes == (kind == "qwen")
    assert not (normalizes and alone)


@pytest.mark.parametrize("kind", ["tekken", "gpt-4o"])
def test_cases_beyond_ascii_are_known_to_differ(kind: str, tmp_path: Path) -> None:
    with LlamaModel(write_file(vocabulary_of(tokenizer(kind)), tmp_path / "x.gguf"), n_threads=1) as model:
        differ = [s for s in STRINGS if model.tokenize(s) != text.encode(tokenizer(kind), s)]
    assert 0 < len(differ) < len(STRINGS) / 4
    assert all(mixes_cases(s) for s in differ)


@pytest.mark.parametrize(
    ("kind", "string", "alike"),
    [
        ("phi3", "<|user|>\u202fhi", "<|user|> \n\thi"),
        ("gemma", "x ▁▁", "x   "),
        ("mistral-legacy", "<s> hi", "<s>hi"),
    ],
)
def test_spaces_that_are_known_to_differ(kind: str, string: str, alike: str, tmp_path: Path) -> None:
    """Beyond ASCII behind Phi-3's special tokens; a literal ▁ beside a space in Gemma's text; and one space behind a
    special token where tokenizer.json adds one only if there is none."""
    reference = tokenizer(kind)
    with LlamaModel(write_file(vocabulary_of(reference), tmp_path / "x.gguf"), n_threads=1) as model:
        assert model.tokenize(string) != text.encode(reference, string)
        assert model.tokenize(alike) == text.encode(reference, alike)


U, A, S = ({"role": role} for role in ("user", "assistant", "system"))
CHATS = {
    "no system": [U | {"content": "How do I boil an egg?"}],
    "system": [S | {"content": "Be short."}, U | {"content": "Hi"}],
    "turns": [
        S | {"content": "Be kind."},
        U | {"content": "Hi"},
        A | {"content": "Yes?"},
        U | {"content": "Go on"},
    ],
    "empty system": [S | {"content": ""}, U | {"content": "Hi"}],
    "unicode": [U | {"content": "naïve 日本語 🙂👩‍👩‍👧 \u2028 \u00a0x <b>&amp;'\"</b>"}],
    "code": [U | {"content": "Fix:\n```python\ndef f(x):\n\treturn {{ x }} {% if %}\n```\n"}],
    "trailing": [U | {"content": "  a \n\n"}, A | {"content": " b \n"}, U | {"content": "\n\tc  "}],
    "long": [U | {"content": "The cat sees a house. " * 500}],
}


def rendered(reference: Any, chat: Any) -> str | None:
    try:
        return reference.apply_chat_template(copy.deepcopy(chat), tokenize=False, add_generation_prompt=True)
    except Exception:
        return None


def test_chats_render_the_same_and_become_the_same_ids(pair: Any) -> None:
    kind, reference, model = pair
    accepted = 0
    for name, chat in CHATS.items():
        expected = rendered(reference, chat)
        if expected is None:
            with pytest.raises(UserError):
                model.render(chat)
            continue
        accepted += 1
        found = model.render(chat)
        assert found == opening_space(reference) + expected, name
        assert model.tokenize(found) == text.encode(reference, expected), name
    assert accepted >= (5 if kind == "gemma" else 8)


def test_a_chat_that_begins_with_plain_text_begins_with_its_space() -> None:
    """Where the tokenizer puts a space before the first word only: llama.cpp cannot, so the template writes it."""
    assert opening_space(tokenizer("tinyllama")) == " "
    assert not any(opening_space(tokenizer(kind)) for kind in KINDS if kind != "tinyllama")


def test_every_end_token_ends_an_answer_and_no_other_word(pair: Any) -> None:
    _, reference, model = pair
    assert all(model.is_eog(token) for token in stops_of(reference))
    assert not any(model.is_eog(token) for token in text.encode(reference, "The cat sees 12345 houses"))


# What begins a chat of each family: whether other programs must put a BOS before a prompt.
BOS = {"llama2", "mistral", "mistral-legacy", "gemma", "llama3", "olmo2", "tekken"}


@pytest.mark.parametrize("kind", KINDS)
def test_bos_is_added_where_the_tuned_model_saw_one(kind: str) -> None:
    assert vocabulary_of(tokenizer(kind)).add_bos == (kind in BOS)


# transformers does not save the flag that makes the older reading.
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"mistral-legacy"}))
def test_a_model_folder_gives_the_same_vocabulary(kind: str, tmp_path: Path) -> None:
    """Read as an export reads it, by the class that transformers picks."""
    tokenizer(kind).save_pretrained(tmp_path)
    again = text.load_tokenizer(str(tmp_path), trust_remote_code=False, plain_template=False)
    assert vocabulary_of(again, stops_of(tokenizer(kind))) == vocabulary_of(tokenizer(kind))


def pieces(model: LlamaModel, string: str) -> bytes:
    return b"".join(model.piece(token) for token in model.tokenize(string))


def test_ids_become_the_text_again(pair: Any) -> None:
    kind, _, model = pair
    added = b" " if kind in {"llama2", "phi3", "mistral-legacy"} else b""
    for string in ("The cat  sees\n\n    12345 日本語 🙂", "\tx" + " " * 40 + "y"):
        assert pieces(model, string) == added + string.encode()


def test_spare_rows_are_unused_and_named_apart() -> None:
    vocabulary = vocabulary_of(tokenizer("qwen"), spare=5)
    assert vocabulary.types[-5:] == [5] * 5
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) == len(tokenizer("qwen")) + 5


def test_types_of_tokens() -> None:
    reference = tokenizer("gemma")
    vocabulary = vocabulary_of(reference)
    expected = {"<bos>": 3, "<unk>": 2, "<table>": 4, "<0x41>": 6, "\n\n": 4, "▁▁": 1, "▁": 1}
    assert {t: vocabulary.types[reference.convert_tokens_to_ids(t)] for t in expected} == expected


def test_an_added_token_of_spaces(tmp_path: Path) -> None:
    reference = copy.deepcopy(tokenizer("gemma"))
    reference.add_tokens([AddedToken("▁" * 5, normalized=True), AddedToken("▁so▁on", normalized=True)])
    with LlamaModel(write_file(vocabulary_of(reference), tmp_path / "x.gguf"), n_threads=1) as model:
        for string in ("x     y", "and so on", "     ", "x" + " " * 12 + "y"):
            assert model.tokenize(string) == text.encode(reference, string)
            assert pieces(model, string) == string.encode()


def with_ends(ends: list[str]) -> Any:
    reference = copy.deepcopy(tokenizer("olmo2"))
    reference.add_special_tokens({"additional_special_tokens": ends})
    return reference, frozenset(reference.convert_tokens_to_ids(["<|endoftext|>", *ends]))


def test_end_tokens_beyond_the_slots_are_known_by_their_text(tmp_path: Path) -> None:
    ends = ["<|eot_id|>", "<end_of_turn>", "<|halt|>", "<|eom_id|>", "<|stop|>"]
    reference, stops = with_ends(ends)
    path = write_file(vocabulary_of(reference, stops), tmp_path / "ends.gguf")
    with LlamaModel(path, n_threads=1) as model:
        assert all(model.is_eog(token) for token in stops)


def test_more_unknown_end_tokens_than_slots_are_refused() -> None:
    with pytest.raises(UserError, match="tokenizer") as caught:
        vocabulary_of(*with_ends(["<|halt|>", "<|stop|>", "<|rest|>"]))
    assert "<|rest|>" in caught.value.why


def test_all_end_tokens_are_listed_for_programs_that_read_a_list() -> None:
    reference = tokenizer("llama3")
    assert set(vocabulary_of(reference).stops) == stops_of(reference)


@pytest.mark.parametrize("name", ["phi3-tuned", "my-ModernBERT", "plain"])
@pytest.mark.parametrize("kind", ["qwen", "phi3"])
def test_a_name_that_llama_cpp_would_misread(kind: str, name: str, tmp_path: Path) -> None:
    reference = tokenizer(kind)
    with LlamaModel(write_file(vocabulary_of(reference), tmp_path / "x.gguf", name), n_threads=1) as model:
        string = "<|user|>\n  hi<|end|> \n"
        assert model.tokenize(string) == text.encode(reference, string)
        assert (model.name == name) == (name == "plain" and kind == "qwen")


def test_a_template_that_names_a_token_which_is_not_there(tmp_path: Path) -> None:
    reference = copy.deepcopy(tokenizer("qwen"))
    reference.chat_template = "{{ bos_token }}" + reference.chat_template
    with LlamaModel(write_file(vocabulary_of(reference), tmp_path / "x.gguf"), n_threads=1) as model:
        assert model.render(CHATS["system"]) == rendered(reference, CHATS["system"])


def test_one_of_several_templates(tmp_path: Path) -> None:
    reference = copy.deepcopy(tokenizer("qwen"))
    reference.chat_template = {"tool_use": "tools", "default": reference.chat_template}
    with LlamaModel(write_file(vocabulary_of(reference), tmp_path / "x.gguf"), n_threads=1) as model:
        assert model.render(CHATS["system"]) == rendered(tokenizer("qwen"), CHATS["system"])


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "words": ("gpt2", lambda s: s.update(pre_tokenizer={"type": "Whitespace"})),
    "lower case": ("gpt2", lambda s: s.update(normalizer={"type": "Lowercase"})),
    "another regex": ("qwen", lambda s: s["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+|\W+")),
    "matches cut out": ("qwen", lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed")),
    "whole words": ("qwen", lambda s: s["model"].update(ignore_merges=True)),
    "an opening space": ("gpt2", lambda s: s["pre_tokenizer"].update(add_prefix_space=True)),
    "groups of digits": ("smollm", lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False)),
    "words split at spaces": ("mistral", lambda s: s["pre_tokenizer"].update(split=True)),
    "NFKC before spaces": (
        "llama2", lambda s: s["normalizer"]["normalizers"].insert(0, {"type": "NFKC"})
    ),
    "no spaces at all": ("llama2", lambda s: s.update(normalizer=None)),
    "marked parts of words": ("gpt2", lambda s: s["model"].update(continuing_subword_prefix="##")),
    "tokens that swallow spaces": ("gpt2", lambda s: s["added_tokens"][0].update(lstrip=True, rstrip=True)),
    "only some that swallow spaces": ("phi3", lambda s: s["added_tokens"][-1].update(rstrip=False)),
    "tokens that are whole words": ("gpt2", lambda s: s["added_tokens"][0].update(single_word=True)),
    "tokens looked for late": ("llama2", lambda s: s["added_tokens"][0].update(normalized=True)),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_llama_cpp_cannot_do_is_refused(why: str) -> None:
    kind, change = REFUSED[why]
    spec = json.loads(tokenizer(kind).backend_tokenizer.to_str())  # type: ignore[attr-defined]
    kind_of(spec)
    change(spec)
    with pytest.raises(UserError, match="tokenizer") as caught:
        kind_of(spec)
    assert "Qwen" in caught.value.hint  # names what is supported
    assert caught.value.why


def test_another_model_is_refused() -> None:
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")), chat_template=text.CHATML
    )
    with pytest.raises(UserError, match="tokenizer"):
        vocabulary_of(words, frozenset({0}))


def test_more_tokens_than_rows() -> None:
    with pytest.raises(DataError, match="no row"):
        vocabulary_of(tokenizer("qwen"), spare=-1)


def test_two_tokens_of_one_text_are_refused() -> None:
    """llama.cpp would abort. Here an added token is spelled like the name of a spare row."""
    reference = copy.deepcopy(tokenizer("qwen"))
    reference.add_tokens([f"[PAD{len(reference) + 1}]"])
    with pytest.raises(DataError, match="duplicate"):
        vocabulary_of(reference)


def test_a_broken_template_is_met_at_export() -> None:
    reference = copy.deepcopy(tokenizer("qwen"))
    reference.chat_template = "{% for m in messages %}{{ m.content }}"
    with pytest.raises(DataError, match="template"):
        vocabulary_of(reference)


def test_a_hundred_thousand_tokens_take_a_second_or_two(tmp_path: Path) -> None:
    """Gemma has two and a half times as many."""
    singles = [chr(0x4E00 + i) for i in range(316)]
    vocabulary = {
        token: i for i, token in enumerate([*families.SPM_SPECIALS, *families.BYTES, "▁", *singles])
    }
    merges = []
    for first in singles:
        for second in singles:
            vocabulary[first + second] = len(vocabulary)
            merges.append((first, second))
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer, backend.decoder = normalizers.Replace(" ", "▁"), decoders.ByteFallback()
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in families.SPM_SPECIALS])
    reference = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=text.CHATML
    )
    began = time.process_time()
    path = write_file(read_vocabulary(reference, frozenset({2}), len(vocabulary)), tmp_path / "large.gguf")
    assert time.process_time() - began < 4
    with LlamaModel(path, n_threads=1) as model:
        string = singles[3] + singles[5] + singles[7] + " x"
        assert model.tokenize(string) == text.encode(reference, string)
