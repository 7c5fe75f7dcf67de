"""What an export left, as whoever uses it needs it: the commands for the programs that read it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMATS: tuple[str, ...] = ("gguf", "safetensors", "adapter")
ADAPTER_FILE = "adapter.gguf"  # in the folder of an adapter: llama.cpp's form of it


def ollama_name(path: Path) -> str:
    """What Ollama is to call a file: its name in the letters that Ollama allows."""
    return re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "model"


def commands(values: Mapping[str, Any]) -> list[str]:
    """The commands that use an export elsewhere, ready to be pasted; ``values`` is the contract's JSON."""
    path = Path(str(values.get("path", "")))
    if values.get("format") == "safetensors":
        return [shlex.join(["vllm", "serve", str(path)])]
    if values.get("format") == "adapter":
        file = path / ADAPTER_FILE
        return [f"llama-server -m BASE.gguf --lora {shlex.quote(str(file))}"] if file.is_file() else []
    context = ["-c", str(values["context"])] if values.get("context") else []
    return [
        shlex.join(["ollama", "create", ollama_name(path), "-f", str(path.with_name("Modelfile"))]),
        shlex.join(["llama-server", "-m", str(path), *context, "--jinja"]),
    ]
