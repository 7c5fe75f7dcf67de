"""``generate``: pairs of different answers from the current policy, ready to be labelled.

Answers come at temperature 1 with nothing truncated, so that they are what PPO will see; empty and near-identical
pairs never reach a person. Each batch is stored at once: labelling can begin while the rest is sampled.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.prompts import PromptIds, draw, load_prompts
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.errors import JobError
from rlhf_lite.events import Sample

MAX_TRIES = 8
"""Passes over the wanted pairs before a policy whose answers are all alike is said to be so."""


def run(job: Job) -> None:
    """The stage ``generate``."""
    began = time.monotonic()
    base = SharedBase.of(job)
    view = None
    if job.inputs.policies:
        view = "policy"
        base.load_adapter(view, Path(job.inputs.policies[0]), trainable=False)
    prompts = load_prompts(job, base, None)
    wanted = job.inputs.limit or job.preset.generate.pairs
    stored = skipped = 0
    job.progress("pairs", 0, wanted)
    with job.project.labels() as store:
        for prompt, first, second in _pairs(job, base, view, prompts, wanted):
            worthless = alike(first, second, job.preset.generate.max_similarity)
            if worthless or store.add_pair(prompt.id, first, second, origin=job.run.name) is None:
                skipped += 1
            else:
                stored += 1
                job.progress("pairs", stored, wanted)
                if stored <= 2:
                    job.emit(Sample(step=stored, prompt=prompt.text, completion=first))
            if stored == wanted:
                break
    if stored < wanted:
        job.warn(
            f"only {stored} of {wanted} pairs differ enough to be worth a look",
            "add prompts, or allow more likeness: --set generate.max_similarity=0.95",
        )
    if not stored:
        raise JobError(
            "no two answers differ", why=f"{skipped} pairs were alike or empty", hint="add other prompts"
        )
    job.result(
        {
            "pairs": stored,
            "prompts": len(prompts),
            "skipped_identical": skipped,
            "seconds": round(time.monotonic() - began, 1),
        }
    )


def _pairs(
    job: Job, base: SharedBase, view: str | None, prompts: list[PromptIds], wanted: int
) -> Iterator[tuple[PromptIds, str, str]]:
    """Prompt and two answers, batch by batch, for as long as the caller wants more."""
    by_ids = {tuple(p.ids): p for p in prompts}
    half = max(1, job.preset.sampling.batch_size // 2)
    for number in range(MAX_TRIES * -(-wanted // half)):
        job.check_stop()
        seed = job.inputs.seed + int(job.run.name.split("-")[0])  # each run draws and samples afresh
        chosen = draw([p.ids for p in prompts], half, number * half, seed)
        with base.view(view):
            found = sample(
                base, [ids for ids in chosen for _ in range(2)], batch_size=2 * half,
                max_new_tokens=job.preset.sampling.max_new_tokens, generator=seeded(base.device, seed, number),
            )  # fmt: skip
        answers = [text.decode(base.tokenizer, c) for c in found.completions]
        for i, ids in enumerate(chosen):
            yield by_ids[tuple(ids)], answers[2 * i], answers[2 * i + 1]


def alike(first: str, second: str, limit: float) -> bool:
    """Whether a pair is not worth a person's time: one is empty, or their words match more than ``limit``."""
    if not first or not second:
        return True
    return difflib.SequenceMatcher(None, first.split(), second.split(), autojunk=False).ratio() > limit
