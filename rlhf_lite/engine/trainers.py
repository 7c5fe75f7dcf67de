"""What the stages on TRL's trainers share: arguments, events, stops, checkpoints.

Decided here:

- TRL renders and tokenizes nothing. It gets token ids built by :mod:`rlhf_lite.engine.text`, so that a training text
  ends at the very token where a rollout ends.
- Adapters and heads stay fp32; TRL would turn those on a 4-bit base into bf16, where small steps are lost.
- Checkpoints hold the adapter in PEFT's format beside what ``transformers.Trainer`` itself needs to go on (optimizer,
  schedule, random states, position in the data). Written once a minute, at a stop and at the end.
- Nothing is sent anywhere: TRL's telemetry is off.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers import logging as transformers_logging
from transformers.trainer_callback import TrainerControl, TrainerState

from rlhf_lite.catalog import micro_batch
from rlhf_lite.engine import checkpoint, heads
from rlhf_lite.engine.base import SharedBase, compute_dtype
from rlhf_lite.engine.job import Job, StopRequested
from rlhf_lite.errors import Diverged
from rlhf_lite.events import Metrics, Resumed, Saved
from rlhf_lite.settings import Dpo, Reward, Sft

ADAPTER = "default"  # what TRL calls the adapter it trains; DPOTrainer knows no other name
SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class Learned:
    """What a TRL stage trains: the one trainable adapter of the base, and a score head where there is one."""

    base: SharedBase
    head: nn.Linear | None = None

    def parameters(self) -> list[nn.Parameter]:
        return [*self.base.parameters(ADAPTER), *(self.head.parameters() if self.head else ())]

    def save(self, folder: Path) -> None:
        """Write it as a plain PEFT folder."""
        self.base.save_adapter(ADAPTER, folder, {heads.SCORE_KEY: self.head.weight} if self.head else None)

    def load(self, folder: Path) -> None:
        """Take the weights of such a folder."""
        state = load_file(str(folder / "adapter_model.safetensors"))
        score = state.pop(heads.SCORE_KEY, None)
        self.base.load_state(ADAPTER, state)
        if self.head is not None and score is not None:
            self.head.load_state_dict({"weight": score})


class JobTrainer(Trainer):
    """Mixed in before a TRL trainer: a job's events, stops and checkpoints in place of the trainer's own."""

    job: Job
    learned: Learned
    keep: Container[int] = ()  # steps of checkpoints that are not pruned
    done: bool = False  # whatever steps are left

    @classmethod
    def build(cls, job: Job, learned: Learned, model: nn.Module, **options: Any) -> JobTrainer:
        """Make the trainer, keep what it trains in fp32, and connect it to the job."""
        base = learned.base
        tokenizer = copy.deepcopy(base.tokenizer)  # TRL changes it
        # Pooling looks for the last token that is not padding: where padding is eos it would miss every eos.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(base.pad)
        with _dtypes_kept(model):
            trainer = cls(model=model, processing_class=tokenizer, **options)
        trainer.job, trainer.learned = job, learned
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(JobCallback(job))
        return trainer

    def run(self) -> None:
        """Train, or go on from the run's last checkpoint; ends with a checkpoint.

        Raises:
            StopRequested: the user stopped it; a checkpoint was written.
            Diverged: a loss or gradient is not finite.
        """
        self._check_trainable()
        if self.done:
            return
        before = self.job.run.checkpoints()
        if before:
            self.job.emit(Resumed(from_step=int(before[-1].name)))
        self.train(resume_from_checkpoint=str(before[-1]) if before else None)
        self.learned.base.model.eval()
        if self.state.global_step < self.state.max_steps and not self.done:
            raise StopRequested(self.state.global_step)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """In the adapter's own view, which is left between two steps: a callback may look from another."""
        with self.learned.base.view(ADAPTER):
            return super().training_step(*args, **options)

    @property
    def adapter(self) -> Path:
        """The trained adapter, in the run's last checkpoint."""
        return self.job.run.checkpoints()[-1] / "adapter"

    def _check_trainable(self) -> None:
        expected = {id(p) for p in self.learned.parameters()}
        found = {id(p) for p in self.model.parameters() if p.requires_grad}  # pyright: ignore[reportOptionalMemberAccess]
        assert found == expected, "trainable parameters are not exactly the adapter's and the head's"
        assert all(p.dtype == torch.float32 for p in self.learned.parameters()), (
            "adapters and heads are kept in fp32"
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        def write(folder: Path) -> None:
            self.learned.save(folder / "adapter")
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))

        step = self.state.global_step
        path = checkpoint.save(self.job.run, step, write, keep=self.keep)
        self.job.emit(Saved(step=step, path=str(path)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.learned.load(Path(resume_from_checkpoint) / "adapter")

    def _send_telemetry(self) -> None:
        """TRL would report device and versions to its makers."""


class JobCallback(TrainerCallback):
    """Tells the job each step, and the trainer when to save and stop."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._job.progress("training steps", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for change in self._job.controls():
            self._job.note(f"{change.get('name')} cannot be changed while this stage runs")
        self._job.progress("training steps", state.global_step, state.max_steps)
        control.should_training_stop |= self._job.stop_requested
        due = time.monotonic() - self._saved_at > SAVE_EVERY
        control.should_save = due or self._job.stop_requested or state.global_step >= state.max_steps

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved_at = time.monotonic()

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        state.log_history.clear()  # the events are the log
        if not logs or "loss" not in logs:  # the summary at the end
            return
        values = {("lr" if k == "learning_rate" else k): float(v) for k, v in logs.items() if k != "epoch"}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise diverged(self._job, state.global_step, f"not finite: {', '.join(broken)}")
        self._job.emit(Metrics(step=state.global_step, values=values))


def diverged(job: Job, step: int, why: str) -> Diverged:
    hint = f"try a tenth of the learning rate: --set {job.inputs.stage}.learning_rate=…"
    return Diverged(f"training diverged at step {step}", why=why, hint=hint)


def epochs(section: Reward | Dpo, pairs: int) -> int:
    """How often the pairs are gone through. With 36 of them 30 steps left a reward model right about 76 % of further
    pairs, 100 steps about 99 %; with 35 of them 50 steps of DPO won 70 % against the base, 100 steps 85 %."""
    return max(section.epochs, math.ceil(section.min_steps / math.ceil(pairs / section.batch_size)))


def arguments(
    job: Job, section: Sft | Reward | Dpo, base: SharedBase, longest: int, epochs: int
) -> dict[str, Any]:
    """The training arguments that all three trainers share.

    Args:
        longest: tokens of the longest example, both sides of a pair together.
        epochs: how often the examples are gone through.
    """
    _silence()
    on_gpu = base.device.type == "cuda"
    size = micro_batch(section.batch_size, longest)
    return {
        "output_dir": str(job.run.folder / "checkpoints"),
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": section.batch_size // size,
        "num_train_epochs": epochs,
        "learning_rate": section.learning_rate,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": job.inputs.seed,
        "use_cpu": not on_gpu,
        "bf16": False,  # the base already computes in it where the device can; autocast would round the adapters
        "fp16": on_gpu and compute_dtype(base.device) == torch.float16,
        "gradient_checkpointing": False,  # which TRL takes for granted; the base was loaded with what the run needs
        "max_length": None,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
    }


def first_and_last_loss(job: Job) -> tuple[float, float]:
    """The loss of the run's first and last step, over all its lives."""
    losses = [m.values["loss"] for m in job.run.status().metrics if "loss" in m.values]
    return losses[0], losses[-1]


def columns(rows: Sequence[dict[str, Any]]) -> datasets.Dataset:
    """Rows as the dataset a trainer reads."""
    return datasets.Dataset.from_list(list(rows))


@contextmanager
def _dtypes_kept(model: nn.Module) -> Iterator[None]:
    """Undo, weights and all, the cast to bf16 that TRL's constructors do to what is trainable on a 4-bit base."""
    before = [(p, p.data) for p in model.parameters() if p.requires_grad]
    yield
    for parameter, data in before:
        parameter.data = data


def _silence() -> None:
    """The run's log is for errors and tracebacks, not for bars and advice."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
