"""Starts, stops, watches and re-attaches to the child processes that own torch and llama.cpp.

Two kinds of child: *jobs* (detached, speak through files, outlive whoever started them) and *sessions* (attached,
line JSON over pipes, die with their parent). "Alive" means that the job's lock is held: the kernel drops a
``flock`` on any death, whereas a process id may have been given to a stranger.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rlhf_lite import paths
from rlhf_lite.errors import DeviceBusy, JobDied, from_parts
from rlhf_lite.events import ENDS, AnyEvent, EventTail
from rlhf_lite.project import Run

# Threads that spin without end collapse on busy cores (the default); threads that never spin wake too late for the
# small matrices of a small model. A short spin took a PPO step from 10.6 to 6.6 s on two idle cores. ggml attaches a
# debugger on abort unless told not to.
CHILD_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "20000", "GGML_NO_BACKTRACE": "1",
                     "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}  # fmt: skip

WITHOUT_DEVICE = frozenset({"label", "download"})
"""Stages that leave the device to others."""


def child_environment() -> dict[str, str]:
    """The environment of every child; what the user has set wins."""
    return {**CHILD_ENVIRONMENT, **os.environ}


@contextmanager
def hold_lock(path: Path, owner: str) -> Generator[None]:
    """Hold a ``flock`` on ``path``, with ``owner`` written inside for people.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _lock(file)
        file.seek(0)
        file.truncate()
        file.write(owner)
        file.flush()
        yield


def _lock(file: IO[str], patience: float = 0.5) -> None:
    """Take the lock. Whoever asks :func:`_held` holds it for a moment, which must not look like a second job."""
    until = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(0.02)


def _held(path: Path) -> bool:
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def device_name() -> str:
    """The name of the one device jobs compete for: the first visible GPU, else the CPU."""
    return "gpu" if Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists() else "cpu"


def _device_lock(name: str) -> Path:
    return paths.state() / f"device-{name}.lock"


def _busy(name: str) -> DeviceBusy:
    owner = _device_lock(name).read_text(encoding="utf-8") or "another job"
    return DeviceBusy(
        f"the {name} is busy", why=f"{owner} is running on it", hint="wait for it to end, or stop it"
    )


@contextmanager
def hold_device(name: str, run: Run) -> Generator[None]:
    """Own a device for the length of a job: one per user and device, whatever the project.

    Raises:
        DeviceBusy: another job owns it; says which.
    """
    try:
        with hold_lock(_device_lock(name), str(run.folder)):
            yield
    except BlockingIOError as error:
        raise _busy(name) from error


def require_free_device() -> None:
    """Refuse early what :func:`hold_device` would refuse in the child.

    Raises:
        DeviceBusy: another job owns the device; says which.
    """
    if _held(_device_lock(device_name())):
        raise _busy(device_name())


def lock_path(run: Run) -> Path:
    """Where a running job's lock lies; its text is the process id."""
    return run.folder / "lock"


def alive(run: Run) -> bool:
    """Whether a process is running this run now."""
    return _held(lock_path(run))


def spawn(run: Run, *, trusted_function: str = "") -> subprocess.Popen[bytes]:
    """Start the run's job, detached. Arguments are paths, never settings.

    ``trusted_function`` is the judge or reward file that the person at the keyboard named just now: a job runs no
    other (a project that came from somebody else may name any file).

    Raises:
        DeviceBusy: this very run is alive already.
    """
    if alive(run):
        raise DeviceBusy(
            f"{run.name} is already running", hint=f"watch it: rlhf-lite status {run.folder.parents[1]}"
        )
    if paused(run):  # said to an earlier life; this one reads on from here
        control(run, type="resume")
    command = [sys.executable, "-m", "rlhf_lite.engine", run.stage, str(run.folder)]
    environment = {**child_environment(), "RLHF_LITE_TRUSTED_FUNCTION": trusted_function}
    with run.log_path.open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def stop(run: Run, *, at_once: bool = False) -> None:
    """Ask the job to finish its step, save and stop; ``at_once`` kills it, its last checkpoint stays."""
    if not alive(run):
        return
    pid = int(lock_path(run).read_text(encoding="utf-8") or "0")
    if pid:
        os.kill(pid, signal.SIGKILL if at_once else signal.SIGTERM)


