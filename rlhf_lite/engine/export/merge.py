"""The tuned model's weights, one tensor at a time: the base exactly as it was trained on, plus B·A·scale in fp32.

An adapter is trained on a *quantized* base, so it is merged into that: each matrix is quantized to NF4 and back
by bitsandbytes, which reproduces what the training process held. Requantizing the sum would keep about 2 % of a
small update, and merging into the original 16-bit weights moves them by many times the update
(Dettmers et al. 2023, QLoRA, for the quantization; the figures are measured).

Left out: DoRA, modules_to_save, trained biases and initialisations that change the base (PiSSA, OLoRA, LoftQ).
They are refused, not ignored. Nothing is loaded but safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rlhf_lite.errors import DataError, UserError

_PREFIX = "base_model.model."
_UNQUANTIZED = ("embed_tokens.weight", "lm_head.weight")
_CHANGED_BASE = ("pissa", "olora", "loftq", "corda")
_BLOCK = 2**24  # values of a tensor in memory at a time, where it can be taken apart


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``. Raises DataError where it is missing or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", why=f"looked in {path.parent}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"cannot read {path.name}", why=str(error), hint=f"look at {path}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is not a JSON object", hint=f"look at {path}")
    return value


def text_name(name: str) -> str | None:
    """A tensor's name where the language model is the whole model; None for one of the part that sees."""
    seeing = ("vision_tower.", "multi_modal_projector.")
    return None if name.removeprefix("model.").startswith(seeing) else name.replace("language_model.", "")


class SafetensorsFolder:
    """The tensors of a model folder, from one safetensors file or the shards its index names; read when asked.

    ``shapes`` has those of the language model, by the names they have where it is the whole model.
    """

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, str]] = {}  # name -> file, name in the file
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self._paths(folder):
            try:
                with safe_open(path, framework="pt", device="cpu") as file:
                    for stored in file.keys():  # noqa: SIM118  (not a dict)
                        if name := text_name(stored):
                            self._places[name] = path, stored
                            self.shapes[name] = tuple(file.get_slice(stored).get_shape())
            except (SafetensorError, OSError) as error:
                raise DataError(
                    f"cannot read {path.name}", why=str(error), hint="download the model again"
                ) from error

    @staticmethod
    def _paths(folder: Path) -> list[Path]:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            names = set(read_json(index).get("weight_map", {}).values())
            if any(Path(name).name != name for name in names):
                raise DataError(
                    f"{index.name} names files outside its folder", hint="download the model again"
                )
            return sorted(folder / name for name in names)
        if (folder / "model.safetensors").is_file():
            return [folder / "model.safetensors"]
        raise DataError(
            f"no safetensors weights in {folder}",
            why="other formats hold pickled code, which is never loaded",
            hint="use a model that is published as safetensors",
        )

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of one tensor as stored. The file is opened anew, so that no page of it stays in memory."""
        path, stored = self._places[name]
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.get_slice(stored)[start:stop]


@dataclass(frozen=True)
class LoraAdapter:
    """A PEFT LoRA: ``pairs`` maps a base tensor's name to (A (r, in), B (out, r)), both fp32."""

    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def load(cls, folder: Path) -> LoraAdapter:
        """Read a PEFT adapter folder. Raises DataError (damaged), UserError (a kind that cannot be merged)."""
        config = read_json(folder / "adapter_config.json")
        _refuse_unmergeable(config)
        path = folder / "adapter_model.safetensors"
        if not path.is_file():
            raise DataError("adapter_model.safetensors is missing", why=f"looked in {folder}")
        halves: dict[str, dict[str, torch.Tensor]] = {}
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for key in file.keys():  # noqa: SIM118  (not a dict)
                    base, half = _split_key(key)
                    tensor = file.get_tensor(key).float()
                    if name := text_name(base):
                        halves.setdefault(name, {})[half] = tensor
                    elif half == "B" and tensor.any():
                        raise UserError(
                            "the adapter changes how the model sees, which GGUF keeps in another file",
                            hint="train it on text only",
                        )
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"cannot read {path.name}", why=str(error), hint="train the stage again"
            ) from error
        rank, alpha = config["r"], config["lora_alpha"]
        pairs = {base: _pair(base, both, rank) for base, both in halves.items()}
        # Kalajdzievski 2023: rank-stabilised LoRA divides by sqrt(r).
        return cls(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank, pairs)

    def delta(self, name: str) -> torch.Tensor | None:
        """What the adapter adds to base tensor ``name``: (out, in) fp32, or None."""
        if name not in self.pairs:
            return None
        a, b = self.pairs[name]
        return (b @ a).mul_(self.scale)


