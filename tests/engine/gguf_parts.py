"""A GGUF file taken apart and put together again, and ways to damage one: for the fuzz test."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
EXTREMES = [
    0,
    1,
    2,
    3,
    7,
    31,
    33,
    255,
    2**15,
    2**16,
    10**9,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**60,
    2**63,
    2**64 - 1,
]
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 1.5|round(100000000, 'ceil') }}",
]
BOMBS = [
    "{{ 'a'*200000000 }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{% include '/etc/passwd' %}", "{{ 1 + 'a' }}", "{{ messages[9].content }}", "{% for %}", "{{" + "(" * 3000, "",
    "{{ 'x' * 1500000 }}", "\xff\xfe",
]  # fmt: skip


@dataclass
class Parts:
    """``settings``: key, type and value as bytes; ``tensors``: name, shape, type, offset."""

    settings: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    tensors: list[tuple[bytes, list[int], int, int]] = field(default_factory=list)
    weights: bytes = b""

    @classmethod
    def of(cls, raw: bytes) -> Parts:
        at = 8

        def take(count: int) -> bytes:
            nonlocal at
            at += count
            return raw[at - count : at]

        def number(form: str) -> int:
            return struct.unpack(form, take(struct.calcsize(form)))[0]

        def string() -> bytes:
            return take(number("<Q"))

        def value(kind: int) -> bytes:
            begin = at
            if kind == STRING:
                string()
            elif kind == ARRAY:
                inner, count = number("<I"), number("<Q")
                for _ in range(count):
                    value(inner)
            else:
                take(WIDTHS[kind])
            return raw[begin:at]

        n_tensors, n_settings = number("<Q"), number("<Q")
        parts = cls()
        for _ in range(n_settings):
            key, kind = string(), number("<I")
            parts.settings.append((key, kind, value(kind)))
        for _ in range(n_tensors):
            name, axes = string(), number("<I")
            shape = [number("<Q") for _ in range(axes)]
            parts.tensors.append((name, shape, number("<I"), number("<Q")))
        parts.weights = raw[-(-at // 32) * 32 :]
        return parts

    def bytes(self) -> bytes:
        out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.settings)))
        for key, kind, value in self.settings:
            out += text(key) + struct.pack("<I", kind) + value
        for name, shape, kind, offset in self.tensors:
            out += text(name) + struct.pack("<I", len(shape)) + b"".join(u64(n) for n in shape)
            out += struct.pack("<I", kind & 0xFFFFFFFF) + u64(offset)
        return bytes(out + b"\0" * (-len(out) % 32) + self.weights)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number & (2**64 - 1))


def text(content: bytes) -> bytes:
    return u64(len(content)) + content


def strings(value: bytes) -> list[bytes]:
    """The texts of an array of strings."""
    count, at, found = struct.unpack_from("<Q", value, 4)[0], 12, []
    for _ in range(count):
        size = struct.unpack_from("<Q", value, at)[0]
        found.append(value[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def array(contents: list[bytes]) -> bytes:
    return struct.pack("<I", STRING) + u64(len(contents)) + b"".join(text(c) for c in contents)


Damage = Callable[[bytes, random.Random], bytes]


def truncated(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.choice([rng.randrange(len(raw)), rng.randrange(5000), len(raw) - rng.randrange(1, 64)])]


def lengthened(raw: bytes, rng: random.Random) -> bytes:
    return raw + rng.randbytes(rng.randrange(1, 100))


def foreign(raw: bytes, rng: random.Random) -> bytes:
    begin = rng.choice(
        [b"", b"\x7fELF", b"PK\3\4", b"ggml", b"ggjt", b"FUGG", b"GGUF", b"GGUF\3\0\0\0", b"GGU"]
    )
    return begin + rng.randbytes(rng.choice([0, 1, 16, 500, 20_000]))


def header_bytes(raw: bytes, rng: random.Random) -> bytes:
    return _spoiled(raw, rng, len(raw) - len(Parts.of(raw).weights))


def any_bytes(raw: bytes, rng: random.Random) -> bytes:
    return _spoiled(raw, rng, len(raw))


def _spoiled(raw: bytes, rng: random.Random, within: int) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.randrange(1, 33)):
        out[rng.randrange(4, within)] = rng.randrange(256)
    return bytes(out)


def counts(raw: bytes, rng: random.Random) -> bytes:
    """A count or a length in the header's bytes that is too large by far."""
    out = bytearray(raw)
    at = rng.choice([8, 16, rng.randrange(8, 3000)])
    out[at : at + 8] = u64(rng.choice(EXTREMES))
    return bytes(out)


def moved(raw: bytes, rng: random.Random) -> bytes:
    """A piece of the file in another place."""
    size = rng.randrange(1, 4000)
    out, source, target = bytearray(raw), rng.randrange(len(raw) - size), rng.randrange(4, len(raw) - size)
    out[target : target + size] = raw[source : source + size]
    return bytes(out)


