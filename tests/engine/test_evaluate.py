"""Evaluation as its user reads it: every answer on held-out prompts is counted, once, for the right side."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import lora
from safetensors.torch import load_file, save_file

from rlhf_lite import paths, settings
from rlhf_lite.engine import heads
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.functions import hash_file
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.votes import Ballot

JUDGES = """
def shorter(prompt, a, b):
    return len(b) // 8 - len(a) // 8

def even(prompt, a, b):
    return "tie"

def fails(prompt, a, b):
    raise ValueError("no opinion")

def mumbles(prompt, a, b):
    return "the first, perhaps"
"""
SAMPLES = 3


@pytest.fixture
def project(tmp_path: Path) -> Project:
    file = ProjectFile(name="p", model=str(paths.demo_model()), preset="demo", quantization="32bit")
    made = Project.create(tmp_path / "p", file)
    questions = (paths.examples() / "prompts.txt").read_text().splitlines()[:90]
    with made.labels() as store:
        store.add_prompts([[{"role": "user", "content": q}] for q in questions])
        assert 5 <= len(store.prompts("test")) <= 30
    (tmp_path / "judge.py").write_text(JUDGES)
    return made


def evaluate(
    project: Project, monkeypatch: pytest.MonkeyPatch, policy: Path | None, judge: str = "", **inputs: Any
) -> tuple[int, Run]:
    file = project.root.parent / "judge.py"
    function = f"{file}:{judge}" if judge else ""
    given = settings.Inputs(
        stage="eval", project=str(project.root), model=project.file.model, quantization="32bit", seed=2,
        policies=(str(policy),) if policy else (), function=function,
        function_sha256=hash_file(file) if judge else "", **inputs,
    )  # fmt: skip
    few = [f"eval.samples={SAMPLES}", "sampling.max_new_tokens=16"]
    run = project.new_run(given, settings.override(settings.load_preset("demo"), few))
    monkeypatch.setenv("RLHF_LITE_TRUSTED_FUNCTION", function)
    return run_job("eval", run), run


def samples_of(run: Run) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A policy far from the base."""
    folder = Path(shutil.copytree(lora("demo"), tmp_path / "0001-dpo" / "adapter"))
    file = folder / "adapter_model.safetensors"
    save_file({k: 8 * v if "lora_B" in k else v for k, v in load_file(file).items()}, file)
    return folder


@pytest.fixture
def unchanged(tmp_path: Path, project: Project) -> Path:
    """A policy that has learned nothing: a fresh LoRA is the base itself."""
    base = shared_base(project)
    base.add("fresh", settings.Lora(), trainable=True)
    base.save_adapter("fresh", tmp_path / "0001-dpo" / "adapter")
    return tmp_path / "0001-dpo" / "adapter"


@pytest.fixture
def reward(tmp_path: Path, project: Project) -> Path:
    base, folder = shared_base(project), tmp_path / "reward"
    base.add("reward", settings.Lora(), trainable=True)
    weight = torch.randn(1, base.width, generator=torch.Generator().manual_seed(0))
    base.save_adapter("reward", folder, {heads.SCORE_KEY: weight})
    heads.save_scale(folder, heads.RewardScale(0.0, 1.0))
    return folder


def shared_base(project: Project) -> SharedBase:
    return SharedBase.load(
        settings.Inputs("eval", str(project.root), project.file.model, quantization="32bit", seed=0)
    )


def test_each_answer_to_a_held_out_prompt_is_counted_for_its_side(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed: Path
) -> None:
    code, run = evaluate(project, monkeypatch, changed, "shorter")
    assert code == 0
    result: dict[str, Any] = run.status().result
    with project.labels() as store:
        held_out = [p.text for p in store.prompts("test")]
    lines = samples_of(run)
    asked = Counter((line["mode"], line["prompt"]) for line in lines)
    assert asked == {(m, p): n for m, n in (("sampled", SAMPLES), ("greedy", 1)) for p in held_out}
    assert result["prompts"] == len(held_out)
    for mode, found in (("sampled", result), ("greedy", result["greedy"])):
        gained = [len(x["base"]) // 8 - len(x["0001-dpo"]) // 8 for x in lines if x["mode"] == mode]
        expected = [sum(g > 0 for g in gained), sum(g < 0 for g in gained), sum(g == 0 for g in gained)]
        assert [found["wins"], found["losses"], found["ties"]] == expected
    wins, losses, ties = result["wins"], result["losses"], result["ties"]
    answers = SAMPLES * len(held_out)
    assert wins + losses + ties == answers
    assert wins != losses, "or this test could not tell the sides apart"
    assert ties > 0
    assert result["win_rate"] == pytest.approx((wins + ties / 2) / answers)
    assert result["decided_win_rate"] == pytest.approx(wins / (wins + losses))
    low, high = result["win_rate_interval"]
    assert 0 <= low <= result["win_rate"] <= high <= 1
    assert result["kl"] > 1, "nats a sequence, to the base"
    assert result["runs"]["0001-dpo"]["wins"] == wins


def test_a_policy_that_is_the_base_is_even_with_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, unchanged: Path
) -> None:
    code, run = evaluate(project, monkeypatch, unchanged, "shorter")
    assert code == 0
    result: dict[str, Any] = run.status().result
    low, high = result["win_rate_interval"]
    assert low <= 0.5 <= high
    assert high - low > 0.1, "few answers cannot say more"
    assert result["greedy"] == {"wins": 0, "losses": 0, "ties": result["prompts"]}
    assert result["kl"] == pytest.approx(0, abs=1e-3)
    lines = samples_of(run)
    assert all(x["base"] == x["0001-dpo"] for x in lines if x["mode"] == "greedy")
    sampled = [x["base"] == x["0001-dpo"] for x in lines if x["mode"] == "sampled"]
    assert sum(sampled) < len(sampled) / 2, "each side draws random numbers of its own"


