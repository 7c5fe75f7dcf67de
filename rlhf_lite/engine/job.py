"""What a stage gets to work with: its settings, its events, its stops and its clock."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from rlhf_lite.errors import UserError
from rlhf_lite.events import AnyEvent, EventWriter, Note, Progress, Result, Warn
from rlhf_lite.functions import hash_file, split_function
from rlhf_lite.project import Project, Run

T = TypeVar("T")
LOADING = "loading the model"


class StopRequested(Exception):
    """The user asked to stop; everything worth keeping is saved. ``step`` is where a resume goes on."""

    def __init__(self, step: int = 0) -> None:
        super().__init__(step)
        self.step = step


class Job:
    """One run in this process. SIGTERM asks it to stop at the next step; a second one ends it at once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.settings = run.settings()
        self.inputs = self.settings.inputs
        self.preset = self.settings.preset
        self.project = Project.open(Path(self.inputs.project))
        self._progressed: dict[str, float] = {}
        self._control_offset = run.control_path.stat().st_size if run.control_path.exists() else 0
        self.stop_requested = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested:
            os._exit(130)
        self.stop_requested = True

    @cached_property
    def _writer(self) -> EventWriter:
        return EventWriter(self.run.events_path)

    def emit(self, event: AnyEvent) -> None:
        self._writer.write(event)

    def note(self, text: str) -> None:
        self.emit(Note(text=text))

    def warn(self, text: str, hint: str = "") -> None:
        self.emit(Warn(text=text, hint=hint))

    def result(self, values: dict[str, Any]) -> None:
        """Report what the stage found: the contract's JSON, with the run's name first."""
        self.emit(Result(values={"run": self.run.name, **values}))

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far something is; at most ten times a second, the first and the last always."""
        now = time.monotonic()
        if done in (0, total) or now - self._progressed.get(what, 0) > 0.1:
            self._progressed[what] = now
            self.emit(Progress(what=what, done=done, total=total))

    def track(self, what: str, items: Iterable[T], total: int) -> Iterator[T]:
        """Yield the items, saying how far we are and stopping between two where asked to."""
        self.progress(what, 0, total)
        for done, item in enumerate(items, 1):
            self.check_stop()
            yield item
            self.progress(what, done, total)

    def check_stop(self, step: int = 0) -> None:
        """Raise :class:`StopRequested` where the user has asked to stop (for stages with nothing to save)."""
        self.controls()
        if self.stop_requested:
            raise StopRequested(step)

    def controls(self) -> list[dict[str, Any]]:
        """The live changes since the last call; ``stop`` is acted on here, ``pause`` waits here for ``resume``."""
        found = self._read_controls()
        while any(c.get("type") == "pause" for c in found) and not self.stop_requested:
            later = self._read_controls()
            if any(c.get("type") in ("resume", "stop") for c in later):
                found = [c for c in found if c.get("type") != "pause"] + later
            time.sleep(0.2)
        if any(c.get("type") == "stop" for c in found):
            self.stop_requested = True
        return [c for c in found if c.get("type") == "set"]

    def _read_controls(self) -> list[dict[str, Any]]:
        if not self.run.control_path.exists():
            return []
        with self.run.control_path.open("rb") as file:
            file.seek(self._control_offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._control_offset += end
        found: list[dict[str, Any]] = []
        for line in data[:end].splitlines():
            try:
                message = json.loads(line)
            except json.JSONDecodeError:
                self.warn("a line of control.jsonl is not JSON and was skipped")
                continue
            if isinstance(message, dict):
                found.append(message)
        return found


class Helper(Job):
    """The same run in another of its processes: it says nothing, and a stop is the main process's to hear of."""

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        pass

    def emit(self, event: AnyEvent) -> None:
        pass


def keep_log_clean() -> None:
    """Silence the two warnings of every healthy run that nobody can act on; any other still reaches the log.

    bitsandbytes asks for a package of faster CPU kernels that is not needed; PEFT knows a property of transformers by
    its old name.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_not_of_kernels)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def _not_of_kernels(record: logging.LogRecord) -> bool:
    return "kernels-community" not in record.getMessage()


def load_function(spec: str, sha256: str) -> Callable[..., Any]:
    """Load ``FILE.py:FUNC``, which the person at the keyboard has just named.

    A stranger's file is never code: a job runs only the file named on this very command line, and only while its
    content is what the run recorded.

    Raises:
        UserError: not named now, changed since, or no such file or function.
    """
    if os.environ.get("RLHF_LITE_TRUSTED_FUNCTION") != spec:
        raise UserError(
            "this run uses a judge or reward file that was not named now",
            why=spec,
            hint="name it again on the command line",
        )
    path, name = split_function(spec)
    if hash_file(path) != sha256:
        raise UserError(
            f"{path} has changed since this run began", hint="start a new run with the file as it is now"
        )
    module_spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    assert module_spec, "a .py file has a spec"
    assert module_spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be imported", why=f"{type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"{path} has no function {name}", hint=f"it has: {', '.join(known) or 'none'}")
    return function
