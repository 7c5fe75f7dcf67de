"""``export``: the run's side of :mod:`rlhf_lite.engine.export`."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from rlhf_lite.engine.export import ExportRequest, export_gguf
from rlhf_lite.engine.job import Job

PARITY_PROMPTS = 16
NEGLIGIBLE = 10
"""Quantization noise is worth a warning where it is more than a tenth of what training changed."""


def run(job: Job) -> None:
    """The stage ``export``."""
    with job.project.labels() as store:
        prompts = [p.messages for p in (store.prompts("test") or store.prompts())[:PARITY_PROMPTS]]
    request = ExportRequest(
        model=_folder(job.inputs.model),
        quantization=job.inputs.quantization,
        adapter=Path(job.inputs.policies[0]) if job.inputs.policies else None,
        quant=job.inputs.quant,
        output=Path(job.inputs.output),
        name=job.project.file.name,
        prompts=prompts,
        plain_template=job.project.file.plain_template,
    )

    def report(what: str, done: int, total: int) -> None:
        job.check_stop()  # whatever stops an export, nothing half written stays
        job.progress(what, done, total)

    exported = export_gguf(request, report)
    parity = exported.parity
    if request.adapter and parity.mean_kl > parity.tune_kl / NEGLIGIBLE:
        job.warn(
            f"{exported.quant} moves the model by KL {parity.mean_kl:.2g} a token, the tune by {parity.tune_kl:.2g}",
            "a finer type keeps more of a small tune: --quant q8_0, or f16",
        )
    job.result(exported.as_json())


def _folder(model: str) -> Path:
    """Where the model's files lie: the folder itself, or the hub's cache, which training has filled."""
    path = Path(model)
    return path if path.is_dir() else Path(snapshot_download(model, local_files_only=True))
