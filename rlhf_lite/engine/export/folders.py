"""The tuned model as a folder for transformers and whatever reads the same files; the adapter alone as one for PEFT.

The merged weights are written tensor by tensor, rounded once from fp32: to bf16 where the base is published in bf16,
whose range its activations may need, else to F16. Configs and tokenizer are the base's own files, so that they say
what they said. Safetensors is a header of names, shapes and offsets, and the numbers behind it; its own writer wants
a whole shard in memory.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rlhf_lite import base_model
from rlhf_lite.engine import text
from rlhf_lite.engine.base import pick_device
from rlhf_lite.engine.export import Report
from rlhf_lite.engine.export.lora import write_lora
from rlhf_lite.engine.export.merge import LoraAdapter, MergedWeights, read_json
from rlhf_lite.engine.export.vocab import added_tokens, opening_space
from rlhf_lite.engine.export.worker import Specials
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.exports import ADAPTER_FILE

SHARD = 4 * 10**9  # bytes of a file at most, unless one tensor is larger
_NAMES = {torch.float16: ("F16", "float16"), torch.bfloat16: ("BF16", "bfloat16")}
_SMALL_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
                "chat_template*", "generation_config.json")  # fmt: skip


def stored_dtype(config: dict[str, Any]) -> torch.dtype:
    """The 16-bit type that merged weights are written in."""
    published = config.get("dtype") or config.get("torch_dtype")
    return torch.bfloat16 if published == "bfloat16" else torch.float16


def generation_config(model: Path) -> dict[str, Any]:
    """How the base's authors would sample; empty where they do not say."""
    path = model / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def write_merged(
    weights: MergedWeights, model: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, report: Report
) -> None:
    """Make ``folder``: sharded safetensors, config, generation config, tokenizer and chat template.

    Raises DataError where a value is not finite or beyond the type's range, OSError where the disk is full.
    """
    folder.mkdir()
    config = read_json(model / "config.json")
    dtype = stored_dtype(config)
    config["dtype"] = _NAMES[dtype][1]
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _copy_small_files(model, tokenizer, folder)
    shards = _shards(weights.shapes)
    of = {name: i for i, shard in enumerate(shards) for name in shard}
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        for i in range(len(shards))
    ]
    if len(shards) > 1:
        total = sum(2 * math.prod(shape) for shape in weights.shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": {name: names[i] for name, i in of.items()}}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )
    done = 0
    for shard, file_name in zip(shards, names, strict=True):
        with (folder / file_name).open("wb") as file:
            _write_header(file, shard, weights.shapes, _NAMES[dtype][0])
            for name in shard:
                report("merge", done, len(of))
                for block in weights.blocks(name):
                    file.write(_rounded(block, dtype, name))
                done += 1
    report("merge", done, len(of))


def write_adapter(
    adapter: Path, model: Path, base: str, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str
) -> None:
    """Make ``folder``: the adapter as PEFT reads it, the tokenizer that it was trained with, and the same adapter
    as GGUF, where the architecture has one. ``base``: what the base is called.

    Raises DataError (damaged, or of another base), UserError (no LoRA).
    """
    lora = LoraAdapter.load(adapter)
    folder.mkdir()
    config = read_json(adapter / "adapter_config.json")
    config["base_model_name_or_path"] = base if base_model.is_hub_id(base) else str(model)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    _copy_small_files(model, tokenizer, folder)
    raw = read_json(model / "config.json")
    with suppress(UserError):  # PEFT takes more architectures than GGUF
        write_lora(lora, raw, folder / ADAPTER_FILE, name)


class LoadedFolder:
    """A merged folder as anybody would load it, with the calls of the worker that a GGUF file is compared by."""

    def __init__(self, folder: Path) -> None:
        device = pick_device()  # a CPU is slow and coarse at 16-bit arithmetic
        dtype: Any = torch.float32 if device.type == "cpu" else "auto"
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, device_map={"": device}
        ).eval()
        self._tokenizer = text.load_tokenizer(str(folder), trust_remote_code=False, plain_template=False)
        self._stops = text.stop_ids(str(folder), self._tokenizer)
        self._space = opening_space(
            self._tokenizer
        )  # which a GGUF's template writes, and this tokenizer itself

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [text.encode(self._tokenizer, one.removeprefix(self._space)) for one in texts]

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        return self._space + text.render(self._tokenizer, messages)

    def ends(self, tokens: Sequence[int]) -> bool:
        return all(token in self._stops for token in tokens)

    def specials(self) -> Specials:
        eos: Any = self._tokenizer.eos_token_id
        return Specials(added_tokens(self._tokenizer), eos)

    @torch.no_grad()
    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        inputs = torch.tensor([list(ids)], device=self._model.device)
        found = self._model.generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=False, repetition_penalty=1.0,
            max_new_tokens=max_tokens, pad_token_id=text.pad_id(self._tokenizer, self._stops),
        )  # fmt: skip
        return found[0, len(ids) :].tolist()

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Any:
        """(T, V) float32."""
        return (
            self._model(torch.tensor([list(ids)], device=self._model.device)).logits[0].float().cpu().numpy()
        )


def _copy_small_files(model: Path, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for pattern in _SMALL_FILES:
        for file in model.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    if not AutoTokenizer.from_pretrained(str(folder)).chat_template:  # trained with a plain one in its stead
        (folder / "chat_template.jinja").write_text(str(tokenizer.chat_template), encoding="utf-8")


def _shards(shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Tensor names by file, in the base's order."""
    shards: list[list[str]] = [[]]
    room = SHARD
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD
        shards[-1].append(name)
        room -= size
    return shards


def _write_header(
    file: BinaryIO, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], kind: str
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        end = begin + 2 * math.prod(shapes[name])
        header[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [begin, end]}
        begin = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # the numbers begin at a multiple of 8
    file.write(len(raw).to_bytes(8, "little"))
    file.write(raw)


def _rounded(block: torch.Tensor, dtype: torch.dtype, name: str) -> memoryview:
    rounded = block.to(dtype)
    if not torch.isfinite(rounded).all():
        raise DataError(f"{name} does not fit into 16-bit floats", why="a value of it is beyond their range")
    return rounded.contiguous().view(torch.uint8).numpy().data
