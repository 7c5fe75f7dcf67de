"""How soon does a chat answer, and how fast, beside llama-cpp-python itself on the same file?

    OMP_NUM_THREADS=1 python benchmarks/chatting.py [ROUNDS]

Ours is the chat session as the app uses it: a child process asked over its pipe, timed by its parent. Beside it bare
llama-cpp-python (see ``peers/llama_chat.py``), timed inside its own process: ``create_chat_completion``, streamed, and
``Llama.generate``, which makes no text. All by turns on the same conversation, with as many threads, at temperature 1
from the whole vocabulary. A conversation is asked twice: first with a prompt that none has seen, then with one more
turn behind the answer. The files: the built-in model, and a random Llama of 104 M parameters with 32,000 tokens, which
hardly ever stops.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("peers")))

import page
import torch
from llama_batch import write_gguf
from record import Record
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lite import paths
from rlhf_lite.engine.llama import default_threads, quantize_file
from rlhf_lite.jobs import Session, child_environment

TOKENS = 64
WORDS = ("how", "do", "you", "boil", "an", "egg", "in", "cold", "water", "with", "salt", "and", "sugar")
Q4_K_M = 15
BARE = ("completion", "generate")
RANDOM = LlamaConfig(
    vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
    num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
Messages = list[dict[str, str]]
Times = dict[str, float]


def random_model(folder: Path) -> Path:
    """The built-in model's tokenizer, with merges enough for all of its tokens to be text."""
    torch.manual_seed(0)
    LlamaForCausalLM(RANDOM).save_pretrained(folder)
    for file in paths.demo_model().glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for file in paths.demo_model().glob("*.jinja"):
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    vocabulary, merges = found["model"]["vocab"], found["model"]["merges"]
    words = [token for token in vocabulary if token.isascii() and token.isalpha()]
    free = iter(range(max(vocabulary.values()) + 1, RANDOM.vocab_size or 0))
    for pair in itertools.product(words, words):
        if "".join(pair) not in vocabulary:
            if (number := next(free, None)) is None:
                break
            vocabulary["".join(pair)] = number
            merges.append(list(pair) if isinstance(merges[0], list) else " ".join(pair))
    path.write_text(json.dumps(found))
    return folder


class Ours:
    def __init__(self, file: Path) -> None:
        self._session = Session("chat", str(file))
        self.context: int = self._session.receive()["context"]

    def ask(self, messages: Messages, tokens: int, seed: int) -> tuple[Times, dict[str, Any]]:
        """The times, and what "done" said, with the answer as "text"."""
        began, first, text = time.perf_counter(), 0.0, ""
        self._session.send(type="chat", messages=messages, max_tokens=tokens, temperature=1.0, seed=seed)
        while (reply := self._session.receive())["type"] == "token":
            first = first or time.perf_counter() - began
            text += reply["text"]
        seconds = time.perf_counter() - began
        return times(first, seconds, reply["tokens"]), {**reply, "text": text}

    def close(self) -> None:
        self._session.close()


class Bare:
    def __init__(self, file: Path, context: int) -> None:
        script = Path(__file__).parent / "peers" / "llama_chat.py"
        self._child = subprocess.Popen(
            [sys.executable, str(script), str(file), str(context), str(default_threads())], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=child_environment(),
            start_new_session=True,  # as ours: Linux gives each session its own share of a busy machine
        )  # fmt: skip

    def ask(self, how: str, messages: Messages, tokens: int, seed: int, prompt_tokens: int) -> Times:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        asked = {"how": how, "messages": messages, "max_tokens": tokens, "seed": seed}
        print(json.dumps({**asked, "prompt_tokens": prompt_tokens}), file=self._child.stdin, flush=True)
        return times(**json.loads(self._child.stdout.readline()))

    def close(self) -> None:
        self._child.communicate()


def times(first: float, seconds: float, tokens: int) -> Times:
    assert 0 < tokens <= TOKENS, tokens
    return {"first": first, "later": seconds - first, "tokens": tokens}


