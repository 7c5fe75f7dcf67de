"""The reward model: reads the right token, learns from few labels, is plain PEFT, and says how good it is."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import tiny_model
from peft import PeftModel
from torch import nn
from training_projects import make_project, new_job, new_run, preferences
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from rlhf_lite import settings
from rlhf_lite.engine import heads, reward, text, trainers
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.base import SharedBase, keep_unpacked
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.pairs import Pairs, TokenPair, load_pairs
from rlhf_lite.engine.prompts import draw, load_prompts
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.trainers import ADAPTER, JobTrainer, Learned
from rlhf_lite.labels import Preference
from rlhf_lite.project import Project


def prepare(project: Project, *assignments: str) -> tuple[JobTrainer, Learned]:
    job, base = new_job(project, "reward", *assignments)
    base.add(ADAPTER, job.preset.lora, trainable=True)
    learned = Learned(base, heads.new_head(base.width, base.device))
    assert learned.head is not None
    nn.init.normal_(learned.head.weight)  # it starts at zero, where every way of reading it agrees
    return reward.make_trainer(job, learned, load_pairs(job, base, 256).train), learned


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "p", preferences(40), tiny_model("llama"))


def batch_of(trainer: JobTrainer) -> dict[str, Any]:
    return next(iter(trainer.get_train_dataloader()))


def read_as_rollouts_do(learned: Learned, batch: dict[str, Any]) -> torch.Tensor:
    """The sum over each row's tokens, by the base's own path; the first three stand for a prompt of both sides."""
    rows = [r[m.bool()].tolist() for r, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    padded = text.pad([r[:3] for r in rows], [r[3:] for r in rows], learned.base.pad, learned.base.device)
    with learned.base.view(ADAPTER), torch.no_grad():
        return all_rewards(learned, padded)[0]


def all_rewards(learned: Learned, padded: text.Padded) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over each text's tokens, (B,), and over its completion's."""
    assert learned.head is not None
    tokens = heads.token_rewards(learned.head, learned.base.hidden(padded))
    real = padded.own.flip(1).cumsum(1).flip(1) > 0  # up to the completion's last
    return (tokens * real).sum(-1), (tokens * padded.own).sum(-1)


def test_training_reads_the_reward_where_a_rollout_ends(project: Project) -> None:
    """This tokenizer pads with an end-of-text token: pooling by "last token that is not padding" would miss it."""
    trainer, learned = prepare(project)
    base, batch = learned.base, batch_of(trainer)
    assert base.tokenizer.pad_token_id in base.stops
    for row in trainer.train_dataset:  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
        for ids in (row["chosen_ids"], row["rejected_ids"]):
            assert ids[-1] in base.stops
    said = sample(
        base, [[7, 8, 9]] * 64, max_new_tokens=64, batch_size=64, generator=seeded(base.device, 0, 0)
    )
    assert any(said.ended)
    assert all((c[-1] in base.stops) == ended for c, ended in zip(said.completions, said.ended, strict=True))
    assert bool((batch["attention_mask"] == 0).any())
    with base.view(ADAPTER), torch.no_grad():
        scores = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # pyright: ignore
    torch.testing.assert_close(scores.squeeze(-1), read_as_rollouts_do(learned, batch), rtol=1e-5, atol=1e-5)


def test_much_better_takes_a_margin_off_the_difference(project: Project) -> None:
    """Touvron et al. 2023, eq. 2, with the centering of Eisenstein et al. 2023."""
    trainer, learned = prepare(project)
    batch = batch_of(trainer)
    assert {0.0, 1.0} == set(batch["margin"].tolist())
    chosen, rejected = read_as_rollouts_do(learned, batch).chunk(2)
    expected = (
        nn.functional.softplus(-(chosen - rejected - batch["margin"])) + 0.01 * (chosen + rejected) ** 2
    )
    with learned.base.view(ADAPTER):
        found = trainer.compute_loss(trainer.model, batch)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found, expected.mean(), rtol=1e-5, atol=1e-5)


