"""One PPO step of the real code, and everything it computed on its way.

The step is :meth:`Training.one_step`, nothing of it replaced: a policy that has left its reference, a reward model,
a critic that has learned from two rollouts, answers of unequal lengths of which some were cut, minibatches of two
micro-batches, two epochs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_float64 import Weights
from training_projects import make_project, preferences
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlhf_lite import paths, settings
from rlhf_lite.engine import heads, objectives, ppo, text, update
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.critic import Critic
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.learner import Learner
from rlhf_lite.engine.prompts import PromptIds
from rlhf_lite.engine.rollout import Rollout
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.events import EventTail, Metrics
from rlhf_lite.settings import Lora

MODEL = str(paths.demo_model())
LORA = Lora(rank=4, alpha=8)
SETTINGS = settings.Ppo(
    episodes=12, micro_batch=3, minibatch=6, epochs=2, learning_rate=2e-3, clip=0.1,
    kl_coef=0.3, kl_target=1.0, kl_budget=1e3, gamma=0.97, lam=0.9, score_clip=1.0,
    max_approx_kl=1e3, no_eos_penalty=0.7,
)  # fmt: skip
EARLIER = [0.4, -1.3, 0.9, 0.1]  # scores of the steps before
SCALE = heads.RewardScale(mean=0.2, std=0.6)
MAX_NEW_TOKENS = 24
VOCABULARY, WIDTH = 61, 32
STOPS = frozenset(range(7, VOCABULARY, 15))


@dataclass
class Update:
    """One optimizer step: the rows of its minibatch, weights before it, gradients before clipping, what it told."""

    rows: list[int]
    weights: Weights
    gradients: Weights
    told: dict[str, float]


@dataclass
class Recorded:
    """What one PPO step took and computed; ``weights`` are those it began with, none where the reference is bare;
    ``learned`` is what the critic had been given before."""

    weights: dict[str, Weights]
    learned: list[tuple[torch.Tensor, torch.Tensor]]
    rollout: Rollout
    rewards: torch.Tensor
    values: torch.Tensor
    estimate: objectives.Advantages
    advantages: torch.Tensor
    updates: list[Update]
    metrics: dict[str, float]
    kl_coef: float


def new_model() -> PreTrainedModel:
    """A random Llama of two small layers: what 32 bit round off stays below what is asked of every gradient."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).requires_grad_(False).eval()


