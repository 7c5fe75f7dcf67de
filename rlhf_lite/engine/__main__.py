"""``python -m rlhf_lite.engine VERB RUN_DIR``: runs one job or session in this process.

One of the few broad catches of the project: whatever goes wrong in a job becomes one ``Failed`` event, and
in a session one "error" reply, since nobody watches this process's stderr; a job's traceback goes to the run's log.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from rlhf_lite import jobs
from rlhf_lite.engine import session
from rlhf_lite.engine.job import LOADING, Job, StopRequested, keep_log_clean
from rlhf_lite.errors import DiskFull, JobError, OutOfMemory, RlhfLiteError, UserError
from rlhf_lite.events import Failed, Finished, Started, Stopped
from rlhf_lite.project import Run

JOBS = {"generate": "candidates", "label": "judge", "sft": "sft", "reward": "reward", "dpo": "dpo", "ppo": "ppo",
        "eval": "evaluate", "export": "exporting", "download": "download"}  # fmt: skip
SESSIONS = {"chat": "chat", "talk": "talk", "preview": "preview", "serve": "serve", "probe": "probe"}


def main(arguments: list[str]) -> int:
    """Run a verb; the exit code is the contract's."""
    verb, *rest = arguments
    if verb in SESSIONS:
        return run_session(verb, rest)
    return run_job(verb, Run(Path(rest[0])))


def run_session(verb: str, arguments: list[str]) -> int:
    """Run a session; what ends it early is its last reply."""
    try:
        return importlib.import_module(f"rlhf_lite.engine.{SESSIONS[verb]}").main(arguments)
    except BrokenPipeError:  # whoever asked is gone
        return 0
    except Exception as error:  # see the module's docstring
        traceback.print_exc()
        known = _translate(error, verb, "start it again")
        session.send(sys.stdout.buffer, session.as_reply(known))
        return known.exit_code


def run_job(verb: str, run: Run) -> int:
    """Run a job under its locks; every way it can end is one event."""
    keep_log_clean()
    with jobs.hold_lock(jobs.lock_path(run), str(os.getpid())):
        job = Job(run)
        job.emit(Started(stage=verb, pid=os.getpid()))
        try:
            if verb in jobs.WITHOUT_DEVICE:
                _stage(verb).run(job)
            else:
                job.progress(LOADING, 0, 1)  # importing torch and its kin alone takes seconds
                with jobs.hold_device(jobs.device_name(), run):
                    _run_stage(job)
        except StopRequested as stop:
            job.emit(Stopped(step=stop.step))
            return 130
        except Exception as error:  # see the module's docstring
            traceback.print_exc()
            known = _translate(error, verb, "the run's job.log has the details")
            job.emit(Failed(kind=type(known).__name__, message=known.message, why=known.why, hint=known.hint))
            return known.exit_code
        job.emit(Finished())
        return 0


def _run_stage(job: Job) -> None:
    """Run a stage that wants the device, with as many processes as the run has."""
    count = job.inputs.processes
    if count == 1:
        return _stage(job.inputs.stage).run(job)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    from rlhf_lite.engine import processes  # torch, which reads the line above as it is imported

    stage = _stage(job.inputs.stage)
    with processes.helpers(job, stage.__name__):
        stage.run(job)


def _stage(verb: str):
    return importlib.import_module(f"rlhf_lite.engine.{JOBS[verb]}")


def _translate(error: Exception, verb: str, otherwise: str) -> RlhfLiteError:
    if isinstance(error, RlhfLiteError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(
            "out of memory", why=str(error).splitlines()[0] if str(error) else "",
            hint="close other programs, or use a smaller model" if verb in SESSIONS
            else "use smaller batches (--set ppo.micro_batch=2, --set sampling.batch_size=8) or a smaller model",
        )  # fmt: skip
    if isinstance(error, OSError) and error.errno == 28:
        return DiskFull("the disk is full", why=str(error), hint="free some space and go on with --resume")
    if isinstance(error, PermissionError):
        return UserError("not allowed to read or write a file", why=str(error))
    return JobError(f"{verb} failed", why=f"{type(error).__name__}: {error}", hint=otherwise)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
