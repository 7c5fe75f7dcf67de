"""Functions that label: ``prefer(prompt, a, b) -> "a" | "b" | "tie"``, or a number above 0 for ``a``.

A function's labels carry its file, name and hash as the judge; nobody can take them for a person's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from rlhf_lite.engine.job import Job, load_function
from rlhf_lite.errors import UserError
from rlhf_lite.labels import Verdict


def run(job: Job) -> None:
    """The stage ``label``: a function labels every pair that has no label yet."""
    prefer = load_function(job.inputs.function, job.inputs.function_sha256)
    name = judge_name(job.inputs.function, job.inputs.function_sha256)
    counts: Counter[str] = Counter()
    with job.project.labels() as store:
        pairs = store.unlabelled(job.inputs.limit or None)
        if not pairs:
            raise UserError(
                "there is nothing to label", hint=f"make pairs first: rlhf-lite generate {job.project.root}"
            )
        for pair in job.track("labels", pairs, len(pairs)):
            verdict = ask(prefer, job.inputs.function, pair.prompt.text, pair.a, pair.b)
            store.label(pair.id, verdict, judge=name)
            counts[verdict] += 1
    names = ("a", "b", "tie", "both_bad")
    job.result({"labelled": counts.total(), **{n: counts[n] for n in names}, "skipped": counts["skip"]})


def judge_name(spec: str, sha256: str) -> str:
    """How a function signs its labels."""
    return f"script:{spec} {sha256[:12]}"


def ask(prefer: Callable[..., Any], spec: str, prompt: str, a: str, b: str) -> Verdict:
    """One verdict of a function.

    Raises:
        UserError: it failed, or returned something that is no verdict.
    """
    try:
        answer = prefer(prompt, a, b)
    except (
        Exception
    ) as error:  # a user's own code may raise anything; the traceback goes to the log by __cause__
        raise UserError(
            f"{spec} failed on a pair", why=f"{type(error).__name__}: {error}", hint="mend it and go on"
        ) from error
    if answer in ("a", "b", "tie"):
        return answer
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        return "a" if answer > 0 else "b" if answer < 0 else "tie"
    raise UserError(f"{spec} returned {answer!r}", why='it must return "a", "b", "tie" or a number')
