"""How each format of an export is made: GGUF files of one or more types, a merged folder, the adapter alone.

All three may raise UserError (a model, adapter, tokenizer or name that cannot be exported), DiskFull (too little
space, found out before anything is written), DataError (damaged weights, or an adapter of another base) and JobError
(what was written differs from the tuned model more than its type allows, or llama.cpp died). They call
``report(what, done, total)`` as the work goes on; an error that it raises stops the export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlhf_lite import quants
from rlhf_lite.engine import base, text
from rlhf_lite.engine.export import Exported, ExportRequest, Report, card, folders, stage
from rlhf_lite.engine.export.architectures import architecture_of
from rlhf_lite.engine.export.gguf import GgufPlan, plan_gguf, write_gguf
from rlhf_lite.engine.export.merge import LoraAdapter, MergedWeights, SafetensorsFolder, read_json
from rlhf_lite.engine.export.modelfile import modelfile
from rlhf_lite.engine.export.quantize import Quant, find_quant
from rlhf_lite.engine.export.reference import Reference
from rlhf_lite.engine.export.verify import Parity, measure, require
from rlhf_lite.engine.export.vocab import read_vocabulary
from rlhf_lite.engine.export.worker import LlamaWorker
from rlhf_lite.engine.llama import default_threads
from rlhf_lite.errors import UserError
from rlhf_lite.settings import write_whole

_ROUNDED = "q8_0"  # whose limits merged 16-bit weights must meet: bf16 rounds more coarsely than F16


def export_gguf(request: ExportRequest, report: Report) -> list[Exported]:
    """GGUF files of every type asked for, in that order, but BF16 all from one merged F16 file, proven first.

    So a conversion that is wrong is told from a type that is too coarse, and what a kill leaves can be trusted.
    """
    wanted = {name: find_quant(name) for name in request.quants}
    architecture_of(read_json(request.model / "config.json"))  # the cheapest reason to refuse comes first
    source = _Source.of(request)
    plan = source.plan()
    f16 = stage.f16_stage(request, source.dtype)
    request.output.mkdir(parents=True, exist_ok=True)
    stage.sweep(request.output, request.name)
    stage.drop_stages(request.output, request.name, keep=f16)
    stage.require_space(request.output, _bytes_needed(plan, request.quants, f16.is_file()))
    proof = _Proof(request, source, report)
    if set(wanted) - {"bf16"} and not f16.is_file():
        with stage.whole(f16) as part:
            write_gguf(plan, "f16", part, request.name, report)
            proof.of_gguf(part, "f16")
    made: dict[str, Exported] = {}
    for name, quant in wanted.items():
        final = request.output / f"{request.name}-{name}.gguf"
        if name == "f16":
            made[name] = Exported(final, name, f16.stat().st_size, *proof.of_gguf(f16, name))
            continue
        with stage.whole(final) as part:
            if name == "bf16":
                write_gguf(plan, name, part, request.name, report)
            else:
                _quantize(f16, part, name, quant, report)
            found = proof.of_gguf(part, name)
        made[name] = Exported(final, name, final.stat().st_size, *found)
    if "f16" in made:
        stage.move(f16, made["f16"].path)
    stage.drop_stages(request.output, request.name)
    first = made[request.quants[0]]
    generation = folders.generation_config(request.model)
    about = modelfile(first.path.name, plan.vocabulary, generation, first.context)
    write_whole(request.output / "Modelfile", about.encode())
    card.write(request.output, request, "gguf", list(made.values()))
    return list(made.values())


def export_safetensors(request: ExportRequest, report: Report) -> list[Exported]:
    """One folder, ``NAME-safetensors``, that transformers loads; loaded so and compared before it gets its name."""
    config = read_json(request.model / "config.json")
    for what, there in {
        "sees": "text_config" in config,
        "is quantized already": "quantization_config" in config,
    }.items():
        if there:
            raise UserError(
                f"a base that {what} cannot be exported as safetensors", hint="--format adapter can"
            )
    source = _Source.of(request)
    final = _folder(request, "safetensors", 2 * sum(map(math.prod, source.weights.shapes.values())))
    proof = _Proof(request, source, report)
    dtype = folders.stored_dtype(config)
    with stage.whole(final) as part:
        folders.write_merged(source.weights, request.model, source.tokenizer, part, report)
        parity = proof.of_loaded(folders.LoadedFolder(part), _ROUNDED, "safetensors")
        made = Exported(final, str(dtype).removeprefix("torch."), folders.size(part), parity)
        card.write(part, request, "safetensors", [made])
    return [made]


def export_adapter(request: ExportRequest, report: Report) -> list[Exported]:
    """One folder, ``NAME-adapter``: the adapter as PEFT loads it, and as llama.cpp does. Nothing is merged, so there
    is nothing to compare: PEFT's file is the one that was evaluated, byte for byte."""
    if request.adapter is None:
        raise UserError("there is no adapter to export", hint="train first")
    source = _Source.of(request)  # with all its checks: it fits this base
    final = _folder(request, "adapter", 3 * folders.size(request.adapter))
    report("copy", 0, 1)
    with stage.whole(final) as part:
        called = card.base_name(request.model)
        folders.write_adapter(request.adapter, request.model, called, source.tokenizer, part, request.name)
        made = Exported(final, "f32", folders.size(part), None)
        card.write(part, request, "adapter", [made])
    report("copy", 1, 1)
    return [made]


