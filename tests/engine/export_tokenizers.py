"""Small tokenizers built as each family builds its own, their chat templates, and files that hold them for llama.cpp.

Trained here on a few sentences of several scripts, so that merges across letters, marks, spaces and digits exist and a
wrong split shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from rlhf_lite.engine.export.vocab import Vocabulary, read_vocabulary

TEXTS = [
    "The cat sees a house, it's 12345 times 67.89 as big as WE'LL ever be; don't you think?\n\n",
    "naïve café Ünïcödé ÉCOLE école Straße, Привет мир привет МИР, Καλημέρα κόσμε ΚΑΛΗΜΕΡΑ\n",
    "日本語と中文、한국어 안녕하세요。हिन्दी नमस्ते दुनिया ภาษาไทย สวัสดี\n",
    "مرحبا بالعالم שלום עולם e\u0301te\u0301 n\u0303 a\u0308 Å\n",
    "🙂🙂 👩‍👩‍👧‍👦 🏳️‍🌈 ½ ² Ⅷ ① ٣٤٥ १२३\n",
    "def f(x, y=None):\n        return x + y  # ok\n\n\nclass A:\n\tpass\r\n",
    "    if (a == b) { c += 1; }\n    <p class='x'>text</p> https://example.org/?q=a%20b&c=1#d\n",
] * 4
BYTES = [f"<0x{i:02X}>" for i in range(256)]
# The regexes as the models publish them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(regex: str, behavior: str = "isolated", *, invert: bool = False) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior, invert),  # type: ignore[arg-type]
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_level(pre: Any, *, whole_words: bool = False, nfc: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    # Words that no merge makes: a tokenizer that takes whole words finds them, another never does.
    tokenizer.add_tokens([])
    spec = json.loads(tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    for word in ("Ġelephants", "Ġunmerged", "ĠÐ¼Ð¾ÑģÐºÐ²Ð°"):
        vocabulary[word] = len(vocabulary)
    if not whole_words:
        vocabulary["</s>"] = len(vocabulary)  # ordinary text, as in Qwen's vocabulary
        spec["model"]["merges"] += [["<", "/"], ["</", "s"], ["</s", ">"]]
        for piece in ("</", "</s"):
            vocabulary.setdefault(piece, len(vocabulary))
    return Tokenizer.from_str(json.dumps(spec))


@cache
def _pieces(specials: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A SentencePiece-like vocabulary: every way to make a piece of two others is a merge, ranked by the piece."""
    scratch = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    scratch.train_from_iterator(
        ["▁" + word for line in TEXTS for word in line.replace("\n", " ").split(" ")], trainer
    )
    vocabulary = {content: i for i, content in enumerate([*specials, *BYTES])}
    spec = json.loads(scratch.to_str())["model"]
    made = (
        ["".join(pair) for pair in spec["merges"]]
        + ["▁" * n for n in (16, 8, 4, 3, 2)]
        + ["\t\t", "\n\n", "\n\n\n"]
    )
    single = [piece for piece in spec["vocab"] if len(piece) == 1] + ["\t", "\n"]
    for piece in [*made, *single]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [
        (piece[:i], piece[i:])
        for piece in dict.fromkeys(made)
        for i in range(1, len(piece))
        if piece[:i] in vocabulary and piece[i:] in vocabulary
    ]
    return vocabulary, merges


def _sentencepiece(
    specials: tuple[str, ...], pre: Any, normalizer: Any, added: Iterable[AddedToken]
) -> Tokenizer:
    vocabulary, merges = _pieces(specials)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre, normalizer
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def _wrap(tokenizer: Tokenizer, template: str, specials: Iterable[str] = (), **named: Any) -> Any:
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **named)


# Templates of the shape that each family publishes, without their tools.
LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system is not false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR_TEMPLATE = (  # TinyLlama: no BOS, and its turns begin with plain text
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] "
    "+ eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
    "{% else %}\n{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
