"""Damaged, foreign and hostile GGUF files: an error, never a death of whoever asked, never a hang."""

from __future__ import annotations

import random
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gguf_parts
import pytest
from export_models import tiny_gguf
from gguf_parts import BOMBS, DAMAGES, ENDLESS, STRING, Damage, Parts, array, strings, u64

from rlhf_lite.engine.gguf_file import read_header
from rlhf_lite.errors import DataError, JobDied, RlhfLiteError, UserError
from rlhf_lite.jobs import Session, child_environment

KINDS = ("llama", "llama-sentencepiece", "qwen2", "qwen3")
PATIENCE = 60  # seconds for a file on a busy machine; most take milliseconds
QUESTION = {"role": "user", "content": "The cat sees a house?"}


class Reader:
    """One child over many files, another where it dies."""

    def __init__(self) -> None:
        self.deaths = 0
        self._spawn()

    def _spawn(self) -> None:
        script = Path(__file__).with_name("chat_with_files.py")
        self._child = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=child_environment(), text=True,
        )  # fmt: skip
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._asks, self._says = self._child.stdin, self._child.stdout

    def read(self, path: Path) -> str:
        """What came of a file: "answered", an error's class, "died" with its signal, or "hung"."""
        self._asks.write(f"{path}\n")
        self._asks.flush()
        heard = select.select([self._says], [], [], PATIENCE)[0]
        line = self._says.readline() if heard else ""
        if not line:
            outcome = f"died of {-self.close()}" if heard else "hung"
            self.close()
            self._spawn()
            self.deaths += 1
            return outcome
        return line.partition(":")[0].split()[0]

    def close(self) -> int:
        """Its exit code; its own where it died."""
        try:
            return self._child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    found = Reader()
    yield found
    found.close()


def outcomes(reader: Reader, numbers: range, folder: Path) -> Counter[tuple[str, str]]:
    """Damage a file for each number, and have it read."""
    whole = [tiny_gguf(kind).read_bytes() for kind in KINDS]
    found: Counter[tuple[str, str]] = Counter()
    for number in numbers:
        rng, damage = random.Random(number), DAMAGES[number % len(DAMAGES)]
        path = folder / f"{number}.gguf"  # another file each time: the last is still mapped
        path.write_bytes(damage(rng.choice(whole), rng))
        found[damage.__name__, reader.read(path)] += 1
        path.unlink()
    return found


def check(found: Counter[tuple[str, str]], most_deaths: float) -> None:
    """``most_deaths``: this share of all may kill the child, which is told as an error; templates aside."""
    assert not [key for key in found if key[1] == "hung"]
    known = {c.__name__ for c in RlhfLiteError.__subclasses__()} | {"answered", "OutOfMemory"}
    died = {key: n for key, n in found.items() if key[1].startswith("died")}
    assert {said for _, said in found} - known == {said for _, said in died}
    assert sum(n for key, n in died.items() if key[0] != "template") <= most_deaths * found.total()
    for damage in ("truncated", "foreign"):
        assert {said for name, said in found if name == damage} == {"DataError"}


def test_a_sample_of_damaged_files(reader: Reader, tmp_path: Path) -> None:
    numbers = range(8 * len(DAMAGES))
    started = time.monotonic()
    check(outcomes(reader, numbers, tmp_path), most_deaths=0.03)
    assert time.monotonic() - started < 4 * PATIENCE
    (tmp_path / "whole.gguf").write_bytes(tiny_gguf("llama").read_bytes())
    assert reader.read(tmp_path / "whole.gguf") == "answered"


@pytest.mark.long
def test_thousands_of_damaged_files(reader: Reader, tmp_path: Path) -> None:
    found = outcomes(reader, range(1000, 1000 + 200 * len(DAMAGES)), tmp_path)
    for (damage, said), count in sorted(found.items()):
        print(f"{damage:<16}{said:<14}{count:>6}")
    check(found, most_deaths=0.01)
    (tmp_path / "whole.gguf").write_bytes(tiny_gguf("llama").read_bytes())
    assert reader.read(tmp_path / "whole.gguf") == "answered"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_taken_apart_and_put_together_is_the_same(kind: str) -> None:
    raw = tiny_gguf(kind).read_bytes()
    assert Parts.of(raw).bytes() == raw


def test_the_header_is_what_the_gguf_package_reads() -> None:
    import gguf

    header, theirs = read_header(tiny_gguf("qwen2")), gguf.GGUFReader(tiny_gguf("qwen2"))
    assert {n: (t.shape, t.bytes) for n, t in header.tensors.items()} == {
        t.name: (tuple(t.shape), t.n_bytes) for t in theirs.tensors
    }
    assert header.number("block_count") == theirs.fields["qwen2.block_count"].contents()
    tokens = [t.decode() for t in header.settings["tokenizer.ggml.tokens"]]
    assert tokens == theirs.fields["tokenizer.ggml.tokens"].contents()


def changed(kind: str, key: bytes, value: bytes) -> bytes:
    parts = Parts.of(tiny_gguf(kind).read_bytes())
    (at,) = (i for i, s in enumerate(parts.settings) if s[0] == key)
    parts.settings[at] = (key, parts.settings[at][1], value)
    return parts.bytes()