def setting(raw: bytes, rng: random.Random) -> bytes:
    """A setting that cannot be, is missing, is there twice, or is of another type."""
    parts = Parts.of(raw)
    i = rng.randrange(len(parts.settings))
    key, kind, value = parts.settings[i]
    how = rng.random()
    if how < 0.15:
        del parts.settings[i]
    elif how < 0.25:
        parts.settings.append(parts.settings[i])
    elif how < 0.35:
        parts.settings[i] = key, rng.choice([0, 4, 6, 7, 10, 13, 99]), value
    elif how < 0.45:
        parts.settings.append((b"llama.made_up", STRING, text(b"x" * rng.choice([0, 10, 10**6]))))
    elif kind in WIDTHS:
        number = rng.choice(
            [*map(u64, EXTREMES), *(struct.pack("<d", f) for f in (-1.0, 1e300, float("nan")))]
        )
        if kind == 6:
            number = struct.pack("<f", rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-30]))
        parts.settings[i] = key, kind, number[: WIDTHS[kind]]
    elif kind == STRING:
        words = [
            b"",
            b"\0",
            b"\xff\xfe",
            b"../../etc/passwd",
            b"phi-3",
            b"\x1b[2J",
            b"a" * 10**6,
            b"gemma3",
            b"bert",
        ]
        parts.settings[i] = key, kind, text(rng.choice(words))
    else:
        inner = rng.choice([0, 4, 6, 8, 9, 12, 50])
        parts.settings[i] = key, kind, struct.pack("<I", inner) + u64(rng.choice(EXTREMES)) + value[12:]
    return parts.bytes()


def shape_setting(raw: bytes, rng: random.Random) -> bytes:
    """One of the numbers that say how large the model is."""
    parts = Parts.of(raw)
    named = [
        i for i, (k, kind, _) in enumerate(parts.settings) if kind in WIDTHS and not k.startswith(b"tok")
    ]
    i = rng.choice(named)
    key, kind, _ = parts.settings[i]
    parts.settings[i] = key, kind, u64(rng.choice([*EXTREMES, rng.randrange(600)]))[: WIDTHS[kind]]
    return parts.bytes()


def vocabulary(raw: bytes, rng: random.Random) -> bytes:
    parts = Parts.of(raw)
    named = [i for i, (k, kind, _) in enumerate(parts.settings) if kind == ARRAY and k.startswith(b"tok")]
    i = rng.choice(named)
    key, kind, value = parts.settings[i]
    if value[:4] == struct.pack("<I", STRING):
        found = strings(value)
        at = rng.randrange(len(found))
        how = rng.randrange(6)
        if how == 0:
            found[at] = rng.choice(found)
        elif how == 1:
            found[at] = rng.choice([b"", b"\0", b"\xff", b" ", b"a b c", b"x" * 10**6, b"<0xZZ>"])
        elif how == 2:
            del found[rng.randrange(len(found)) :]
        elif how == 3:
            found.extend(b"more%d" % n for n in range(rng.choice([1, 50_000])))
        elif how == 4:
            rng.shuffle(found)
        else:
            found = [b"same"] * len(found)
        parts.settings[i] = key, kind, array(found)
    else:
        width = WIDTHS[value[0]]
        count = (len(value) - 12) // width
        some = rng.choice([0, 1, count // 2, count])
        fill = rng.choice([b"\0", b"\xff", rng.randbytes(1)])
        parts.settings[i] = key, kind, value[:4] + u64(some) + fill * (width * some)
    return parts.bytes()


def tensors(raw: bytes, rng: random.Random) -> bytes:
    """Names, shapes, types and offsets of tensors."""
    parts = Parts.of(raw)
    i = rng.randrange(len(parts.tensors))
    name, shape, kind, offset = parts.tensors[i]
    match rng.randrange(6):
        case 0:
            names = [
                b"",
                b"../../../etc/passwd",
                b"/dev/zero",
                b"n" * 64,
                b"n" * 10**5,
                b"\0",
                parts.tensors[0][0],
            ]
            name = rng.choice(names)
        case 1:
            shape = [rng.choice([*EXTREMES, *shape]) for _ in range(rng.choice([0, 1, 2, 3, 4, 5, 100]))]
        case 2:
            kind = rng.choice([0, 1, 2, 4, 5, 8, 12, 14, 16, 24, 30, 39, 99, 2**31, 2**32 - 1])
        case 3:
            offset = rng.choice([*EXTREMES, offset + 1, offset + 32, len(parts.weights), -32])
        case 4:
            shape = shape[::-1]
        case _:
            del parts.tensors[i]
            return parts.bytes()
    parts.tensors[i] = name, shape, kind, offset
    return parts.bytes()


def weights(raw: bytes, rng: random.Random) -> bytes:
    """Not a number, infinite, nothing, or noise."""
    size = rng.choice([2, 64, 4096, 100_000])
    out, at = bytearray(raw), len(raw) - rng.randrange(size, max(size + 1, len(Parts.of(raw).weights)))
    fill = rng.choice([b"\xff\xff", b"\x00\x7c", b"\0\0", rng.randbytes(2)])
    out[at : at + size] = fill * (size // 2)
    return bytes(out)


def template(raw: bytes, rng: random.Random) -> bytes:
    parts = Parts.of(raw)
    key = b"tokenizer.chat_template"
    source = rng.choice(BOMBS if rng.random() < 0.95 else ENDLESS)  # these take seconds each
    parts.settings = [s for s in parts.settings if s[0] != key]
    parts.settings.append((key, STRING, text(source.encode("latin-1"))))
    return parts.bytes()


DAMAGES: tuple[Damage, ...] = (
    truncated, lengthened, foreign, header_bytes, any_bytes, counts, moved, setting, shape_setting, vocabulary, tensors,
    weights, template,
)  # fmt: skip
