"""Whether a model can be the base of a project, as far as its files tell without loading it; whether a file is GGUF."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from rlhf_lite import catalog, paths
from rlhf_lite.errors import DataError, ToolMissing, UserError

DEMO = "demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def location(model: str) -> str:
    """What the engine loads: the folder of ``"demo"``, else the folder or hub id itself.

    Raises:
        ToolMissing: the built-in model is not part of this installation.
    """
    if model != DEMO:
        return model
    if not (paths.demo_model() / "config.json").is_file():
        raise ToolMissing(
            "the built-in demo model is missing",
            why=f"{paths.demo_model()} holds no model",
            hint="install rlhf-lite again",
        )
    return str(paths.demo_model())


def is_hub_id(model: str) -> bool:
    """Whether a model is named as ``org/name`` of a model hub, and not by a folder."""
    return _HUB_ID.fullmatch(model) is not None


def check(model: str, *, trust_remote_code: bool, plain_template: bool) -> str:
    """Check ``"demo"``, a folder or a hub id; returns it as ``project.toml`` keeps it. A hub id is looked at no
    closer: what it holds shows when it is downloaded.

    Raises:
        UserError: neither a folder nor an id; it wants remote code or a chat template that were not allowed.
        DataError: the folder holds no model that can be used.
    """
    if model == DEMO:
        location(model)
        return model
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_folder(folder, trust_remote_code=trust_remote_code, plain_template=plain_template)
        return str(folder.resolve())
    if folder.is_file():
        raise UserError(
            f"{model} is a file", why="a base model is a folder with config.json, tokenizer and safetensors",
            hint="name its folder (a GGUF file can be chatted with, not trained)",
        )  # fmt: skip
    if not is_hub_id(model):
        known = [DEMO, *(m.id for m in catalog.MODELS)]
        near = difflib.get_close_matches(model, known, 3, cutoff=0.4)
        near = near or [i for i in known if model.lower() in i.lower()][:3]
        hint = f"did you mean {' or '.join(near)}?" if near else "see `rlhf-lite models`, or name a folder"
        raise UserError(f"no model {model}", why="it is no folder, and no org/name of a model hub", hint=hint)
    return model


def _check_folder(folder: Path, *, trust_remote_code: bool, plain_template: bool) -> None:
    config = _json(folder / "config.json")
    if config is None:
        raise DataError(
            f"{folder} holds no model",
            why="it has no config.json",
            hint="name a folder in Hugging Face format",
        )
    _check_weights(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise DataError(
            f"{folder} has no tokenizer", why="it lacks tokenizer.json",
            hint="copy the tokenizer files of the model it was made from into the folder",
        )  # fmt: skip
    tokenizer = _json(folder / "tokenizer_config.json") or {}
    if (config.get("auto_map") or tokenizer.get("auto_map")) and not trust_remote_code:
        raise UserError(
            f"{folder} wants to run its own code",
            why="its config has an auto_map: Python files that came with the model",
            hint="read them first; then add --trust-remote-code",
        )  # fmt: skip
    has_template = bool(tokenizer.get("chat_template")) or (folder / "chat_template.jinja").is_file()
    if not has_template and not plain_template:
        raise UserError(
            f"{folder} has no chat template", why="nothing says how it writes a conversation (a base model, perhaps)",
            hint="add --plain-template to use ChatML",
        )  # fmt: skip


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = [p.name for pattern in _PICKLES for p in folder.glob(pattern)]
    if pickles:
        raise DataError(
            f"{folder} holds pickled weights only ({pickles[0]})", why="loading a pickle runs whatever code is inside",
            hint="get the model's safetensors, or convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)",
        )  # fmt: skip
    raise DataError(
        f"{folder} holds no weights", why="it has no *.safetensors", hint="finish the download or copy"
    )


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), hint="get the file again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read", why="it is not a JSON object", hint="get the file again")
    return found  # pyright: ignore[reportUnknownVariableType]


def check_gguf(path: Path) -> None:
    """Raise UserError or DataError where an exported model is none."""
    if not path.is_file():
        raise UserError(f"{path} does not exist", hint="name a .gguf file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise DataError(
                f"{path} is not a GGUF file", why="it does not begin with GGUF", hint="export it again"
            )