def with_tensor(**change: object) -> bytes:
    parts = Parts.of(tiny_gguf("llama").read_bytes())
    fields = dict(zip(("name", "shape", "kind", "offset"), parts.tensors[3], strict=True)) | change
    parts.tensors[3] = tuple(fields.values())  # type: ignore[assignment]
    return parts.bytes()


def duplicated() -> bytes:
    parts = Parts.of(tiny_gguf("llama").read_bytes())
    tokens = next(strings(v) for k, _, v in parts.settings if k == b"tokenizer.ggml.tokens")
    return changed("llama", b"tokenizer.ggml.tokens", array([*tokens[:-1], tokens[5]]))


HUGE = struct.pack("<I", STRING) + u64(2**60)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (lambda: b"GGUF\3\0\0\0" + u64(2**60) + u64(2**60), "ends in the middle"),
        (lambda: b"GGUF\3\0\0\0" + u64(0) + u64(1) + u64(2**62), "claims more than it has"),
        (lambda: b"GGUF\0\0\0\3" + u64(0) + u64(0), "version"),
        (lambda: changed("llama", b"llama.block_count", u64(10**9)[:4]), "1000000000 layers"),
        (lambda: changed("llama", b"llama.block_count", u64(0)[:4]), "0 layers"),
        (lambda: changed("llama", b"tokenizer.ggml.tokens", HUGE), "more than it has room for"),
        (duplicated, "twice"),
        (lambda: with_tensor(offset=2**63), "does not lie within the file"),
        (lambda: with_tensor(offset=1), "does not lie within the file"),
        (lambda: with_tensor(shape=[2**32, 2**32]), "does not lie within the file"),
        (lambda: with_tensor(shape=[0, 4]), "cannot be of the shape"),
        (lambda: with_tensor(shape=[1] * 5), "5 axes"),
        (lambda: with_tensor(kind=99), "unknown type 99"),
        (lambda: with_tensor(name=b"../" * 30), "too long"),
        (lambda: tiny_gguf("llama").read_bytes()[:-1], "cut off"),
    ],
)
def test_what_the_header_claims_is_checked(raw: object, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(raw())  # type: ignore[operator]
    with pytest.raises(DataError, match="cannot load") as caught:
        read_header(tmp_path / "x.gguf")
    assert why in caught.value.why
    assert "damaged" in caught.value.hint


def test_a_names_tricks_stay_in_the_name(tmp_path: Path) -> None:
    name = "../../\x1b[2Jpasswd\x07" + "x" * 500
    raw = changed("llama", b"general.name", u64(len(name)) + name.encode())
    (tmp_path / "x.gguf").write_bytes(raw)
    with Session("chat", str(tmp_path / "x.gguf")) as session:
        told = session.receive()["name"]
    assert told == ("../../[2Jpasswd" + "x" * 500)[:100]


def ask(path: Path) -> str:
    """One answer's text, as the app asks for it."""
    with Session("chat", str(path)) as session:
        session.receive()
        session.send(type="chat", messages=[QUESTION], max_tokens=4, temperature=0)
        said = ""
        while (reply := session.receive())["type"] == "token":
            said += reply["text"]
    return said


def test_a_file_that_kills_its_reader_is_an_error_and_the_next_file_works(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(changed("qwen3", b"qwen3.rope.dimension_count", u64(2)[:4]))
    with pytest.raises(JobDied, match="ended the process") as caught:
        ask(tmp_path / "x.gguf")
    assert "SIGABRT" in caught.value.why
    assert "damaged" in caught.value.hint
    assert ask(tiny_gguf("qwen3"))


def with_template(source: str, path: Path) -> Path:
    parts = Parts.of(tiny_gguf("llama").read_bytes())
    parts.settings = [s for s in parts.settings if s[0] != b"tokenizer.chat_template"]
    parts.settings.append((b"tokenizer.chat_template", STRING, gguf_parts.text(source.encode("latin-1"))))
    path.write_bytes(parts.bytes())
    return path


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_is_a_bomb_is_an_error(bomb: str, tmp_path: Path, reader: Reader) -> None:
    assert reader.read(with_template(bomb, tmp_path / "x.gguf")) in ("UserError", "DataError", "answered")


def test_a_template_without_end_is_ended_and_told(tmp_path: Path) -> None:
    path = with_template(ENDLESS[0], tmp_path / "x.gguf")
    with pytest.raises(JobDied) as caught:
        ask(path)
    assert "template does not come to an end" in caught.value.why


def test_an_error_of_one_request_leaves_the_session(tmp_path: Path) -> None:
    path = with_template("{{ messages[1].content }}<s>", tmp_path / "x.gguf")
    with Session("chat", str(path)) as session:
        session.receive()
        session.send(type="chat", messages=[QUESTION], max_tokens=1)
        with pytest.raises(UserError, match="template refuses"):
            session.receive()
        session.send(type="chat", messages=[QUESTION, QUESTION], max_tokens=1, temperature=0)
        while session.receive()["type"] != "done":
            pass


def test_every_damage_damages() -> None:
    raw = tiny_gguf("qwen2").read_bytes()

    def hits(damage: Damage) -> int:
        return sum(damage(raw, random.Random(n)) != raw for n in range(30))

    assert {d.__name__: hits(d) for d in DAMAGES if hits(d) < 20} == {}
