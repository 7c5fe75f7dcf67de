"""A model's shape, by the numbers of its ``config.json``: which matrices it has, what is beside them, what it caches.

One row of :data:`FAMILIES` says how an architecture differs from Llama, as transformers builds it; a model of another
kind is refused. Gemma 3 from 4 B on can see: its config nests the language model's, and the part that sees is loaded,
quantized and given adapters like the rest, so it is counted too. Left out: mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rlhf_lite.errors import DataError

Count = Annotated[int, msgspec.Meta(gt=0)]
Matrix = tuple[int, int]
"""Inputs and outputs of a linear layer."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What sets an architecture apart from Llama.

    ``defaults`` is what its config may leave out; with ``qkv_bias`` query, key and value have biases whatever it says,
    and without ``biases`` it cannot ask for any.
    """

    fused: bool = False
    """Query, key and value are one matrix, gate and up another."""
    biases: bool = True
    qkv_bias: bool = False
    block_norms: int = 2
    head_norms: Literal["none", "a head", "all heads"] = "none"
    """What the norms of queries and keys span."""
    rotaries: int = 1
    """How many rotary embeddings it may have: layers that see a window only may turn at another pace."""
    scaled_embedding: bool = False
    """Embeddings are multiplied by a number that is kept as a tensor."""
    writes_scores: bool = False
    """Its attention holds all scores at once, which the others never do."""
    windows: bool = False
    """Most of its layers see a window only, for which a mask is made."""
    defaults: Mapping[str, Any] = {}


_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(biases=False),
    "qwen2": Family(biases=False, qkv_bias=True),
    "qwen3": Family(head_norms="a head", defaults={"head_dim": 128}),
    "gemma2": Family(block_norms=4, scaled_embedding=True, writes_scores=True, defaults=_GEMMA),
    "gemma3_text": Family(
        block_norms=4, head_norms="a head", rotaries=2, scaled_embedding=True, windows=True,
        defaults={**_GEMMA, "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
                  "max_position_embeddings": 131072},
    ),
    "phi3": Family(fused=True, biases=False),
    "smollm3": Family(defaults={"tie_word_embeddings": True}),
    "granite": Family(),
    "olmo2": Family(head_norms="all heads"),
}  # fmt: skip
_NESTED = {"gemma3": "gemma3_text"}  # its language model's config is in text_config


class Vision(msgspec.Struct, frozen=True):
    """The part of a model that sees (SigLIP), by its ``vision_config``."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    image_size: Count
    patch_size: Count
    num_channels: Count = 3
    vision_use_head: bool = True

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def block(self) -> list[Matrix]:
        d, f = self.hidden_size, self.intermediate_size
        return [(d, d), (d, d), (d, d), (d, d), (d, f), (f, d)]

    def other_parameters(self, text_width: int) -> int:
        """Patch and position embeddings, norms, biases, and what leads over to the language model."""
        d = self.hidden_size
        patches = self.num_channels * self.patch_size**2 * d + d + self.patches * d
        layers = self.num_hidden_layers * (2 * 2 * d + 5 * d + self.intermediate_size)
        return patches + layers + 2 * d + d * text_width + d


