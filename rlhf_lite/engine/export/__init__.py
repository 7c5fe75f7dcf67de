"""The tuned model as one GGUF file, proven equal before it gets its name.

``merge`` makes the tensors, ``vocab`` and ``gguf`` write them, ``quantize`` and ``worker`` let llama.cpp shrink the
file, ``verify`` compares it with the tuned model, ``card`` writes what lies beside it. A file under its final name
is complete and has passed; whatever goes wrong, nothing else is left behind and an older file of that name stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite.errors import UserError
from rlhf_lite.settings import Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf_lite.engine.export.gguf import GgufPlan
    from rlhf_lite.engine.export.verify import Parity


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        model: the base model's folder.
        quantization: how the base was loaded for training.
        adapter: a PEFT LoRA folder, or None for the bare base.
        quant: the file's type, one of ``catalog.QUANTS``.
        output: the folder it goes to; made where it does not exist.
        name: the model's name; the file is ``NAME-QUANT.gguf``.
        prompts: conversations that parity is measured on, each a list of {"role", "content"}.
        plain_template: use ChatML where the model has no chat template of its own.
    """

    model: Path
    quantization: Quantization
    adapter: Path | None
    quant: str
    output: Path
    name: str
    prompts: Sequence[Sequence[dict[str, str]]]
    plain_template: bool = False


@dataclass(frozen=True)
class ExportResult:
    path: Path
    quant: str
    bytes: int
    parity: Parity

    def as_json(self) -> dict[str, Any]:
        """The contract's JSON of ``export``."""
        return {
            "path": str(self.path),
            "quant": self.quant,
            "bytes": self.bytes,
            "parity": self.parity.as_json(),
        }


def export_gguf(request: ExportRequest, report: Callable[[str, int, int], None]) -> ExportResult:
    """Merge, write, quantize, verify, and only then give the file its name.

    ``report(what, done, total)`` is called as "merge", "quantize" and "verify" go on.

    Raises:
        UserError: unknown quantization, or a model, adapter or tokenizer that cannot be exported.
        DiskFull: too little space, found out before anything is written.
        DataError: damaged weights, or an adapter of another base.
        JobError: the file differs from the tuned model more than its type allows, or llama.cpp died.
    """
    # Imported here because the worker's process, which imports this package too, must not load torch.
    from rlhf_lite.engine.export import card, quantize, verify
    from rlhf_lite.engine.export.gguf import write_gguf
    from rlhf_lite.engine.export.worker import LlamaWorker
    from rlhf_lite.engine.llama import default_threads

    quant = quantize.find_quant(request.quant)
    if not request.name or Path(request.name).name != request.name:
        raise UserError(f"{request.name!r} cannot be a file's name", hint="use letters, digits and hyphens")
    plan, tokenizer, stops = _plan(request)
    final = _destination(request, quantize.bytes_needed(quant, plan.parameters, plan.rows_fit_k_quants))
    f16, small = (final.with_name(f"{final.name}.{os.getpid()}.{kind}.part") for kind in ("f16", "quant"))
    try:
        floats = "bf16" if request.quant == "bf16" else "f16"
        write_gguf(plan, floats, f16, request.name, report)
        with LlamaWorker(default_threads()) as worker:
            finished = f16
            if request.quant != floats:
                report("quantize", 0, 1)
                worker.quantize(f16, small, quant.ftype)
                f16.unlink()
                _fsync(small)
                finished = small
                report("quantize", 1, 1)
            worker.open(finished)
            reference = verify.Reference.load(
                request.model, request.quantization, request.adapter, tokenizer, stops
            )
            parity = verify.measure(reference, worker, request.prompts, quant, report)
        verify.require(parity, quant, request.quant)
        os.replace(finished, final)
        _fsync(request.output)
    finally:
        f16.unlink(missing_ok=True)
        small.unlink(missing_ok=True)
    _write_beside(final, "Modelfile", card.modelfile(final.name, tokenizer, stops))
    _write_beside(final, "README.md", card.model_card(request, final.name, parity))
    return ExportResult(final, request.quant, final.stat().st_size, parity)


def _plan(request: ExportRequest) -> tuple[GgufPlan, PreTrainedTokenizerBase, frozenset[int]]:
    """What will be written, the tokenizer, and the ids that end an answer. Loads no weights yet."""
    import torch

    from rlhf_lite.engine import base, text
    from rlhf_lite.engine.export.gguf import architecture_of, plan_gguf
    from rlhf_lite.engine.export.merge import LoraAdapter, MergedWeights, SafetensorsFolder, read_json
    from rlhf_lite.engine.export.vocab import read_vocabulary

    config = read_json(request.model / "config.json")
    architecture_of(config)  # the cheapest reason to refuse comes first
    stored = SafetensorsFolder(request.model)
    adapter = LoraAdapter.load(request.adapter) if request.adapter is not None else None
    dtype = torch.float32 if request.quantization == "32bit" else base.compute_dtype(base.pick_device())
    weights = MergedWeights(stored, request.quantization, dtype, adapter)
    model = str(request.model)
    tokenizer = text.load_tokenizer(model, trust_remote_code=False, plain_template=request.plain_template)
    stops = text.stop_ids(model, tokenizer)
    rows = stored.shapes.get("model.embed_tokens.weight", (0,))[0]
    return plan_gguf(config, read_vocabulary(tokenizer, stops, rows), weights), tokenizer, stops


def _destination(request: ExportRequest, need: int) -> Path:
    """Where the file goes: into a folder with room for ``need`` bytes, cleared of what a killed export left."""
    from rlhf_lite.engine.export import quantize

    request.output.mkdir(parents=True, exist_ok=True)
    quantize.check_disk(request.output, need)
    final = request.output / f"{request.name}-{request.quant}.gguf"
    for left in request.output.iterdir():
        if left.name.startswith(final.name) and left.suffix == ".part":
            left.unlink()
    return final


def _write_beside(gguf: Path, name: str, content: str) -> None:
    part = gguf.with_name(f"{name}.{os.getpid()}.part")
    try:
        part.write_text(content, encoding="utf-8")
        _fsync(part)
        os.replace(part, gguf.with_name(name))
    finally:
        part.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
