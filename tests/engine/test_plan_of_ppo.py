"""The whole of what PPO is planned to take against what it takes: on a GPU by the allocator's count, on a CPU, told to
compute as a GPU does, by the tensors that are alive."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from live_bytes import LiveBytes
from test_needs import WIDE, held, load, saved, size
from transformers import Qwen2Config

from rlhf_lite import needs, planning, shapes
from rlhf_lite.engine import base as engine_base
from rlhf_lite.engine import heads, rollout, sampling, scoring, update
from rlhf_lite.engine.base import pick_device
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.rollout import make_rollout
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.settings import Preset, override

SETTINGS = ["sampling.max_prompt_tokens=96", "sampling.max_new_tokens=64", "sampling.batch_size=16",
            "ppo.micro_batch=16", "ppo.minibatch=32", "ppo.episodes=32", "ppo.epochs=1"]  # fmt: skip


@pytest.mark.long
@pytest.mark.sample
@pytest.mark.parametrize("planned_for", ["gpu", "cpu"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_ppo_takes_what_is_planned_within_a_tenth(
    checkpointing: bool, planned_for: planning.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, preset = pick_device(), override(Preset(), SETTINGS)
    if device.type == "cuda" and planned_for == "cpu":
        pytest.skip("a GPU is here")
    if device.type == "cpu":
        if planned_for == "gpu":
            monkeypatch.setattr(engine_base, "compute_dtype", lambda device: torch.bfloat16)
        for module in (sampling, rollout, scoring, update):  # matrices that a GPU does not make
            monkeypatch.setattr(module, "merged", lambda model: nullcontext())
    folder = saved(Qwen2Config(**{**WIDE, "tie_word_embeddings": True}), tmp_path / "model")
    earlier = load(folder, "nf4", device)
    for name in ("sft", "reward"):
        earlier.add(name, preset.lora, trainable=False)
        earlier.save_adapter(name, tmp_path / name, {heads.SCORE_KEY: torch.zeros(1, earlier.width)})
        heads.save_scale(tmp_path / name, heads.RewardScale())
    del earlier

    base = load(folder, "nf4", device)
    learner = Learner(base, preset.ppo, preset.lora, start=tmp_path / "sft")
    if checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    model = shapes.read(folder, "model")
    score = RewardModel(base, tmp_path / "reward")
    already = size([*held(base.model), *score.head.parameters()]) + needs.critic(model)
    with LiveBytes(held(base.model)) as alive:
        sampled = make_rollout(
            base, [[5] * (96 - i) for i in range(32)], reference=learner.reference, score=score,
            trust_sampled=True, no_eos_penalty=1.0, max_new_tokens=64, sampling_batch=16, micro_batch=16,
            generator=seeded(base.device, 0, 0), on_batch=lambda done: None,
        )  # fmt: skip
        update.update(learner, preset.ppo, sampled, random.Random(0))
    taken = torch.cuda.max_memory_allocated() if device.type == "cuda" else already + alive.peak
    free = None if checkpointing else 2**40
    planned = planning.plan(model, preset, "nf4", free, planned_for).stages["ppo"]
    assert planned.checkpointing is checkpointing
    beside = planned.items.get("cuda_context", 0) + planned.items.get("libraries", 0)
    assert taken == pytest.approx(planned.bytes - beside, rel=0.1)