def record(folder: Path, *, from_sft: bool) -> Recorded:
    """Take the step. The padding id and the ids that end an answer may be sampled like any other."""
    training = make_training(folder, from_sft=from_sft)
    learner, learned = training.learner, teach(training.learner.critic)
    weights = {view: weights_of(training, view) for view in ("sft", "policy", "reward")}
    kept: dict[str, list[tuple[Any, Any]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [
            (ppo, "make_rollout"), (objectives, "token_rewards"), (objectives, "gae"),
            (objectives, "center_and_scale"), (update, "update_policy"), (Critic, "values"),
        ]:  # fmt: skip
            patch.setattr(owner, name, keeping(kept, name, getattr(owner, name)))
        before = partial(before_a_step, training)
        patch.setattr(learner, "step", keeping(kept, "step", learner.step, before))
        training.one_step()
    [metrics] = [e.values for e in EventTail(training.job.run.events_path).read() if isinstance(e, Metrics)]
    [(_, rollout)], [(_, rewards)] = kept["make_rollout"], kept["token_rewards"]
    [(_, values)], [(_, advantages)] = kept["values"], kept["center_and_scale"]
    estimate = kept["gae"][0][1]
    kl_coef = learner.counters.kl_coef
    return Recorded(
        weights, learned, rollout, rewards, values, estimate, advantages, updates_of(kept), metrics, kl_coef
    )


def teach(critic: Critic) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two rollouts' states and returns that have something to do with each other."""
    generator, told = torch.Generator().manual_seed(6), list[tuple[torch.Tensor, torch.Tensor]]()
    direction = torch.randn(WIDTH, generator=generator)
    for rows in (9, 7):
        states = torch.randn(rows, 20, WIDTH, generator=generator)
        returns = states @ direction / 4 + torch.randn(rows, 20, generator=generator) + 0.3
        critic.learn(states, returns, torch.ones(rows, 20, dtype=torch.bool))
        told.append((states.flatten(0, 1).double(), returns.flatten().double()))
    return told


def new_base() -> SharedBase:
    tokenizer = text.load_tokenizer(MODEL, trust_remote_code=False, plain_template=False)
    return SharedBase(new_model(), tokenizer, STOPS)


def make_training(folder: Path, *, from_sft: bool) -> ppo.Training:
    """PPO with some steps behind it: the policy is off its reference."""
    project = make_project(folder / "p", preferences(1), quantization="32bit")
    preset = settings.Preset(
        lora=LORA, ppo=SETTINGS, sampling=settings.Sampling(max_new_tokens=MAX_NEW_TOKENS)
    )
    inputs = settings.Inputs(
        stage="ppo", project=str(project.root), model=MODEL, quantization="32bit", seed=1
    )
    reward = saved_adapter(new_base(), folder / "reward", 1)
    start = saved_adapter(new_base(), folder / "sft", 2) if from_sft else None
    job, base = Job(project.new_run(inputs, preset)), new_base()
    learner = Learner(base, SETTINGS, LORA, start=start)
    randomise([p for n, p in base.model.named_parameters() if "lora_B.policy." in n], 3, 0.15)
    learner.counters.step = 3  # the first step of a run has a policy that equals its reference
    learner.counters.scores.update(torch.tensor(EARLIER))
    dice = random.Random(1)
    prompts = [
        PromptIds(i, "", [], [dice.randrange(VOCABULARY) for _ in range(length)])
        for i, length in enumerate((3, 9, 5, 12, 1, 7))
    ]
    return ppo.Training(job, learner, RewardModel(base, reward), prompts, prompts)


def saved_adapter(base: SharedBase, folder: Path, seed: int) -> Path:
    """A random adapter, with a score head as reward adapters have."""
    base.add("made", LORA, trainable=False)
    randomise(base.parameters("made"), seed, 0.05)
    head = torch.randn(1, base.width, generator=torch.Generator().manual_seed(seed)) / 4
    base.save_adapter("made", folder, {heads.SCORE_KEY: head})
    heads.save_scale(folder, SCALE)
    return folder


def randomise(parameters: Sequence[torch.Tensor], seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(size * torch.randn(p.shape, generator=generator))


def keeping(
    kept: dict[str, list[tuple[Any, Any]]], name: str, original: Any, before: Callable[[], Any] | None = None
) -> Any:
    """The same function; what it was given (or what there was ``before``) and its result are kept under its name."""

    def kept_too(*given: Any, **named: Any) -> Any:
        seen = before() if before else given
        result = original(*given, **named)
        kept.setdefault(name, []).append((seen, result))
        return result

    return kept_too


def weights_of(training: ppo.Training, view: str, *, gradients: bool = False) -> Weights:
    """A view's weights, or their gradients, in float64: its adapter by the decoder's names, and its ``head``."""
    found: dict[str, torch.Tensor] = {
        n.replace(f".{view}.", ".").removeprefix("model."): p
        for n, p in training.learner.base.model.named_parameters()
        if f".{view}." in n
    }
    if view == "reward" and isinstance(training.score, RewardModel):
        found["head"] = training.score.head.weight
    tensors = {n: p.grad if gradients else p for n, p in found.items()}
    return {n: t.detach().double().clone() for n, t in tensors.items() if t is not None}


def before_a_step(training: ppo.Training) -> tuple[Weights, Weights]:
    """The policy's weights and gradients."""
    return weights_of(training, "policy"), weights_of(training, "policy", gradients=True)


def updates_of(kept: dict[str, list[tuple[Any, Any]]]) -> list[Update]:
    """What belongs together: a minibatch's call and the optimizer step in it."""
    pairs = zip(kept["update_policy"], kept["step"], strict=True)
    return [
        Update([row for rows in given[3] for row in rows], weights, gradients, told)
        for (given, told), ((weights, gradients), _) in pairs
    ]
