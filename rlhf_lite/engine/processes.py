"""One run in several processes, by Accelerate: a GPU each, or on the CPU a share of its cores.

Every process holds all that trains, from the same files under the same seed. Episodes and micro-batches are shared
out, gradients add up before they are clipped, and what is decided is decided from the same numbers: so all stay alike.

- The run's own process is the main one, the only one that takes stops and live changes, says events, writes files and
  reports to a tracker. It starts the others itself: `accelerate launch` would stand between it and its signals and
  exit codes, give a job that was asked to stop 30 seconds, read the user's own defaults, and start no second process
  on a CPU.
- What one process meets, all meet (:meth:`Team.each`): otherwise the rest would wait for it without end.
- A process that dies ends the run (:func:`helpers`), so waiting for one another has no other limit than a long pause.

Left out: several machines, and one model spread over GPUs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import torch
from accelerate import Accelerator
from accelerate.utils import (
    InitProcessGroupKwargs,
    broadcast_object_list,
    check_cuda_p2p_ib_support,
    gather_object,
    patch_environment,
)
from accelerate.utils.other import get_free_port
from torch import nn

from rlhf_lite.engine.job import Helper, Job, StopRequested, keep_log_clean
from rlhf_lite.errors import JobDied, JobError, RlhfLiteError
from rlhf_lite.events import Failed
from rlhf_lite.project import Run

T = TypeVar("T")
LONGEST_PAUSE = timedelta(days=7)
PATIENCE = 5.0
"""Seconds that the main process has to end a run by itself before another's death is told for it."""


class Team:
    """The processes of one run as one of them sees it; without arguments, the only one.

    Attributes:
        rank: which this is; 0 is the main one.
        count: how many there are.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.rank = accelerator.process_index if accelerator else 0
        self.count = accelerator.num_processes if accelerator else 1
        self._accelerator = accelerator

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, items: list[T]) -> list[T]:
        """This process's part of what all have; the main one's is never the smallest."""
        return items[self.rank :: self.count]

    def each(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives in every process, in their order; all have to call it.

        Raises:
            RlhfLiteError, FloatingPointError, torch.OutOfMemoryError: one of them met it.
            JobError: one of them met something else, which is in the run's log.
        """
        if self.count == 1:
            return [work()]
        found: T | None = None
        trouble: Exception | None = None
        try:
            found = work()
        except (RlhfLiteError, FloatingPointError, torch.OutOfMemoryError) as error:
            trouble = error.with_traceback(None)  # its frames hold what filled the memory
        except Exception as error:  # whatever it is, the others would wait
            traceback.print_exc()
            trouble = JobError(
                f"process {self.rank + 1} of {self.count} failed", why=f"{type(error).__name__}: {error}",
                hint="the run's job.log has the details",
            )  # fmt: skip
        every = gather_object([(found, trouble)])
        for _, met in every:
            if met is not None:
                raise met
        return [result for result, _ in every]

    def from_main(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the main process, the only one that does it; all have to call this."""
        if self.count == 1:
            return work()
        return cast("list[T]", broadcast_object_list([work() if self.main else None]))[0]

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every parameter's gradient becomes the sum over the processes; none counts as 0."""
        if self.count == 1 or self._accelerator is None:
            return
        own = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in own])
        summed = self._accelerator.reduce(flat, "sum")
        assert isinstance(summed, torch.Tensor), "a tensor's sum is one"
        for parameter, part in zip(own, summed.split([p.numel() for p in own]), strict=True):
            parameter.grad = part.view_as(parameter)

    def log(self, values: dict[str, float], step: int) -> None:
        """The main process tells the tracker, where one was asked for."""
        if self._accelerator and self.main:
            self._accelerator.log(values, step)

    def part(self) -> None:
        """What the tracker still holds is written, the processes let go of each other."""
        if self._accelerator:
            self._accelerator.end_training()


@contextmanager
def team_of(job: Job) -> Generator[Team]:
    """The run's processes, for one of them; wanted before a model is loaded, as it picks this one's GPU.

    They part when the work is done or stopped; after an error none could count on the others.
    """
    team = Team(_accelerator(job))
    try:
        yield team
    except StopRequested:
        team.part()
        raise
    team.part()


