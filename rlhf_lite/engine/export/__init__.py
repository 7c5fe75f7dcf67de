"""The tuned model as files for other programs, proven equal before they get their names.

``formats`` has the order of things. ``merge`` makes the tensors; ``vocab`` and ``gguf`` write them as GGUF,
``quantize`` and ``worker`` let llama.cpp shrink that, ``folders`` writes them for transformers, and ``lora`` the
adapter alone. ``verify`` compares what was written with the tuned model; ``card`` and ``modelfile`` write what lies
beside it, from what ``origin`` tells.
A file under its final name is complete and has passed; ``stage`` sees to that, and to what a killed export keeps.

Here is only what is asked for and what came of it, without torch: the worker's process imports this package too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite.settings import Quantization

if TYPE_CHECKING:
    from rlhf_lite.engine.export.origin import Origin
    from rlhf_lite.engine.export.verify import Parity

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        model: the base model's folder.
        quantization: how the base was loaded for training.
        adapter: a PEFT LoRA folder, or None for the bare base.
        quants: the types of GGUF files to make, of ``catalog.QUANTS``; the first is the one that Ollama is told of.
        output: the folder it goes to; made where it does not exist.
        name: the model's name; a file is ``NAME-QUANT.gguf``.
        prompts: conversations that parity is measured on, each a list of {"role", "content"}.
        plain_template: use ChatML where the model has no chat template of its own.
        origin: what the card says of labels, training and evaluation.
    """

    model: Path
    quantization: Quantization
    adapter: Path | None
    quants: tuple[str, ...]
    output: Path
    name: str
    prompts: Sequence[Sequence[dict[str, str]]]
    plain_template: bool = False
    origin: Origin | None = None


@dataclass(frozen=True)
class Exported:
    """A file or folder that an export made. ``quant`` is the type of its weights; ``parity`` None where it holds no
    merged weights, ``context`` the tokens that chatting with it is set to, 0 where that is nothing to set here."""

    path: Path
    quant: str
    bytes: int
    parity: Parity | None
    context: int = 0

    def as_json(self) -> dict[str, Any]:
        """The contract's JSON of one file."""
        parity = self.parity.as_json() if self.parity else None
        told = {"path": str(self.path), "quant": self.quant, "bytes": self.bytes, "parity": parity}
        return {**told, "context": self.context} if self.context else told