def rate(answers: Sequence[Times]) -> float:
    """Tokens a second behind the first, over all answers that are long enough to tell: the first text of a short one
    may come with its last token."""
    long = [a for a in answers if a["tokens"] >= TOKENS // 4]
    return sum(a["tokens"] - 1 for a in long) / sum(a["later"] for a in long) if long else 0.0


def conversation(words: int, number: int) -> Messages:
    """No two begin alike, so that no cache holds anything of another."""
    dice = random.Random(number)
    said = dice.choices(WORDS, k=words)
    return [{"role": "user", "content": f"{number} {' '.join(said)}?"}]


def round_of(ours: Ours, bare: Bare, words: int, number: int) -> dict[str, tuple[Times, Times]]:
    """Each one's first and second turn. Who begins changes from round to round."""
    opened = conversation(words, number)
    _, done = ours.ask(opened, TOKENS, number)  # what all of them are asked for the second time
    follow = [*opened, {"role": "assistant", "content": done["text"]}, {"role": "user", "content": "Why?"}]
    _, more = ours.ask(follow, TOKENS, number)
    prompts = (done["prompt_tokens"], more["prompt_tokens"])
    found: dict[str, tuple[Times, Times]] = {}
    names = ["ours", *BARE]
    for name in names[number % 3 :] + names[: number % 3]:
        if name == "ours":
            ours.ask(conversation(5, -number - 1), 1, 0)  # forgets the prompt
            found[name] = ours.ask(opened, TOKENS, number)[0], ours.ask(follow, TOKENS, number)[0]
        else:
            bare.ask(name, conversation(5, -number - 1), 1, 0, 0)
            asked = zip((opened, follow), prompts, strict=True)
            first, second = (bare.ask(name, m, TOKENS, number, n) for m, n in asked)
            found[name] = first, second
    return found


def measured(file: Path, words: int, rounds: int) -> dict[str, Any]:
    """Seconds to the first token of a new prompt and of a second turn, tokens a second, and ours over each."""
    ours = Ours(file)
    bare = Bare(file, ours.context)
    round_of(ours, bare, 20, 0)
    found = [round_of(ours, bare, words, number) for number in range(1, rounds + 1)]
    prompt = ours.ask(conversation(words, 1), 1, 0)[1]["prompt_tokens"]
    ours.close()
    bare.close()
    row: dict[str, Any] = {"prompt": prompt, "rounds": rounds}
    for name in ("ours", *BARE):
        row[f"{name}: s to first"] = statistics.median(f[name][0]["first"] for f in found)
        row[f"{name}: s, second turn"] = statistics.median(f[name][1]["first"] for f in found)
        row[f"{name}: tokens/s"] = rate([turn for f in found for turn in f[name]])
    for name in BARE:
        row[f"s to first, ratio to {name}"] = spread(
            [f["ours"][0]["first"] / f[name][0]["first"] for f in found]
        )
        bare_rate = row[f"{name}: tokens/s"]
        row[f"tokens/s, ratio to {name}"] = row["ours: tokens/s"] / bare_rate if bare_rate else None
    row["second turn sooner by"] = spread([f["ours"][0]["first"] / f["ours"][1]["first"] for f in found])
    return row


def spread(values: Sequence[float]) -> list[float]:
    """Median, least, most."""
    return [statistics.median(values), min(values), max(values)]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    kept = Record("chatting")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built_in = write_gguf(paths.demo_model(), "32bit", folder / "built-in.gguf")
        f16 = write_gguf(random_model(folder / "random"), "32bit", folder / "f16.gguf")
        q4 = folder / "q4.gguf"
        quantize_file(f16, q4, Q4_K_M, default_threads())
        files = {"built-in F16": (built_in, 200), "104 M F16": (f16, 500), "104 M Q4_K_M": (q4, 500)}
        files |= {"104 M Q4_K_M, 2,000 tokens": (q4, 1975)}
        for name, (file, words) in files.items():
            if not kept.has(file=name):
                kept.add({"file": name}, **measured(file, words, rounds))
    print(page.tables(kept.rows))


if __name__ == "__main__":
    main()