def test_scoring_between_two_updates_leaves_the_gradient_as_it_is(project: Project) -> None:
    trainer, learned = prepare(project)
    batch = batch_of(trainer)

    def gradient() -> torch.Tensor:
        trainer.model.train()  # pyright: ignore[reportOptionalMemberAccess]
        with learned.base.view(ADAPTER):
            trainer.compute_loss(trainer.model, dict(batch)).backward()  # pyright: ignore
        found = torch.cat([p.grad.flatten().clone() for p in learned.parameters() if p.grad is not None])
        trainer.model.zero_grad()  # pyright: ignore[reportOptionalMemberAccess]
        return found

    before = gradient()
    learned.base.model.eval()
    read_as_rollouts_do(learned, batch)
    torch.testing.assert_close(gradient(), before)


def test_a_pairs_difference_is_that_of_the_completions_alone(project: Project) -> None:
    trainer, learned = prepare(project)
    pairs = load_pairs(trainer.job, learned.base, 256).train[:4]
    both = [(p.prompt, c) for p in pairs for c in (p.chosen, p.rejected)]
    padded = text.pad([p for p, _ in both], [c for _, c in both], learned.base.pad, learned.base.device)
    with learned.base.view(ADAPTER), torch.no_grad():
        whole, completions = all_rewards(learned, padded)
    torch.testing.assert_close(
        whole[::2] - whole[1::2], completions[::2] - completions[1::2], rtol=1e-4, atol=1e-4
    )
    assert float((whole - completions).abs().max()) > 0.01


def plain_peft(base: SharedBase, model: str, quantization: settings.Quantization, adapter: Path) -> PeftModel:
    """The reward model as anybody loads it, without a line of this project."""
    options: dict[str, Any] = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    plain = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=1, dtype=torch.float32, **options
    )
    keep_unpacked(plain)
    plain.config.pad_token_id = base.pad
    return PeftModel.from_pretrained(plain, str(adapter)).eval()


def sum_of_scores(model: PeftModel, pair: TokenPair) -> float:
    """The score a stock classifier gives each prefix of the answer, added up as ``reward.json`` says."""
    prefixes = [pair.prompt + pair.chosen[: n + 1] for n in range(len(pair.chosen))]
    return sum(float(model(torch.tensor([p])).logits) for p in prefixes) / 16