PHI3_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and m['content'] %}{{'<|system|>\n' + m['content']"
    " + '<|end|>\n'}}"
    "{% elif m['role'] == 'user' %}{{'<|user|>\n' + m['content'] + '<|end|>\n'}}{% elif m['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + m['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n{{- 'Today Date: ' + strftime_now('%Y') + '\\n\\n' }}\n"
    "{{- system }}\n{{- '<|eot_id|>' }}\n{%- for m in messages %}\n"
    "    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'+ m['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
    "{%- endif %}\n"
)
QWEN_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + "
    "'<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n"
    "{%- endif %}\n{%- for message in messages %}\n    {%- if message.role == 'user' or (message.role == 'system' and "
    "not loop.first) %}\n        {{- '<|im_start|>' + message.role"
    " + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- elif message.role == 'assistant' %}\n        {%- set content = message.content.split('</think>')[-1]"
    ".lstrip('\\n') %}\n        {{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}\n    {%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
SMOLLM3_TEMPLATE = (  # the answer's place is marked for transformers
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' }}{%- if m['role'] == 'assistant' -%}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{%- endgeneration -%}{%- else -%}"
    "{{ m['content'] + '<|im_end|>' }}"
    "{%- endif -%}{{ '\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
GRANITE_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set system = 'Knowledge Cutoff Date: April 2024.' %}{%- set rest = messages %}{%- endif %}"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}{%- for m in rest %}"
    "{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}"
    "{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
    "{%- endfor %}"
)
OLMO2_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] != 'assistant' %}{{ '<|' + m['role'] + '|>\n'"
    " + m['content'] "
    "+ '\n' }}{% elif not loop.last %}{{ '<|assistant|>\n'  + m['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n'  + m['content'] + eos_token }}{% endif %}{% if loop.last and add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
TEKKEN_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] %}\n    {%- set rest = "
    "messages[1:] %}\n{%- else %}\n    {%- set rest = messages %}\n{%- endif %}\n\n{{- bos_token }}\n"
    "{%- for m in rest %}\n"
    "    {%- if m['role'] == 'user' %}\n        {%- if loop.last and system is defined %}\n"
    "            {{- '[INST]' + system + '\\n\\n' + m['content'] + '[/INST]' }}\n        {%- else %}\n"
    "            {{- '[INST]' + m['content'] + '[/INST]' }}\n        {%- endif %}\n    {%- else %}\n"
    "        {{- m['content'] + eos_token }}\n    {%- endif %}\n{%- endfor %}\n"
)
FLAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nYou are SmolLM."
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SPM_SPECIALS = ("<unk>", "<s>", "</s>")
GEMMA_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
GEMMA_PLAIN = ("\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<table>", "</s>")


def _plain(content: str, **flags: bool) -> AddedToken:
    return AddedToken(content, normalized=False, **{"special": True, **flags})


def _llama2() -> Any:
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = _sentencepiece(SPM_SPECIALS, None, normalizer, map(_plain, SPM_SPECIALS))
    return _wrap(tokenizer, LLAMA2_TEMPLATE, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _llama_class(template: str, **options: Any) -> Any:
    """What transformers makes of Llama 2's and Mistral's files, whatever they say of spaces."""
    vocabulary, merges = _pieces(SPM_SPECIALS)
    return LlamaTokenizer(vocab=vocabulary, merges=list(merges), chat_template=template, **options)


def _phi3() -> Any:
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    turns = ("<|assistant|>", "<|system|>", "<|user|>", "<|end|>")
    added = [
        _plain("<unk>"),
        _plain("<s>"),
        _plain("</s>", rstrip=True, special=False),
        _plain("<|endoftext|>"),
    ]
    tokenizer = _sentencepiece(
        SPM_SPECIALS, None, normalizer, [*added, *(_plain(turn, rstrip=True) for turn in turns)]
    )
    names = {
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }
    return _wrap(tokenizer, PHI3_TEMPLATE, **names)


def _gemma() -> Any:
    vocabulary, merges = _pieces((*GEMMA_SPECIALS, "<table>", "</s>"))
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=list(merges), chat_template=GEMMA_TEMPLATE)
    tokenizer.add_tokens([_plain(content, special=False) for content in GEMMA_PLAIN])
    tokenizer.add_tokens([_plain(content) for content in GEMMA_SPECIALS[4:]], special_tokens=True)
    return tokenizer