class Model(msgspec.Struct, frozen=True):
    """A decoder-only transformer."""

    id: str
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    context: int
    attention_bias: bool = False
    mlp_bias: bool = False
    rotary_share: float = 1.0
    rotaries: int = 1
    vision: Vision | None = None

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def block(self) -> list[Matrix]:
        """The linear layers of one block."""
        d, f, q, kv = self.hidden_size, self.intermediate_size, self.q_width, self.kv_width
        if self.family.fused:
            return [(d, q + 2 * kv), (q, d), (d, 2 * f), (f, d)]
        return [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]

    @property
    def linears(self) -> list[tuple[int, Matrix]]:
        """Every linear layer but the output layer, with how many there are of it: what is quantized, and what adapters
        are put on."""
        seeing = [(self.vision.num_hidden_layers, m) for m in self.vision.block] if self.vision else []
        return [*((self.layers, m) for m in self.block), *seeing]

    @property
    def linear_parameters(self) -> int:
        return sum(n * i * o for n, (i, o) in self.linears)

    @property
    def other_parameters(self) -> int:
        """Embeddings, output layer, norms and biases: what is never quantized."""
        d = self.hidden_size
        embeddings = (1 if self.tied else 2) * self.vocab_size * d
        seeing = self.vision.other_parameters(d) if self.vision else 0
        return embeddings + d + self.layers * (self._norms + self._biases) + seeing

    @property
    def _norms(self) -> int:
        spans = {"none": 0, "a head": 2 * self.head_dim, "all heads": self.q_width + self.kv_width}
        return self.family.block_norms * self.hidden_size + spans[self.family.head_norms]

    @property
    def _biases(self) -> int:
        qkv, d = self.q_width + 2 * self.kv_width, self.hidden_size
        if not self.family.biases:
            return qkv if self.family.qkv_bias else 0
        return (qkv + d if self.attention_bias else 0) + (
            2 * self.intermediate_size + d if self.mlp_bias else 0
        )

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters

    @property
    def table_bytes(self) -> int:
        """Small tensors that are no parameters: rotary frequencies, each kept twice in fp32, and the like."""
        rotary = self.rotaries * 2 * 4 * -(-int(self.head_dim * self.rotary_share) // 2)
        return rotary + 4 * self.family.scaled_embedding + (8 * self.vision.patches if self.vision else 0)

    def lora_parameters(self, rank: int) -> int:
        """Parameters of one LoRA on every linear layer."""
        return rank * sum(n * (i + o) for n, (i, o) in self.linears)


class _Config(msgspec.Struct, frozen=True):
    """The keys of a ``config.json`` that a shape is made of, by Hugging Face's names."""

    model_type: str
    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    max_position_embeddings: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    partial_rotary_factor: float | None = None
    rope_parameters: dict[str, Any] | None = None
    sliding_window_pattern: int = 6
    layer_types: list[str] | None = None


class _Nesting(msgspec.Struct, frozen=True):
    """A config that holds others."""

    text_config: dict[str, Any] = {}
    vision_config: Vision | None = None


def read(folder: Path, name: str) -> Model:
    """A model by its folder's ``config.json``.

    Raises:
        DataError: the file is missing, damaged, or of another kind of model.
    """
    path = folder / "config.json"
    try:
        raw: Any = msgspec.json.decode(path.read_bytes())
        return of_config(raw, name)
    except OSError as error:
        raise DataError(
            f"{folder} holds no model", why="its config.json cannot be read", hint="name another folder"
        ) from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(
            f"{path} cannot be planned with", why=str(error),
            hint="it wants a decoder-only model in Hugging Face format",
        ) from error  # fmt: skip


def of_config(raw: Any, name: str) -> Model:
    """A model by what its ``config.json`` holds.

    Raises:
        DataError: its architecture is not among :data:`FAMILIES`.
        msgspec.ValidationError: a key is missing or of another type.
    """
    top = msgspec.convert(raw, dict[str, Any])
    kind, seeing = str(top.get("model_type") or "without a model_type"), None
    if kind in _NESTED:
        nesting = msgspec.convert(top, _Nesting)
        top, seeing = {**top, **nesting.text_config, "model_type": _NESTED[kind]}, nesting.vision_config
    elif kind not in FAMILIES:
        raise DataError(
            f"{name} cannot be planned with", why=f"nothing is known here of the architecture {kind}",
            hint=f"known: {', '.join([*FAMILIES, *_NESTED])}",
        )  # fmt: skip
    if seeing and seeing.vision_use_head:
        raise msgspec.ValidationError("its vision_config asks for a head, which Gemma 3 has not")
    family = FAMILIES[top["model_type"]]
    config = msgspec.convert({**family.defaults, **top}, _Config)
    heads, rope = config.num_attention_heads, config.rope_parameters or {}
    # Every sixth layer of Gemma 3 sees the whole text, and a model of fewer layers has none that does.
    kinds = len(set(config.layer_types or ())) or 1 + (
        config.num_hidden_layers >= config.sliding_window_pattern
    )
    return Model(
        id=name, architecture=config.model_type, vocab_size=config.vocab_size, hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size, layers=config.num_hidden_layers, heads=heads,
        kv_heads=config.num_key_value_heads or heads, head_dim=config.head_dim or config.hidden_size // heads,
        tied=config.tie_word_embeddings, context=config.max_position_embeddings,
        attention_bias=config.attention_bias, mlp_bias=config.mlp_bias,
        rotary_share=rope.get("partial_rotary_factor") or config.partial_rotary_factor or 1.0,
        rotaries=min(kinds, family.rotaries), vision=seeing,
    )  # fmt: skip