@pytest.mark.parametrize("quantization", ["nf4", "32bit"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_adapter_is_plain_peft_and_its_scores_add_up_to_the_rewards(
    kind: str, quantization: settings.Quantization, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "p", preferences(40), tiny_model(kind), quantization=quantization)
    run = new_run(project, "reward")
    assert run_job("reward", run) == 0
    inputs = run.settings().inputs
    base = SharedBase.load(inputs)
    model = RewardModel(base, run.adapter)
    pairs = load_pairs(Job(new_run(project, "reward")), base, 256).held_out
    ours = [
        s * model.scale.std + model.scale.mean
        for s in model([p.prompt for p in pairs], [p.chosen for p in pairs])
    ]
    theirs = plain_peft(base, inputs.model, quantization, run.adapter)
    with torch.no_grad():
        expected = [sum_of_scores(theirs, p) for p in pairs]
    assert ours == pytest.approx(expected, abs=1e-4)
    assert json.loads((run.adapter / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize(("pairs", "expected"), [(36, 20), (20, 34), (264, 4), (1000, 3)])
def test_few_pairs_are_gone_through_until_there_were_enough_steps(pairs: int, expected: int) -> None:
    """100 steps at 8 a step: 36 pairs make 5 steps an epoch, 20 make 3, 264 make 33, 1000 make more than enough."""
    for section in (settings.Reward, settings.Dpo):
        assert trainers.epochs(section(epochs=3, batch_size=8, min_steps=100), pairs) == expected


def test_a_visible_wish_is_learned_from_forty_pairs_and_reported_by_the_contract(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", preferences(40))
    run = new_run(project, "reward", "lora.rank=16", "reward.epochs=6")
    assert run_job("reward", run) == 0
    found = run.status().result
    assert {
        "run",
        "pairs_train",
        "pairs_heldout",
        "accuracy",
        "accuracy_interval",
        "length_baseline",
    } <= found.keys()
    assert found["run"] == run.name
    assert found["accuracy"] == 1.0
    assert found["pairs_train"] + found["pairs_heldout"] == 40  # type: ignore[operator]
    assert found["skipped_too_long"] == 0


def test_the_reward_has_mean_0_and_std_1_on_the_policys_own_samples(project: Project) -> None:
    run = new_run(project, "reward")
    assert run_job("reward", run) == 0
    job = Job(run)
    base = SharedBase.load(job.inputs)
    chosen = draw([p.ids for p in load_prompts(job, base, "train")], reward.SCALE_SAMPLES, 0, 0)
    with base.view(None):
        found = sample(base, chosen, max_new_tokens=8, batch_size=64, generator=seeded(base.device, 0, 0))
    scores = torch.tensor(RewardModel(base, run.adapter)(chosen, found.completions))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scores.std()) == pytest.approx(1, abs=1e-3)
    assert "length_correlation" in {name for m in run.status().metrics for name in m.values}


def pair(chosen: int, rejected: int) -> TokenPair:
    return TokenPair([1], [2] * chosen, [2] * rejected, 0.0)


@pytest.mark.parametrize(
    ("train", "held_out", "share"),
    [
        ([pair(5, 3), pair(6, 2), pair(2, 4)], [pair(9, 1), pair(1, 9), pair(8, 2), pair(7, 6)], 0.75),
        ([pair(3, 5), pair(2, 6), pair(4, 2)], [pair(9, 1), pair(1, 9), pair(8, 2), pair(7, 6)], 0.25),
        ([pair(3, 5)], [pair(1, 9), pair(4, 4)], 0.75),
        ([pair(3, 5)], [], None),
    ],
    ids=["longer", "shorter", "a tie counts half", "nothing held out"],
)
def test_the_length_baseline_prefers_what_training_pairs_prefer(
    train: list[TokenPair], held_out: list[TokenPair], share: float | None
) -> None:
    assert reward.length_baseline(train, held_out) == share


def warnings_for(job: Job, held_out: list[TokenPair], right: int) -> list[str]:
    """What is said of a model that gets so many of them right."""

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[float]:
        order = [float(held_out.index(p) < right) for p in held_out]
        known = {id(p.chosen): v for p, v in zip(held_out, order, strict=True)}
        return [known.get(id(c), 0.5) for c in completions]

    already = len(job.run.status().warnings)
    reward.held_out_accuracy(job, score, Pairs([pair(2, 1)], held_out, 0), 0)  # type: ignore[arg-type]
    return [w.text for w in job.run.status().warnings[already:]]


def test_a_reward_model_that_may_be_guessing_is_called_that(project: Project) -> None:
    job = Job(new_run(project, "reward"))
    many = [pair(i + 1, i + 2) for i in range(40)]
    assert warnings_for(job, many, 38) == []
    assert any("guessing" in w for w in warnings_for(job, many, 22))
    assert any("guessing" in w for w in warnings_for(job, many, 10))
    assert any("only 4 held-out pairs" in w for w in warnings_for(job, many[:4], 4))
    longer = [pair(i + 2, i + 1) for i in range(40)]
    assert any("length alone" in w for w in warnings_for(job, longer, 38))


def test_labels_that_follow_nothing_are_reported_as_such(tmp_path: Path) -> None:
    coin = random.Random(0)
    tossed = [
        Preference(p.prompt, p.rejected, p.chosen) if coin.random() < 0.5 else p for p in preferences(160)
    ]
    project = make_project(tmp_path / "p", tossed, tiny_model("llama"))
    run = new_run(project, "reward")
    assert run_job("reward", run) == 0
    low, high = run.status().result["accuracy_interval"]  # type: ignore[misc]
    assert low <= 0.5 <= high
    assert any("guessing" in w.text for w in run.status().warnings)
