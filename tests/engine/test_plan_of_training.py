"""What SFT, the reward model and DPO are planned to take against what they take, TRL's trainers and all: on a GPU by
the allocator's count, on a CPU by the tensors that are alive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from live_bytes import LiveBytes
from msgspec import structs
from test_checkpointing import trainer_of
from test_needs import WIDE, held, saved, size
from training_projects import make_project, new_run
from transformers import LlamaConfig

from rlhf_lite import paths, planning, shapes
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.pairs import load_pairs
from rlhf_lite.labels import Preference
from rlhf_lite.settings import override

ANSWER = " ".join(["tea", "milk", "house", "garden"] * 60)


def wide_model(folder: Path) -> Path:
    """Its layers take much beside its adapters; it speaks as the built-in model does."""
    demo = json.loads((paths.demo_model() / "config.json").read_text())
    spoken = {"vocab_size": demo["vocab_size"], "eos_token_id": demo["eos_token_id"], "bos_token_id": None}
    saved(LlamaConfig(**{**WIDE, **spoken, "max_position_embeddings": 1024}), folder)
    for file in paths.demo_model().iterdir():
        if not (folder / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_trainer_takes_what_is_planned_within_a_tenth(
    stage: str, checkpointing: bool, tmp_path: Path
) -> None:
    folder = wide_model(tmp_path / "model")
    pairs = [
        Preference([{"role": "user", "content": f"Say {i}"}], f"{ANSWER} yes {i}", f"{ANSWER} no {i}", 0.0)
        for i in range(24)
    ]
    project = make_project(tmp_path / "p", pairs, folder)
    job = Job(new_run(project, stage, f"{stage}.epochs=1"))
    base = SharedBase.load(structs.replace(job.inputs, checkpointing=checkpointing))
    trainer = trainer_of(stage, job, base)
    longest = max(p.longest for p in load_pairs(job, base, 1024).train)
    already = size(held(base.model))
    with LiveBytes(held(base.model)) as alive:
        trainer.run()
    on_gpu = base.device.type == "cuda"
    taken = torch.cuda.max_memory_allocated() if on_gpu else already + alive.peak

    # Nothing is sampled or judged here: of that the plan is to count next to nothing.
    preset = override(
        job.preset, [f"{stage}.max_tokens={longest}", "sampling.batch_size=1", "ppo.micro_batch=1"]
    )
    free, device = None if checkpointing else 2**40, "gpu" if on_gpu else "cpu"
    planned = planning.plan(shapes.read(folder, "m"), preset, "nf4", free, device).stages[stage]
    assert planned.checkpointing is checkpointing
    beside = planned.items.get("cuda_context", 0) + planned.items.get("libraries", 0)
    assert taken == pytest.approx(planned.bytes - beside, rel=0.1)
