"""``train sft``: imitate given demonstrations and the chosen answers of decided pairs, by TRL's SFTTrainer.

The loss is over the completion alone, its stop token included: the prompt is not ours to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from trl import SFTConfig, SFTTrainer

from rlhf_lite.engine import checkpoint, text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.pairs import note_skipped
from rlhf_lite.engine.trainers import ADAPTER, JobTrainer, Learned, arguments, columns, first_and_last_loss
from rlhf_lite.errors import NotEnoughLabels

IGNORED = -100  # the label of a token without loss


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to imitate, as token ids; it ends with the stop token."""

    prompt: list[int]
    completion: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * len(self.prompt) + self.completion


class JobSftTrainer(JobTrainer, SFTTrainer):
    """TRL's trainer, run as a job."""


def run(job: Job) -> None:
    """The stage ``sft``."""
    base = SharedBase.of(job)
    examples, skipped = load_examples(job, base)
    torch.manual_seed(job.inputs.seed)
    base.add(ADAPTER, job.preset.lora, trainable=True)
    trainer = make_trainer(job, Learned(base), examples)
    trainer.run()
    checkpoint.publish(trainer.adapter, job.run.adapter)
    first, last = first_and_last_loss(job)
    job.result(
        {"examples": len(examples), "loss_first": first, "loss_last": last, "skipped_too_long": skipped}
    )


def load_examples(job: Job, base: SharedBase) -> tuple[list[Example], int]:
    """What there is to imitate on training prompts, each once, and how many more do not fit.

    Raises:
        NotEnoughLabels: there is nothing, or nothing fits.
    """
    with job.project.labels() as store:
        given = store.demonstrations("train") + [(p.prompt, p.chosen) for p in store.preferences("train")]
    every = {
        (*prompt, *completion): Example(prompt, completion)
        for prompt, completion in (
            (text.prompt_ids(base.tokenizer, messages), text.completion_ids(base.tokenizer, answer))
            for messages, answer in given
        )
    }
    limit = min(job.preset.sft.max_tokens, base.context)
    fitting = [e for e in every.values() if len(e.ids) <= limit]
    skipped = len(every) - len(fitting)
    if not fitting:
        raise NotEnoughLabels(
            "nothing to imitate", why=f"all {skipped} examples are longer than {limit} tokens" if skipped else "",
            hint="import demonstrations or label some pairs; a quarter of all prompts is held out",
        )  # fmt: skip
    note_skipped(job, skipped, len(every), limit)
    return fitting, skipped


def make_trainer(job: Job, learned: Learned, examples: Sequence[Example]) -> JobTrainer:
    """TRL's trainer on the shared base."""
    longest = max(len(e.ids) for e in examples)
    rows = [{"input_ids": e.ids, "labels": e.labels} for e in examples]
    section = job.preset.sft
    config = SFTConfig(**arguments(job, section, learned.base, longest, section.epochs))
    return JobSftTrainer.build(job, learned, learned.base.peft, args=config, train_dataset=columns(rows))
