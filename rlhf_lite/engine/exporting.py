"""``export``: the run's side of :mod:`rlhf_lite.engine.export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from rlhf_lite.engine.export import Exported, ExportRequest, formats
from rlhf_lite.engine.export.origin import Origin
from rlhf_lite.engine.job import Job
from rlhf_lite.project import Run

PARITY_PROMPTS = 16
NEGLIGIBLE = 10
"""Quantization noise is worth a warning where it is more than a tenth of what training changed."""
_FORMATS = {
    "gguf": formats.export_gguf, "safetensors": formats.export_safetensors, "adapter": formats.export_adapter,
}  # fmt: skip


def run(job: Job) -> None:
    """The stage ``export``."""
    with job.project.labels() as store:
        prompts = [p.messages for p in (store.prompts("test") or store.prompts())[:PARITY_PROMPTS]]
    adapter = Path(job.inputs.policies[0]) if job.inputs.policies else None
    request = ExportRequest(
        model=_folder(job.inputs.model),
        quantization=job.inputs.quantization,
        adapter=adapter,
        quants=job.inputs.quants,
        output=Path(job.inputs.output),
        name=job.project.file.name,
        prompts=prompts,
        plain_template=job.project.file.plain_template,
        origin=Origin.of(job.project, Run(adapter.parent)) if adapter else None,
    )

    def report(what: str, done: int, total: int) -> None:
        job.check_stop()  # whatever stops an export, nothing half written stays
        job.progress(what, done, total)

    made = _FORMATS[job.inputs.format](request, report)
    for one in made:
        _warn(job, one)
    job.result(as_json(job.inputs.format, made))


def as_json(kind: str, made: list[Exported]) -> dict[str, Any]:
    """The contract's JSON of ``export``: the first file's, and all of them."""
    files = [one.as_json() for one in made]
    return {"format": kind, **files[0], "files": files}


def _warn(job: Job, made: Exported) -> None:
    parity = made.parity
    if parity and job.inputs.policies and parity.mean_kl > parity.tune_kl / NEGLIGIBLE:
        job.warn(
            f"{made.quant} moves the model by KL {parity.mean_kl:.2g} a token, the tune by {parity.tune_kl:.2g}",
            "a finer type keeps more of a small tune: --quant q8_0, or f16",
        )


def _folder(model: str) -> Path:
    """Where the model's files lie: the folder itself, or the hub's cache, which training has filled."""
    path = Path(model)
    return path if path.is_dir() else Path(snapshot_download(model, local_files_only=True))