def _accelerator(job: Job) -> Accelerator | None:
    inputs, several = job.inputs, job.inputs.processes > 1
    if not several and not inputs.report_to:
        return None
    gpu = torch.cuda.is_available()
    group = InitProcessGroupKwargs("cuda:nccl,cpu:gloo" if gpu else "gloo", timeout=LONGEST_PAUSE)
    accelerator = Accelerator(
        cpu=several and not gpu, mixed_precision="no", kwargs_handlers=[group] if several else None,
        log_with=inputs.report_to or None, project_dir=job.run.folder / "tracker",
    )  # fmt: skip
    if inputs.report_to and accelerator.is_main_process:
        told = {"model": inputs.model, "seed": inputs.seed, "processes": inputs.processes}
        named = {
            "wandb": {"name": job.run.name, "dir": str(job.run.folder)},
            "trackio": {"name": job.run.name},
        }
        accelerator.init_trackers("rlhf-lite", {**told, **msgspec.to_builtins(job.preset.ppo)}, named)
    return accelerator


@contextmanager
def helpers(job: Job, stage: str) -> Generator[None]:
    """Have the run's other processes run the stage, a module's full name, for as long as this one does it.

    Raises:
        JobDied: one of them ended, and with it what this process was doing.
    """
    count = job.inputs.processes
    environment = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": get_free_port(), "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": 0, "LOCAL_RANK": 0,
    }  # fmt: skip
    if not check_cuda_p2p_ib_support():  # RTX 40 under an old driver
        environment |= {"NCCL_P2P_DISABLE": 1, "NCCL_IB_DISABLE": 1}
    with patch_environment(**environment):
        spawned = torch.multiprocessing.spawn(_help, (stage, job.run.folder), nprocs=count - 1, join=False)
        assert spawned is not None, "it was not asked to join"
        processes = cast("list[BaseProcess]", spawned.processes)
        over, peaceful = threading.Event(), False
        threading.Thread(target=_watch, args=(job, processes, over), daemon=True).start()
        try:
            yield
            peaceful = True
        except StopRequested:
            peaceful = True
            raise
        except RlhfLiteError:
            raise
        except Exception as error:  # perhaps only what follows from another's end
            over.set()
            died = _death(job, processes, PATIENCE)
            if died:
                raise died from error
            raise
        finally:
            over.set()
            for process in processes:
                process.join(PATIENCE if peaceful else 0)
                process.kill()


def _help(index: int, stage: str, folder: Path) -> None:
    """Be the run's process of the rank after ``index``.

    How that ends is for the main one to say, hence a broad catch: what all have met is told there at once, and this
    process ended; only what it met alone outlives the wait.
    """
    keep_log_clean()
    os.environ.update(RANK=str(index + 1), LOCAL_RANK=str(index + 1))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is sent when the main one dies ends any wait
    try:
        importlib.import_module(stage).run(Helper(Run(folder)))
    except StopRequested:
        pass
    except Exception:
        traceback.print_exc()
        time.sleep(2 * PATIENCE)
        sys.exit(JobDied.exit_code)


def _watch(job: Job, processes: list[BaseProcess], over: threading.Event) -> None:
    """Speak for a main process that waits without end for one that has died."""
    while not over.wait(0.5):
        died = _death(job, processes)
        if died and not over.wait(PATIENCE):
            job.emit(Failed(kind=type(died).__name__, message=died.message, why=died.why, hint=died.hint))
            os._exit(died.exit_code)


def _death(job: Job, processes: list[BaseProcess], patience: float = 0.0) -> JobDied | None:
    """How the first of them that died did so, if one does within so many seconds."""
    until, log = time.monotonic() + patience, job.run.log_path
    while True:
        for rank, process in enumerate(processes, 1):
            if code := process.exitcode:
                said = log.read_text(errors="replace").splitlines() if log.exists() else []
                last = said[-1] if said else f"exit code {code}"
                killed = f"killed by signal {-code} (often: out of memory)"
                return JobDied(
                    f"process {rank + 1} of {len(processes) + 1} died", why=killed if code < 0 else last,
                    hint="the run's job.log has the details; go on with --resume",
                )  # fmt: skip
        if time.monotonic() >= until:
            return None
        time.sleep(0.1)
