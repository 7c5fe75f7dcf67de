"""A conversation with a project's policy before any export, and with the bare base, both from one loaded base:
``python -m rlhf_lite.engine talk PROJECT_DIR [RUN_NAME] [--device cpu]``.

The same requests and replies as :mod:`rlhf_lite.engine.chat`, and besides: a chat may name its "side", "tuned" or
"base"; "ready" names the sides there are, the run, and the device, "cpu" or "gpu". Without RUN_NAME it is the newest
finished policy; where none is finished yet there is only the base.

It takes no device lock, so it runs beside a job. Where a job owns the device it keeps to the CPU: the GPU's memory
is that job's. This is settled once, before torch is imported: a parent that is about to start a job on the GPU ends
its session first.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lite import hub, jobs
from rlhf_lite.engine import session
from rlhf_lite.engine.session import Asked, Reply
from rlhf_lite.errors import DeviceBusy, UserError
from rlhf_lite.project import POLICY_STAGES, Project, Run
from rlhf_lite.settings import Inputs

if TYPE_CHECKING:
    from rlhf_lite.engine.base import SharedBase
    from rlhf_lite.engine.decoder import Decoder

BASE, TUNED = "base", "tuned"
POLICY = "policy"


def answer(
    decoder: Decoder, base: SharedBase, sides: list[str], request: dict[str, Any], stop: threading.Event
) -> Iterator[Reply]:
    """The replies to one chat request."""
    from rlhf_lite.engine import text
    from rlhf_lite.engine.decoder import stream_text

    began = time.monotonic()
    asked = Asked.of(request)
    side = asked.side or sides[-1]
    if side not in sides:
        why = "nothing is trained yet" if side == TUNED else ""
        raise UserError(f"there is no side {side!r} to talk to", why=why, hint=f"sides: {', '.join(sides)}")
    prompt = session.fit(asked, partial(text.prompt_ids, base.tokenizer), decoder.context)
    tokens = decoder.generate(
        POLICY if side == TUNED else None,
        prompt.ids,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        cancelled=stop.is_set,
    )
    return session.course(
        prompt, tokens, ends=base.stops.__contains__, stop=stop, began=began,
        as_text=lambda ids: stream_text(base.tokenizer, (i for i in ids if i not in base.stops)),
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """``talk PROJECT_DIR [RUN_NAME] [--device cpu]``"""
    parser = argparse.ArgumentParser(prog="talk")
    parser.add_argument("project", type=Path)
    parser.add_argument("run", nargs="?", default="")
    parser.add_argument("--device", choices=["cpu"])
    arguments = parser.parse_args(argv)
    project = Project.open(arguments.project)
    run = _policy(project, arguments.run)
    folder = hub.require(project.file.model, shlex.join(["rlhf-lite", "download", str(project.root)]))
    if arguments.device or _job_owns_device():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # heard only while torch has not been imported
    base = _load(project, folder, run)

    from rlhf_lite.engine.decoder import Decoder

    decoder, sides = Decoder(base), [BASE, *([TUNED] if run else [])]
    ready = {
        "type": "ready", "name": f"{project.file.name}, {run.name if run else 'the bare base'}",
        "context": decoder.context, "sides": sides, "run": run.name if run else None,
        "device": "gpu" if base.device.type == "cuda" else "cpu",
    }  # fmt: skip
    session.send(sys.stdout.buffer, ready)
    session.converse(sys.stdin.buffer, sys.stdout.buffer, partial(answer, decoder, base, sides))
    return 0


def _policy(project: Project, name: str) -> Run | None:
    """The run to talk to, None for the bare base. Raises UserError where the named one is no finished policy."""
    run = project.run(name) if name else project.latest_policy()
    if run and (run.stage not in POLICY_STAGES or not run.adapter.is_dir()):
        raise UserError(
            f"{run.name} has no policy to talk to", why="only a finished sft, dpo or ppo run has one",
            hint=f"see {shlex.join(['rlhf-lite', 'runs', str(project.root)])}",
        )  # fmt: skip
    return run


def _job_owns_device() -> bool:
    try:
        jobs.require_free_device()
    except DeviceBusy:
        return True
    return False


def _load(project: Project, folder: Path, run: Run | None) -> SharedBase:
    from rlhf_lite.engine.base import SharedBase
    from rlhf_lite.engine.decoder import unpack

    file = project.file
    inputs = Inputs(
        stage="talk", project=str(project.root), model=str(folder), quantization=file.quantization, seed=file.seed,
        trust_remote_code=file.trust_remote_code,
    )  # fmt: skip
    base = SharedBase.load(inputs, plain_template=file.plain_template)
    if base.device.type == "cpu":
        unpack(base.model)
    if run:
        base.load_adapter(POLICY, run.adapter, trainable=False)
    return base