def control(run: Run, **message: Any) -> None:
    """Append one live change, which the job reads between steps: ``pause``, ``resume``, ``stop``, ``set``."""
    line = json.dumps(message).encode() + b"\n"
    descriptor = os.open(run.control_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def paused(run: Run) -> bool:
    """Whether the last word to the job on this was ``pause``; it rests from the end of its step on."""
    try:
        lines = run.control_path.read_bytes().splitlines()
    except FileNotFoundError:
        return False
    asked = (line for line in reversed(lines) if b'"pause"' in line or b'"resume"' in line)
    return b'"pause"' in next(asked, b"")


def watch(
    run: Run,
    process: subprocess.Popen[bytes] | None = None,
    *,
    tail: EventTail | None = None,
    every: float = 0.1,
) -> Iterator[AnyEvent]:
    """Yield the run's events until it ends; the same for a run started elsewhere. ``tail`` is where to begin: a
    resume reads past the earlier life first, so as not to tell it again.

    Raises:
        JobDied: the process ended without a word.
    """
    tail = tail or EventTail(run.events_path)
    ended = False  # by the last event: what follows an end is the next life
    while True:
        gone = process.poll() is not None if process else not alive(run)
        for event in tail.read():
            ended = isinstance(event, ENDS)
            yield event
        if gone:
            if not ended:
                raise _died(run, process)
            return
        time.sleep(every)


def _died(run: Run, process: subprocess.Popen[bytes] | None) -> JobDied:
    lines = run.log_path.read_text(errors="replace").splitlines() if run.log_path.exists() else []
    code = process.returncode if process else None
    why = (
        f"killed by signal {-code}"
        if code is not None and code < 0
        else (lines[-1] if lines else "no output")
    )
    memory = " (often: out of memory)" if code == -signal.SIGKILL else ""
    return JobDied(
        f"{run.name} ended without a word",
        why=why + memory,
        hint=f"its log: {run.log_path}; training goes on with --resume, all else is started again",
    )


class Session:
    """An attached child that speaks line JSON over its pipes: ``chat`` or ``serve`` on one GGUF file, ``talk`` or
    ``preview`` on a project.

    It has a session of its own, so that Ctrl-C stops an answer and not the child; it ends when its stdin closes.
    """

    def __init__(self, verb: str, *arguments: str) -> None:
        self._of_file = verb in ("chat", "serve")
        command = [sys.executable, "-m", "rlhf_lite.engine", verb, *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment(),
            start_new_session=True,
        )  # fmt: skip

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None, "opened with PIPE"
        return pipe

    def send(self, **message: Any) -> None:
        """Send one message; a child that is gone shows at the next :meth:`receive`."""
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            pass

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            JobDied: the child is gone.
            RlhfLiteError: the child reported an error, rebuilt here.
        """
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise self._death(self._process.wait())
        message: dict[str, Any] = json.loads(line)
        if message.get("type") == "error":
            raise from_parts(
                message.get("kind", "JobError"),
                message["message"],
                message.get("why", ""),
                message.get("hint", ""),
            )
        return message

    def _death(self, code: int) -> JobDied:
        """llama.cpp aborts where it could say what is wrong, and a file's chat template gets so much time."""
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        if not self._of_file or code >= 0 or code in (-signal.SIGKILL, -signal.SIGTERM):
            memory = " (often: out of memory)" if code == -signal.SIGKILL else ""
            return JobDied("the chat process ended", why=how + memory, hint="start it again")
        late = code == -signal.SIGPROF
        why = "its chat template does not come to an end" if late else "llama.cpp gave up on it"
        hint = "the file is damaged, or made to do harm: export or download it again"
        return JobDied("the file ended the process that read it", why=f"{why} ({how})", hint=hint)

    def close(self) -> None:
        """End the child."""
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