@dataclass(frozen=True)
class _Source:
    """What every format starts from; no weights are loaded yet. ``stops``: the ids that end an answer; ``dtype``:
    what the base computes in here."""

    weights: MergedWeights
    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    dtype: str
    model: Path

    @classmethod
    def of(cls, request: ExportRequest) -> _Source:
        odd = not request.name.isprintable() or '"' in request.name  # a Modelfile has no escape for them
        if odd or not request.name or Path(request.name).name != request.name:
            raise UserError(
                f"{request.name!r} cannot be a file's name", hint="use letters, digits and hyphens"
            )
        adapter = LoraAdapter.load(request.adapter) if request.adapter is not None else None
        dtype = torch.float32 if request.quantization == "32bit" else base.compute_dtype(base.pick_device())
        weights = MergedWeights(SafetensorsFolder(request.model), request.quantization, dtype, adapter)
        model = str(request.model)
        tokenizer = text.load_tokenizer(model, trust_remote_code=False, plain_template=request.plain_template)
        return cls(weights, tokenizer, text.stop_ids(model, tokenizer), str(dtype), request.model)

    def plan(self) -> GgufPlan:
        """What a GGUF file of it will hold."""
        rows = self.weights.shapes.get("model.embed_tokens.weight", (0,))[0]
        vocabulary = read_vocabulary(self.tokenizer, self.stops, rows)
        return plan_gguf(read_json(self.model / "config.json"), vocabulary, self.weights)


class _Proof:
    """Compares what was written with the tuned model, which is loaded once."""

    def __init__(self, request: ExportRequest, source: _Source, report: Report) -> None:
        self._request, self._source, self._report = request, source, report
        self._done: dict[str, tuple[Parity, int]] = {}

    def of_gguf(self, path: Path, quant: str) -> tuple[Parity, int]:
        """Parity of a file, and the tokens that a chat with it may have. Raises JobError where it does not pass."""
        if quant not in self._done:
            with LlamaWorker(default_threads()) as worker:
                context = worker.open(path)
                self._done[quant] = self.of_loaded(worker, quant, quant), context
        return self._done[quant]

    def of_loaded(self, candidate: Any, limits: str, called: str) -> Parity:
        """The same of something that has a worker's calls, by the limits of this type."""
        quant = find_quant(limits)
        told: Report = lambda what, done, total: self._report(f"{what} {called}", done, total)  # noqa: E731
        parity = measure(self._reference, candidate, self._request.prompts, quant, told)
        require(parity, quant, called)
        return parity

    @cached_property
    def _reference(self) -> Reference:
        request, source = self._request, self._source
        return Reference.load(
            request.model, request.quantization, request.adapter, source.tokenizer, source.stops
        )


def _quantize(f16: Path, target: Path, name: str, quant: Quant, report: Report) -> None:
    report(f"quantize {name}", 0, 1)
    with LlamaWorker(default_threads()) as worker:
        worker.quantize(f16, target, quant.ftype)
    report(f"quantize {name}", 1, 1)


def _bytes_needed(plan: GgufPlan, wanted: Sequence[str], staged: bool) -> int:
    """What will be on disk at once at most; ``staged``: the F16 file is there already."""
    shapes = {name: plan.weights.shapes[source] for name, source in plan.names.items()}
    words = sum(24 + len(token.encode()) for token in (*plan.vocabulary.tokens, *plan.vocabulary.merges))
    files = {"f16", *wanted} if set(wanted) - {"bf16"} else set(wanted)
    return sum(quants.file_bytes(shapes, name, words) for name in files if not (name == "f16" and staged))


def _folder(request: ExportRequest, kind: str, need: int) -> Path:
    """Where a folder goes: cleared of what a killed export left, with room for ``need`` bytes."""
    request.output.mkdir(parents=True, exist_ok=True)
    final = request.output / f"{request.name}-{kind}"
    stage.sweep(request.output, request.name)
    stage.require_space(request.output, need)
    return final
