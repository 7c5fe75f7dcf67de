"""Runs as jobs leave them, made by what jobs write: events, settings, a log."""

from __future__ import annotations

import math

from rlhf_lite import events
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, Run
from rlhf_lite.settings import Inputs, load_preset

ENDS = {"finished": events.Finished(), "stopped": events.Stopped(step=1), "": None}


def measured(stage: str, step: int, scale: float = 1.0) -> events.Metrics:
    """What a stage says of one step."""
    if stage == "ppo":
        values = {
            "objective/scores": scale * math.tanh(step / 20),
            "objective/kl": 0.02 * step,
            "objective/kl_coef": 0.05,
            "objective/entropy": 2.0 - 0.001 * step,
            "completion_length": 36.0 + step % 3,
            "val/num_eos_tokens": 1.0,
            "lr": 1e-3,
        }
    else:
        values = {"loss": math.exp(-step / 15), "margin": step / 20}
    return events.Metrics(step=step, values=values)


def a_run(
    project: Project,
    stage: str,
    steps: int = 0,
    *,
    end: str = "finished",
    scale: float = 1.0,
    samples: int = 0,
    **inputs: object,
) -> Run:
    """A run of so many steps; ``samples`` prompts are answered every fifth of them."""
    named = {"stage": stage, "project": str(project.root), "model": "demo", "quantization": "nf4", "seed": 0}
    run = project.new_run(Inputs(**{**named, **inputs}), load_preset("demo"))  # pyright: ignore[reportArgumentType]
    log = EventWriter(run.events_path)
    log.write(events.Started(stage=stage, pid=1))
    for step in range(steps):
        log.write(measured(stage, step, scale))
        log.write(events.Progress(what="steps", done=step + 1, total=steps))
        for prompt in range(samples if step % 5 == 0 else 0):
            answer = f"answer {prompt} at step {step}"
            log.write(events.Sample(step=step, prompt=f"prompt {prompt}", completion=answer, score=step / 10))
    last = ENDS[end]
    if last:
        log.write(last)
    log.close()
    run.adapter.mkdir()
    (run.adapter / "weights").write_bytes(b"0" * 2048)
    run.log_path.write_text(f"{run.name} says hello\n", encoding="utf-8")
    return run
