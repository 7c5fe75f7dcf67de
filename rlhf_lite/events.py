"""What a job says: tagged structs, one JSON line each, in ``events.jsonl``. The log is the truth.

A writer appends whole lines with one ``os.write`` on an ``O_APPEND`` descriptor, so that ``kill -9`` never tears
a line that was acknowledged; on opening it ends a torn last line of an earlier life. A reader keeps a byte offset
and takes whole lines only: an unknown event type is skipped, a malformed line counted.

Metric names are TRL's, written once, here, with the plain words that screens show beside them.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import msgspec

METRIC_LABELS = {
    "objective/scores": "reward",
    "objective/scores_std": "spread of the reward over answers",
    "objective/kl": "KL to the reference (nats a sequence)",
    "objective/rlhf_reward": "reward minus KL penalty",
    "objective/entropy": "entropy (nats a token)",
    "objective/kl_coef": "KL coefficient",
    "policy/approxkl_avg": "approx KL of the update",
    "policy/clipfrac_avg": "share of clipped tokens",
    "loss/policy_avg": "policy loss",
    "value/explained_variance": "share of the return that the critic foretells",
    "val/ratio": "mean probability ratio",
    "val/num_eos_tokens": "answers that end by themselves",
    "completion_length": "tokens an answer",
    "length_correlation": "correlation of reward and length",
    "repetition": "share of an answer that it has said before",
    "eval/scores": "reward on held-out prompts",
    "eval/kl": "KL on held-out prompts",
    "eval/ended": "share of answers to held-out prompts that end by themselves",
    "loss": "loss",
    "lr": "learning rate",
    "episode": "episodes so far",
    "seconds": "seconds a step",
}


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all events; ``time`` is seconds since the epoch."""

    time: float = msgspec.field(default_factory=time.time)


class Started(Event, tag="started", frozen=True):
    """A job began: its stage and process id (for people; being alive is told by its lock)."""

    stage: str
    pid: int


class Resumed(Event, tag="resumed", frozen=True):
    """A later life goes on from a checkpoint; steps after ``from_step`` of the earlier life do not count."""

    from_step: int


class Progress(Event, tag="progress", frozen=True):
    """``done`` of ``total`` units of ``what``."""

    what: str
    done: int
    total: int


class Metrics(Event, tag="metrics", frozen=True):
    """Numbers of one step, all finite, by TRL's names."""

    step: int
    values: dict[str, float]


class Sample(Event, tag="sample", frozen=True):
    """One answer, so that a person sees what the numbers mean."""

    step: int
    prompt: str
    completion: str
    score: float | None = None


class Note(Event, tag="note", frozen=True):
    """Something worth knowing, in one sentence."""

    text: str


class Warn(Event, tag="warning", frozen=True):
    """Something that may spoil the result, with the next step."""

    text: str
    hint: str = ""


class Saved(Event, tag="saved", frozen=True):
    """A checkpoint exists and is complete."""

    step: int
    path: str


class Changed(Event, tag="changed", frozen=True):
    """A setting changed on the way (a live change, a halved micro-batch, a rolled-back learning rate)."""

    step: int
    name: str
    value: float
    why: str = ""


class Result(Event, tag="result", frozen=True):
    """What the stage found, as the contract's JSON."""

    values: dict[str, object]


class Finished(Event, tag="finished", frozen=True):
    """The job did all it should."""


class Stopped(Event, tag="stopped", frozen=True):
    """Stopped by the user, saved; ``--resume`` goes on."""

    step: int


class Failed(Event, tag="failed", frozen=True):
    """The job failed: the parts of an :mod:`rlhf_lite.errors` error."""

    kind: str
    message: str
    why: str = ""
    hint: str = ""


AnyEvent = (
    Started | Resumed | Progress | Metrics | Sample | Note | Warn | Saved | Changed | Result
    | Finished | Stopped | Failed
)  # fmt: skip
ENDS = (Finished, Stopped, Failed)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)
_tag_decoder = msgspec.json.Decoder(dict[str, object])
_KNOWN = {"started", "resumed", "progress", "metrics", "sample", "note", "warning", "saved", "changed",
          "result", "finished", "stopped", "failed"}  # fmt: skip


def encode(event: AnyEvent) -> bytes:
    """One event as one JSON line without its newline."""
    return _encoder.encode(event)


class EventWriter:
    """Appends events to a file, each whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")

    def write(self, event: AnyEvent) -> None:
        """Append one event. NaN and infinities never enter the log.

        Raises:
            ValueError: a metric is not finite.
        """
        if isinstance(event, Metrics):
            bad = [k for k, v in event.values.items() if not math.isfinite(v)]
            if bad:
                raise ValueError(f"not finite: {', '.join(bad)}")
        os.write(self._fd, _encoder.encode(event) + b"\n")

    def close(self) -> None:
        os.close(self._fd)


class EventTail:
    """Reads whole lines from where it stopped; cheap to poll."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        self.malformed = 0

    def read(self) -> list[AnyEvent]:
        """The events since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self.offset += end
        found: list[AnyEvent] = []
        for line in data[:end].splitlines():
            event = self._decode(line)
            if event is not None:
                found.append(event)
        return found

    def _decode(self, line: bytes) -> AnyEvent | None:
        if not line.strip():
            return None
        try:
            return _decoder.decode(line)
        except msgspec.DecodeError:
            pass
        try:
            newer = _tag_decoder.decode(line).get("type") not in _KNOWN
        except msgspec.DecodeError:
            newer = False
        if not newer:
            self.malformed += 1
        return None
