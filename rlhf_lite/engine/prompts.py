"""The project's prompts as token ids; what does not fit is skipped and counted, never cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.errors import UserError
from rlhf_lite.labels import Message


@dataclass(frozen=True)
class PromptIds:
    """A prompt: its id in the label store, its last user message, its messages and its token ids."""

    id: int
    text: str
    messages: list[Message]
    ids: list[int]


def load_prompts(
    job: Job, base: SharedBase, split: str | None, *, or_else: list[PromptIds] | None = None
) -> list[PromptIds]:
    """The prompts of a split that leave room for an answer in the model's context.

    Args:
        or_else: used, with a warning, where a small project has no prompt in this split.

    Raises:
        UserError: there is no prompt, or none fits.
    """
    with job.project.labels() as store:
        stored = store.prompts(split)
    sampling = job.preset.sampling
    room = min(sampling.max_prompt_tokens, base.context - sampling.max_new_tokens)
    every = [PromptIds(p.id, p.text, p.messages, text.prompt_ids(base.tokenizer, p.messages)) for p in stored]
    fitting = [p for p in every if len(p.ids) <= room]
    if len(fitting) < len(every):
        job.note(
            f"{len(every) - len(fitting)} of {len(every)} prompts are longer than {room} tokens and were skipped"
        )
    if fitting:
        return fitting
    if or_else and not every:
        job.warn(f"no prompt fell into the {split} part; the training prompts stand in", "add more prompts")
        return or_else
    if every:
        raise UserError(
            f"no prompt fits into {room} tokens", why=f"the shortest has {min(len(p.ids) for p in every)}",
            hint="add shorter prompts, or --set sampling.max_prompt_tokens=… where the model's context allows",
        )  # fmt: skip
    raise UserError(
        f"no {split or ''} prompts to work on".replace("  ", " "),
        hint=f"add some: rlhf-lite prompts {job.project.root} add FILE",
    )


def draw(prompts: Sequence[list[int]], number: int, offset: int, seed: int) -> list[list[int]]:
    """``number`` prompts from position ``offset`` of an endless list of shuffled passes over all prompts."""
    found: list[list[int]] = []
    while len(found) < number:
        epoch, position = divmod(offset + len(found), len(prompts))
        order = random.Random(f"{seed}/{epoch}").sample(range(len(prompts)), len(prompts))
        found += [prompts[i] for i in order[position : position + number - len(found)]]
    return found