def _pair(base: str, halves: dict[str, torch.Tensor], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    if halves.keys() != {"A", "B"} or halves["A"].shape[0] != rank or halves["B"].shape[1] != rank:
        raise DataError(f"the adapter's tensors for {base} do not fit together", why=f"rank {rank} expected")
    return halves["A"], halves["B"]


def _split_key(key: str) -> tuple[str, str]:
    """("model.layers.0.mlp.up_proj.weight", "A") from PEFT's name of a LoRA tensor."""
    for half in ("A", "B"):
        suffix = f".lora_{half}.weight"
        if key.startswith(_PREFIX) and key.endswith(suffix):
            return key.removeprefix(_PREFIX).removesuffix(suffix) + ".weight", half
    raise UserError(
        f"the adapter holds {key}, which cannot be merged",
        why="only LoRA on linear layers becomes part of the base's matrices",
        hint="export the policy adapter",
    )


def _refuse_unmergeable(config: dict[str, Any]) -> None:
    init = str(config.get("init_lora_weights", ""))
    refused = {
        f"peft_type {config.get('peft_type')}": config.get("peft_type") != "LORA",
        "DoRA": config.get("use_dora"),
        "modules_to_save": config.get("modules_to_save"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "a rank or alpha per layer": config.get("rank_pattern") or config.get("alpha_pattern"),
        "transposed layers": config.get("fan_in_fan_out"),
        "trained token embeddings": config.get("trainable_token_indices"),
        f"initialisation {init}, which changes the base,": init.startswith(_CHANGED_BASE),
    }
    for what, present in refused.items():
        if present:
            raise UserError(
                f"an adapter with {what} cannot be exported",
                why="only plain LoRA can be merged exactly",
                hint="train with plain LoRA on linear layers",
            )


class MergedWeights:
    """Tensors of the tuned model in fp32, made when asked for, so that one is in memory at a time.

    ``quantization`` "nf4", "16bit" or "32bit" and ``dtype`` are how the base was loaded for training.
    """

    def __init__(
        self, base: SafetensorsFolder, quantization: str, dtype: torch.dtype, adapter: LoraAdapter | None
    ) -> None:
        if adapter is not None:
            for name, (a, b) in adapter.pairs.items():
                if base.shapes.get(name) != (b.shape[0], a.shape[1]):
                    raise DataError(
                        f"the adapter does not fit {name}",
                        why=f"base {base.shapes.get(name)}, adapter {(b.shape[0], a.shape[1])}",
                        hint="export with the base model the adapter was trained on",
                    )
        self._base, self._dtype, self._adapter = base, dtype, adapter
        self._nf4 = quantization == "nf4"
        self.shapes = base.shapes

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor in fp32, in blocks of rows: embedding and output matrix, the largest, need not fit into memory.

        A linear layer is one block, because it is quantized with a mean over all of it. Raises DataError where a
        value is not finite.
        """
        height = self.shapes[name][0]
        adapted = self._adapter is not None and name in self._adapter.pairs
        whole = adapted or self._is_linear(name)
        step = height if whole else max(1, _BLOCK // math.prod(self.shapes[name][1:]))
        for start in range(0, height, step):
            yield self._rows(name, start, min(start + step, height))

    def _is_linear(self, name: str) -> bool:
        """Whether it is a layer that transformers quantizes and PEFT adapts: every nn.Linear but the output layer."""
        return len(self.shapes[name]) == 2 and not name.endswith(_UNQUANTIZED)

    def _rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        weight = self._base.rows(name, start, stop).to(self._dtype)
        if self._nf4 and self._is_linear(name):
            weight = nf4_round_trip(weight)
        weight = weight.float()
        delta = self._adapter.delta(name) if self._adapter is not None else None
        if delta is not None:
            weight = delta.add_(weight)
        if not all(torch.isfinite(x) for x in weight.aminmax()):
            raise DataError(
                f"{name} holds values that are not finite", why="the base or the adapter is damaged"
            )
        return weight


def nf4_round_trip(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` as a 4-bit base holds it: NF4 in blocks of 64 with double quantization, in the dtype it came in.

    Runs where training ran (a GPU where there is one): the kernels may round a tie differently.
    """
    import bitsandbytes.functional as bnb  # 3 s to import, and only a 4-bit base needs it

    device = "cuda" if torch.cuda.is_available() else "cpu"
    packed, state = bnb.quantize_4bit(weight.to(device), quant_type="nf4", compress_statistics=True)
    return bnb.dequantize_4bit(packed, state).cpu()