def test_only_ties_decide_nothing(project: Project, monkeypatch: pytest.MonkeyPatch, changed: Path) -> None:
    code, run = evaluate(project, monkeypatch, changed, "even")
    assert code == 0
    result = run.status().result
    assert (result["win_rate"], result["decided_win_rate"], result["decided_share"]) == (0.5, None, 0.0)


@pytest.mark.parametrize(("judge", "why"), [("fails", "ValueError: no opinion"), ("mumbles", "must return")])
def test_a_judge_that_misbehaves_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed: Path, judge: str, why: str
) -> None:
    code, run = evaluate(project, monkeypatch, changed, judge)
    failure = run.status().failure
    assert code == 2
    assert failure
    assert failure.kind == "UserError"
    assert f"judge.py:{judge}" in failure.message
    assert why in failure.why
    assert samples_of(run), "what was sampled can be read all the same"


def test_without_a_judge_the_reward_model_decides_and_that_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed: Path, reward: Path
) -> None:
    policy = Path(shutil.copytree(changed, changed.parents[1] / "0002-ppo" / "adapter"))
    code, run = evaluate(project, monkeypatch, policy, reward=str(reward))
    assert code == 0
    result: dict[str, Any] = run.status().result
    assert result["judge"] == "the reward model"
    better = result["tuned"]["score"] > result["base"]["score"]
    assert (result["wins"] > result["losses"]) == better
    assert any("trained on it" in w.text for w in run.status().warnings)
    heads.save_scale(
        reward, heads.RewardScale(0.0, 1e9)
    )  # now every difference is far below a tenth of a deviation
    code, run = evaluate(project, monkeypatch, policy, reward=str(reward))
    assert (code, run.status().result["decided_share"]) == (0, 0.0)


def test_without_a_reward_model_or_judge_all_is_measured_but_who_won_and_the_answers_wait_for_votes(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed: Path
) -> None:
    code, run = evaluate(project, monkeypatch, changed)
    assert code == 0
    result: dict[str, Any] = run.status().result
    sampled = [line for line in samples_of(run) if line["mode"] == "sampled"]
    assert len(sampled) == SAMPLES * result["prompts"]
    for side in (result["base"], result["tuned"]):
        assert side["score"] is None
        assert 0 < side["tokens"] <= 16
        assert 0 <= side["eos_rate"] <= 1
        assert 0 < side["distinct_2"] <= 1
    assert result["kl"] > 1
    assert result["judge"] is None
    unknown = ("wins", "losses", "ties", "win_rate", "win_rate_interval", "decided_win_rate", "decided_share")
    for found in (result, result["runs"]["0001-dpo"]):
        assert {found[key] for key in unknown} == {None}, "the keys that scripts read, and no made-up number"
        assert set(found["greedy"].values()) == {None}
    assert any("blind votes" in note for note in run.status().notes)
    assert not run.status().warnings
    ballot = Ballot(run.folder, project.file.seed)
    assert ballot.waiting + ballot.tally.unchanged == len(sampled)
    ballot.choose("left")
    assert ballot.tally.votes == 1


def test_nothing_to_compare_is_said(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    code, run = evaluate(project, monkeypatch, None, "shorter")
    failure = run.status().failure
    assert code == 2
    assert failure
    assert failure.message == "nothing to compare with the base"
    assert not [what for what in run.status().progress if "answers" in what], "said before the sampling"


def test_a_judge_that_is_gone_is_not_done_without(
    project: Project, monkeypatch: pytest.MonkeyPatch, changed: Path
) -> None:
    code, run = evaluate(project, monkeypatch, changed, "nobody")
    failure = run.status().failure
    assert code == 2
    assert failure
    assert "no function nobody" in failure.message
    assert not (run.folder / "samples.jsonl").exists(), "said before the sampling"
