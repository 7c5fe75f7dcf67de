"""Where a model's files lie on this machine, told without a network: a folder, or the Hugging Face cache."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf_lite import base_model, catalog, shapes
from rlhf_lite.errors import RlhfLiteError, UserError
from rlhf_lite.shapes import Model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def find(model: str) -> Path | None:
    """The folder with all that loading ``"demo"``, a folder or a hub id takes; None where a download has to come
    first, or to go on.

    Raises:
        ToolMissing: the built-in model is not part of this installation.
    """
    folder = Path(base_model.location(model))
    if folder.is_dir():
        return folder
    config = _cached(model, "config.json")
    whole = config and any(_cached(model, name) for name in TOKENIZERS) and _has_weights(model)
    return config.parent if config and whole else None


def shape(model: str) -> Model | None:
    """A model's shape by its files here, or as the catalogue knows it; None where nobody can tell it yet."""
    folder = find(model)
    try:
        return shapes.read(folder, model) if folder else catalog.find_model(model)
    except RlhfLiteError:  # of a kind or a size that nobody knows here
        return None


def on_disk(model: str) -> bool:
    """Whether a model can be loaded without a download; takes milliseconds after the first call."""
    return find(model) is not None


def require(model: str, command: str) -> Path:
    """Like :func:`find`; ``command`` is the one that downloads.

    Raises:
        UserError: it is not on this machine.
    """
    folder = find(model)
    if folder is None:
        raise UserError(
            f"{model} is not on this machine yet", why="no whole copy of it is in the Hugging Face cache",
            hint=f"download it: {command}",
        )  # fmt: skip
    return folder


def _has_weights(model: str) -> bool:
    index = _cached(model, INDEX)
    if not index:
        return _cached(model, WEIGHTS) is not None
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return False
    return all(_cached(model, str(shard)) for shard in shards)


def _cached(model: str, name: str) -> Path | None:
    """A file of the newest revision that the cache knows."""
    from huggingface_hub import try_to_load_from_cache  # a tenth of a second: not for --help
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, name)
    except HFValidationError:  # a folder that is gone
        return None
    return Path(found) if isinstance(found, str) else None
