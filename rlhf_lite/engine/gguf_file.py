"""What a GGUF file says of itself, read in Python before llama.cpp sees it.

llama.cpp aborts the whole process on some damaged files; what is checked here becomes an error instead. Every count,
length and offset is held against the file's own size before anything of that size is read, and a header has a largest
size, so that no claim costs memory.

Source: the GGUF specification, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Left out:
big-endian files, and whether tensors and settings suit an architecture, which is llama.cpp's own to say.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rlhf_lite.errors import DataError, UserError

HINT = "the file is damaged, or made to do harm: export or download it again"
MAX_HEADER = 2**26  # bytes; a vocabulary of 262,144 tokens with its merges takes 15 million
MAX_NAME = 63  # bytes; ggml keeps names in 64
MAX_BLOCKS = 512  # layers; llama.cpp has arrays of as many
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8",
            12: "<f8"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class Tensor:
    """``shape`` as the file has it, the rows' length first. ``offset`` is from where the tensors begin."""

    shape: tuple[int, ...]
    bytes: int
    offset: int


@dataclass(frozen=True)
class Header:
    """``settings``: numbers, strings as bytes, arrays of numbers, lists of bytes. ``tensors`` by name."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    def number(self, key: str, otherwise: int = 0) -> int:
        """A whole number of the file's architecture; the largest of an array, which has one for each layer."""
        architecture = self.settings.get("general.architecture", b"").decode("utf-8", "replace")
        found = self.settings.get(f"{architecture}.{key}")
        if isinstance(found, np.ndarray) and found.size:
            found = found.max().item()
        return found if isinstance(found, int) else otherwise


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises:
        UserError: no such file.
        DataError: not a GGUF file, or one whose header cannot be true.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", hint="give the path of a .gguf file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise DataError(f"{path.name} is not a GGUF file", why="it does not begin with the letters GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            try:
                return _Reader(raw).header()
            except ValueError as error:
                raise DataError(f"cannot load {path.name}", why=str(error), hint=HINT) from error


class _Reader:
    """Reads on from ``at``; raises ValueError, saying why, where something cannot be."""

    def __init__(self, raw: mmap.mmap) -> None:
        self.raw, self.size, self.at = raw, min(len(raw), MAX_HEADER), 4

    def header(self) -> Header:
        version = self.u32()
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}; 2 and 3 can be read")
        n_tensors, n_settings = self.u64(), self.u64()
        settings: dict[str, Any] = {}
        for _ in range(n_settings):
            key = self.text()
            if key in settings:
                raise ValueError(f"it has the setting {_shown(key)} twice")
            settings[key] = self.value(self.u32())
        tensors: dict[str, Tensor] = {}
        for _ in range(n_tensors):
            name = self.text()
            if name in tensors or not 0 < len(name.encode()) <= MAX_NAME:
                raise ValueError(f"a tensor's name is too long or given twice: {_shown(name)}")
            tensors[name] = self.tensor(name)
        found = Header(settings, tensors)
        self.check_layout(found)
        _check_settings(found)
        return found

    def take(self, count: int) -> int:
        """Go on by so many bytes; returns where they begin."""
        at, self.at = self.at, self.at + count
        if self.at > self.size:
            raise ValueError(
                f"it ends in the middle of its header, or claims more than it has ({count} bytes)"
            )
        return at

    def u32(self) -> int:
        return _U32.unpack_from(self.raw, self.take(4))[0]

    def u64(self) -> int:
        return _U64.unpack_from(self.raw, self.take(8))[0]

    def string(self) -> bytes:
        size = self.u64()
        at = self.take(size)
        return self.raw[at : at + size]

    def text(self) -> str:
        return self.string().decode("utf-8", "replace")

    def strings(self, count: int) -> list[bytes]:
        """Written out, as a vocabulary has hundreds of thousands of them."""
        raw, at, size, unpack = self.raw, self.at, self.size, _U64.unpack_from
        found: list[bytes] = []
        if count > (size - at) // 8:
            raise ValueError(f"it claims {count} strings, more than it has room for")
        for _ in range(count):
            begin = at + 8
            if begin > size or (at := begin + unpack(raw, at)[0]) > size:
                raise ValueError("a string reaches beyond its end")
            found.append(raw[begin:at])
        self.at = at
        return found

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.u32(), self.u64()
            if kind == _STRING:
                return self.strings(count)
            return self.numbers(kind, count)
        return self.numbers(kind, 1)[0].item()

    def numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _NUMBERS:
            raise ValueError(f"a setting is of the unknown type {kind}")
        form = np.dtype(_NUMBERS[kind])
        at = self.take(count * form.itemsize)
        return np.frombuffer(self.raw[at : self.at], form)

    def tensor(self, name: str) -> Tensor:
        axes = self.u32()
        if not 1 <= axes <= 4:
            raise ValueError(f"the tensor {_shown(name)} has {axes} axes")
        shape = tuple(self.u64() for _ in range(axes))
        kind, offset = self.u32(), self.u64()
        try:
            block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        except (KeyError, ValueError):
            raise ValueError(f"the tensor {_shown(name)} is of the unknown type {kind}") from None
        if 0 in shape or shape[0] % block:
            raise ValueError(f"the tensor {_shown(name)} cannot be of the shape {list(shape)}")
        return Tensor(shape, math.prod(shape) // block * size, offset)

    def check_layout(self, found: Header) -> None:
        """Every tensor lies inside the file, where its alignment allows."""
        align = found.settings.get("general.alignment", 32)
        if not isinstance(align, int) or align <= 0 or align & (align - 1):
            raise ValueError(f"its tensors cannot be aligned to {align} bytes")
        begin = -(-self.at // align) * align
        for name, tensor in found.tensors.items():
            if tensor.offset % align or begin + tensor.offset + tensor.bytes > len(self.raw):
                raise ValueError(f"the tensor {_shown(name)} does not lie within the file: it was cut off")


def _check_settings(found: Header) -> None:
    """What is known to abort llama.cpp."""
    blocks = found.number("block_count")
    if found.tensors and not 0 < blocks <= MAX_BLOCKS:
        raise ValueError(f"it claims {blocks} layers")
    for key, value in found.settings.items():
        if key.endswith("_epsilon") and not (isinstance(value, float) and 0 <= value < math.inf):
            raise ValueError(f"the setting {_shown(key)} cannot be {str(value)[:40]}")
    tokens = found.settings.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and (twice := _repeated(tokens)) is not None:
        raise ValueError(f"its vocabulary has the token {_shown(twice.decode('utf-8', 'replace'))} twice")


def _repeated(tokens: Sequence[bytes]) -> bytes | None:
    if len(set(tokens)) == len(tokens):
        return None
    seen: set[bytes] = set()
    return next(t for t in tokens if t in seen or seen.add(t))


def _shown(text: str) -> str:
    """Short, and without what would move a terminal's cursor: a stranger wrote it."""
    return ascii(text[:40])