def _qwen() -> Any:
    made = json.loads(_byte_level(_split(LLAMA3.replace("{1,3}", "")), nfc=True).to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=made["vocab"],
        merges=[tuple(pair) for pair in made["merges"]],
        chat_template=QWEN_TEMPLATE,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.add_tokens([_plain("<|im_start|>")], special_tokens=True)
    tokenizer.add_tokens([_plain("<tool_call>", special=False), _plain("</think>", special=False)])
    return tokenizer


def _digits() -> Any:
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return _byte_level(pre_tokenizers.Sequence(parts))


TURNS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
HEADERS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
KINDS: dict[str, Callable[[], Any]] = {
    "llama2": _llama2,
    "tinyllama": lambda: _llama_class(ZEPHYR_TEMPLATE),
    "mistral": lambda: _llama_class(LLAMA2_TEMPLATE),
    "mistral-legacy": lambda: _llama_class(LLAMA2_TEMPLATE, legacy=True),
    "phi3": _phi3,
    "gemma": _gemma,
    "qwen": _qwen,
    "llama3": lambda: _wrap(
        _byte_level(_split(LLAMA3), whole_words=True), LLAMA3_TEMPLATE, HEADERS,
        bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
    ),
    "smollm3": lambda: _wrap(
        _byte_level(_split(LLAMA3), whole_words=True), SMOLLM3_TEMPLATE, TURNS, eos_token="<|im_end|>"
    ),
    "smollm": lambda: _wrap(
        _digits(), CHATML_TEMPLATE, TURNS, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    ),
    "granite": lambda: _wrap(
        _digits(), GRANITE_TEMPLATE, ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        bos_token="<|end_of_text|>", eos_token="<|end_of_text|>",
    ),
    "olmo2": lambda: _wrap(
        _byte_level(_split(LLAMA3, "removed", invert=True)), OLMO2_TEMPLATE, ("<|endoftext|>", "<|pad|>"),
        bos_token="<|endoftext|>", eos_token="<|endoftext|>",
    ),
    "tekken": lambda: _wrap(
        _byte_level(_split(TEKKEN), whole_words=True), TEKKEN_TEMPLATE, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    ),
    "gpt-4o": lambda: _wrap(
        _byte_level(_split(GPT4O)), FLAT_TEMPLATE, ("<|endoftext|>", "<|end|>", *ROLES), eos_token="<|endoftext|>"
    ),
    "gpt2": lambda: _wrap(
        _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), FLAT_TEMPLATE,
        ("<|endoftext|>", "<|end|>", *ROLES), bos_token="<|endoftext|>", eos_token="<|endoftext|>",
    ),
}  # fmt: skip


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    return KINDS[kind]()


ENDS = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<end_of_turn>",
}


def stops_of(tokenizer: Any) -> frozenset[int]:
    """The end tokens that a family's generation config names: those of its tokenizer that end a turn or a text."""
    added = tokenizer.get_added_vocab()
    return frozenset({tokenizer.eos_token_id, *(added[text] for text in ENDS & added.keys())})


def write_file(vocabulary: Vocabulary, path: Path, name: str = "test") -> Path:
    """A model of one layer that computes nothing, with this vocabulary."""
    width, rows = 8, len(vocabulary.tokens)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(vocabulary.model_name(name))
    for add, value in (
        (writer.add_block_count, 1), (writer.add_context_length, 64), (writer.add_embedding_length, width),
        (writer.add_feed_forward_length, width), (writer.add_head_count, 1), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_dimension_count, width), (writer.add_vocab_size, rows),
    ):  # fmt: skip
        add(value)
    vocabulary.write(writer)
    matrix, vector = np.zeros((width, width), np.float32), np.ones(width, np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((rows, width), np.float32))
    writer.add_tensor("output_norm.weight", vector)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{part}.weight", matrix)
    for part in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{part}.weight", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary_of(tokenizer: Any, stops: frozenset[int] | None = None, spare: int = 7) -> Vocabulary:
    """With a few more rows than tokens, as published models have."""
    return read_vocabulary(tokenizer, stops or stops_of(tokenizer), len(tokenizer) + spare)
