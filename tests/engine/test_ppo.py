"""PPO as its user meets it: a run that learns, stops, goes on, keeps to its budget and says what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_lite import jobs, paths, settings
from rlhf_lite.engine import ppo, text, update
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.learner import Learner, RunningStd
from rlhf_lite.engine.prompts import draw
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.engine.validation import Validation
from rlhf_lite.events import EventTail, Metrics, Progress
from rlhf_lite.functions import hash_file
from rlhf_lite.project import Project, ProjectFile, Run

REWARD = """
def asks(prompts, completions):
    return [float("?" in c) for c in completions]

def nothing(prompts, completions):
    return [0.0] * len(completions)

def broken(prompts, completions):
    return [float("nan")] * len(completions)

def short_of_one(prompts, completions):
    return [0.0] * (len(completions) - 1)
"""
SMALL = ["ppo.episodes=8", "ppo.micro_batch=4", "ppo.minibatch=8", "ppo.validation_samples=8",
         "ppo.evaluate_every=2", "ppo.steps=4", "sampling.max_new_tokens=32"]  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.create(tmp_path / "p", ProjectFile(name="p", model=str(paths.demo_model()), preset="demo"))
    questions = (paths.examples() / "prompts.txt").read_text().splitlines()[:80]
    with made.labels() as store:
        store.add_prompts([[{"role": "user", "content": q}] for q in questions])
    (tmp_path / "reward.py").write_text(REWARD)
    return made


def new_run(
    project: Project, function: str = "asks", assignments: list[str] | None = None, **inputs: str
) -> Run:
    file = project.root.parent / "reward.py"
    preset = settings.override(settings.load_preset("demo"), [*SMALL, *(assignments or [])])
    given = settings.Inputs(
        stage="ppo", project=str(project.root), model=project.file.model, quantization="nf4", seed=0,
        function=f"{file}:{function}", function_sha256=hash_file(file), **inputs,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return project.new_run(given, preset)


def go(run: Run, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("RLHF_LITE_TRUSTED_FUNCTION", run.settings().inputs.function)
    return run_job("ppo", run)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "adapter_model.safetensors"))


def test_a_run_reports_its_contract_and_publishes_the_best_checkpoint(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(project)
    assert go(run, monkeypatch) == 0
    status = run.status()
    assert status.ended == "finished"
    contract = {"run", "steps", "episodes", "score_first", "score_last", "kl_last", "stopped", "episodes_per_second",
                "peak_memory_bytes"}  # fmt: skip
    assert contract <= set(status.result)
    assert (status.result["steps"], status.result["episodes"], status.result["stopped"]) == (
        4,
        32,
        "finished",
    )
    best = run.folder / "checkpoints" / f"{status.result['best_step']:06d}" / "policy"
    published, kept = weights(run.adapter), weights(best)
    assert all(torch.equal(published[k], kept[k]) for k in kept)
    steps = [m for m in status.metrics if "val/ratio" in m.values]
    assert [m.step for m in steps] == [1, 2, 3, 4]
    assert steps[0].values["objective/kl"] == 0.0
    names = [p.name for p in run.checkpoints()]
    assert "000004" in names
    assert len(names) <= 3


def test_the_way_to_the_first_step_is_told_part_by_part(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds on the built-in model, minutes on a large one: whoever watches sees what goes on, and how far it is."""
    run = new_run(project, assignments=["sampling.batch_size=4"])
    assert go(run, monkeypatch) == 0
    told = EventTail(run.events_path).read()
    first = next(i for i, event in enumerate(told) if isinstance(event, Metrics) and event.step == 1)
    before = [event for event in told[:first] if isinstance(event, Progress)]
    parts = {event.what: [e.done for e in before if e.what == event.what] for event in before}
    assert list(parts) == [
        "loading the model", "answers to held-out prompts", "answers to learn from",
        "PPO steps",
    ]  # fmt: skip
    for sampled in list(parts.values())[1:3]:
        assert (sampled[0], sampled[-1]) == (0, 8)
    assert {"PPO steps"} == {event.what for event in told[first:] if isinstance(event, Progress)}


def test_stopped_and_resumed_is_as_if_never_stopped(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = new_run(project), new_run(project)
    assert go(straight, monkeypatch) == 0
    original = ppo.Training.one_step

    def stop_after_two(self: ppo.Training) -> bool:
        result = original(self)
        if self.step == 3:
            jobs.control(self.job.run, type="stop")
        return result

    monkeypatch.setattr(ppo.Training, "one_step", stop_after_two)
    assert go(broken, monkeypatch) == 130
    assert broken.status().ended == "stopped"
    monkeypatch.setattr(ppo.Training, "one_step", original)
    assert go(broken, monkeypatch) == 0
    expected, found = (weights(r.folder / "checkpoints" / "000004" / "policy") for r in (straight, broken))
    assert all(torch.allclose(expected[k], found[k], atol=1e-6) for k in expected)
    assert broken.status().result["best_step"] == straight.status().result["best_step"]
    assert [m.step for m in broken.status().metrics] == [m.step for m in straight.status().metrics]


def test_the_budget_is_a_hard_stop_and_the_result_stays_within_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(
        project,
        assignments=["ppo.kl_budget=0.02", "ppo.learning_rate=3e-3", "ppo.steps=8", "ppo.kl_coef=0.0"],
    )
    assert go(run, monkeypatch) == 0
    status = run.status()
    assert status.result["stopped"] == "kl_budget"
    assert any("budget" in w.text for w in status.warnings)
    at_best = [m for m in status.metrics if m.step == status.result["best_step"] and "eval/kl" in m.values]
    assert at_best[0].values["eval/kl"] <= 0.02


def test_a_gradient_that_is_not_finite_rolls_back_twice_then_says_diverged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_finite(self: ppo.Training) -> bool:
        raise FloatingPointError("the gradient is not finite")

    monkeypatch.setattr(ppo.Training, "one_step", not_finite)
    run = new_run(project)
    assert go(run, monkeypatch) == 5
    status = run.status()
    assert status.failure
    assert status.failure.kind == "Diverged"
    rate = run.settings().preset.ppo.learning_rate
    assert [c.value for c in status.changes] == [pytest.approx(rate / 2), pytest.approx(rate / 4)]


def test_a_single_gradient_that_is_not_finite_costs_one_rollback(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left behind does not spoil the next one."""
    original, spoiled = Learner.step, list[bool]()

    def step(self: Learner) -> None:
        if not spoiled:
            spoiled.append(True)
            self.parameters[0].grad = torch.full_like(self.parameters[0], float("nan"))
        original(self)

    monkeypatch.setattr(Learner, "step", step)
    run = new_run(project, assignments=["ppo.steps=1"])
    assert go(run, monkeypatch) == 0
    assert [c.name for c in run.status().changes] == ["learning_rate"]


@pytest.mark.parametrize("function", ["broken", "short_of_one", "missing"])
def test_a_reward_function_that_misbehaves_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    run = new_run(project, function)
    assert go(run, monkeypatch) == 2
    failure = run.status().failure
    assert failure
    assert function in failure.message


def test_a_file_that_nobody_named_now_is_not_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(project)
    marker = project.root / "ran"
    (project.root.parent / "reward.py").write_text(f"open({str(marker)!r}, 'w')\n" + REWARD)
    monkeypatch.delenv("RLHF_LITE_TRUSTED_FUNCTION", raising=False)
    assert run_job("ppo", run) == 2
    assert go(run, monkeypatch) == 2  # named, but its content is not what the run recorded
    assert not marker.exists()


def test_live_changes_are_echoed_and_nonsense_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(project, assignments=["ppo.steps=2"])
    original = ppo.Training.one_step

    def change(self: ppo.Training) -> bool:
        result = original(self)
        if self.step == 1:
            jobs.control(self.job.run, type="set", name="kl_coef", value=0.5)
            jobs.control(self.job.run, type="set", name="learning_rate", value=-1)
        return result

    monkeypatch.setattr(ppo.Training, "one_step", change)
    assert go(run, monkeypatch) == 0
    status = run.status()
    assert [(c.name, c.value) for c in status.changes] == [("kl_coef", 0.5)]
    assert any("learning_rate" in w.text for w in status.warnings)
    second = next(m for m in status.metrics if m.step == 2 and "objective/kl_coef" in m.values)
    assert second.values["objective/kl_coef"] == 0.5


def test_a_step_follows_its_settings(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch ends once the policy has moved; cut answers pay; the leash adapts."""
    updates: list[None] = []
    original = update.update_policy

    def counted(*arguments: Any, **named: Any) -> Any:
        updates.append(None)
        return original(*arguments, **named)

    monkeypatch.setattr(update, "update_policy", counted)
    few = ["ppo.steps=2", "ppo.epochs=3", "ppo.max_approx_kl=1e-12", "ppo.learning_rate=1e-3", "ppo.kl_target=1000",
           "ppo.no_eos_penalty=2.5", "sampling.max_new_tokens=28"]  # fmt: skip
    run = new_run(project, "nothing", few)
    assert go(run, monkeypatch) == 0
    assert len(updates) == 2 * 2, "the first cannot tell that it moves, the second does, the third is saved"
    first, second = (m.values for m in run.status().metrics if "val/ratio" in m.values)
    assert 0 < first["val/num_eos_tokens"] < 1, "or the penalty would not show"
    ended = first[
        "val/num_eos_tokens"
    ]  # the first step's scores are 0 or -2.5, over their deviation, at KL 0
    assert first["objective/rlhf_reward"] == pytest.approx(
        -(1 - ended) / (ended * (1 - ended)) ** 0.5, rel=1e-4
    )
    for step in (first, second):
        assert step["objective/scores"] == pytest.approx(-2.5 * (1 - step["val/num_eos_tokens"]))
    for measured in (m.values for m in run.status().metrics if "eval/scores" in m.values):
        assert measured["eval/scores"] == pytest.approx(-2.5 * (1 - measured["eval/ended"]))
    assert second["objective/kl_coef"] == pytest.approx(0.98 * first["objective/kl_coef"])


def test_the_size_of_a_micro_batch_changes_no_gradient(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = Learner.step

    def step_and_keep(self: Learner) -> None:
        parameters = [
            p for n, p in self.base.model.named_parameters() if ".policy." in n and p.grad is not None
        ]
        seen.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        original(self)

    monkeypatch.setattr(Learner, "step", step_and_keep)
    for size in (1, 2, 8):
        assert (
            go(
                new_run(project, assignments=["ppo.steps=1", "ppo.epochs=1", f"ppo.micro_batch={size}"]),
                monkeypatch,
            )
            == 0
        )
    assert len(seen) == 3
    for other in seen[1:]:
        assert float((other - seen[0]).norm()) < 1e-4 * float(seen[0].norm())


def test_out_of_memory_goes_on_with_half_the_micro_batch_and_a_resume_remembers_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the memory held two rows at once; the steps are those of a run with room enough."""
    run, roomy = new_run(project, assignments=["ppo.micro_batch=8"]), new_run(project)
    original, widths = ppo.make_rollout, list[int]()

    def small_memory(*given: Any, micro_batch: int, **more: Any) -> Any:
        widths.append(micro_batch)
        if micro_batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if len(widths) == 5:
            jobs.control(run, type="stop")
        return original(*given, micro_batch=micro_batch, **more)

    monkeypatch.setattr(ppo, "make_rollout", small_memory)
    assert go(run, monkeypatch) == 130
    assert widths == [8, 4, 2, 2, 2]
    assert [(c.name, c.value, c.why) for c in run.status().changes] == [
        ("micro_batch", 4.0, "out of memory"), ("micro_batch", 2.0, "out of memory")
    ]  # fmt: skip
    assert go(run, monkeypatch) == 0
    assert set(widths[5:]) == {2}
    assert run.status().result["episodes"] == 4 * 8
    monkeypatch.setattr(ppo, "make_rollout", original)
    assert go(roomy, monkeypatch) == 0
    scores = [
        [m.values["objective/scores"] for m in r.status().metrics if "seconds" in m.values]
        for r in (run, roomy)
    ]
    assert scores[0][0] == scores[1][0]


def test_an_update_that_runs_out_of_memory_is_made_in_smaller_parts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second micro-batch of four does not fit any more, when the first has left its gradients already: what the
    steps compute is that of a run with room enough."""
    halves = ["ppo.micro_batch=4", "ppo.minibatch=8"]
    tight, roomy = (new_run(project, assignments=halves) for _ in range(2))
    original, widths = update.response_logprobs, list[int]()

    def small_memory(base: SharedBase, padded: text.Padded) -> Any:
        widths.append(len(padded.ids))
        if len(padded.ids) > 3 and len(widths) > 1:  # behind the first of the minibatch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(base, padded)

    monkeypatch.setattr(update, "response_logprobs", small_memory)
    assert go(tight, monkeypatch) == 0
    assert widths[:2] == [4, 4]
    assert set(widths[2:]) == {2}
    assert [(c.name, c.step, c.value) for c in tight.status().changes] == [("micro_batch", 0, 2.0)]
    monkeypatch.setattr(update, "response_logprobs", original)
    assert go(roomy, monkeypatch) == 0
    first, second = (
        next(m.values for m in r.status().metrics if "seconds" in m.values) for r in (tight, roomy)
    )
    for name in ("loss/policy_avg", "policy/approxkl_avg", "policy/clipfrac_avg"):
        assert first[name] == pytest.approx(second[name], rel=1e-4, abs=1e-6), name
    assert tight.status().result["steps"] == roomy.status().result["steps"]


def test_memory_too_small_for_one_row_says_what_would_fit(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ppo, "make_rollout", none_left)
    run = new_run(project)
    assert go(run, monkeypatch) == 3
    failure = run.status().failure
    assert failure is not None
    assert (failure.kind, "max_new_tokens" in failure.hint) == ("OutOfMemory", True)


def test_the_best_checkpoint_within_the_budget_is_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = validated(project, monkeypatch, [(0.1, 0.0), (0.5, 1.0), (0.9, 99.0), (0.3, 1.0)])
    assert (result["best_step"], result["score_best"], result["score_first"]) == (1, 0.5, 0.1)


def test_what_is_better_by_no_more_than_noise_is_not_worth_its_kl(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a standard error of 0.1: 0.85 is as good as 0.9 and costs less; 0.7 is not as good. It is kept till then."""
    measured = [(0.1, 0.0), (0.7, 1.0), (0.85, 2.0), (0.82, 3.0), (0.9, 4.0), (0.89, 5.0)]
    result = validated(project, monkeypatch, measured)
    assert (result["best_step"], result["score_best"], result["score_last"]) == (2, 0.85, 0.0)


def validated(project: Project, monkeypatch: pytest.MonkeyPatch, measured: list[tuple[float, float]]) -> Any:
    """The result of a run whose checkpoints measure so, score and KL, with a standard error of 0.1."""
    told = iter(measured)

    def validate(*_: Any, **__: Any) -> Validation:
        score, kl = next(told)
        return Validation(score=score, error=0.1, kl=kl, ended=1.0, samples=())

    monkeypatch.setattr(ppo, "validate", validate)
    monkeypatch.setattr(ppo.Training, "one_step", untrained_step)
    run = new_run(project, assignments=[f"ppo.steps={len(measured) - 1}", "ppo.evaluate_every=1"])
    assert go(run, monkeypatch) == 0
    return run.status().result


def untrained_step(training: ppo.Training) -> bool:
    training.learner.counters.step += 1
    values = {"seconds": 1.0, "objective/scores": 0.0, "objective/kl": 0.0}
    training.job.emit(Metrics(step=training.step, values=values))
    return True


@pytest.mark.parametrize("name", settings.preset_names())
def test_every_preset_runs_a_step(project: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = new_run(project)
    few = ["ppo.steps=1", "ppo.episodes=4", "ppo.validation_samples=4"]
    preset = settings.override(settings.load_preset(name), few)
    run = project.new_run(run.settings().inputs, preset)
    assert go(run, monkeypatch) == 0
    assert run.status().result["steps"] == 1


def test_prompts_are_drawn_in_shuffled_passes_without_repeats() -> None:
    prompts = [[i] for i in range(10)]
    first, rest = draw(prompts, 7, 0, seed=1), draw(prompts, 13, 7, seed=1)
    drawn = first + rest
    assert sorted(drawn[:10]) == prompts
    assert sorted(drawn[10:]) == prompts
    assert drawn[:10] != drawn[10:]
    assert draw(prompts, 20, 0, seed=1) == drawn


def test_the_running_deviation_is_that_of_all_scores() -> None:
    scores = torch.randn(50, generator=seeded(torch.device("cpu"), 0, 0)) * 3 + 7
    running = RunningStd()
    for part in scores.split(8):
        running.update(part)
    assert running.std == pytest.approx(float(scores.std(unbiased=False)), rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.sample), 1, 2])
def test_it_learns_what_the_reward_asks_within_the_budget(
    project: Project, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    project = Project(project.root, ProjectFile(name="p", model=project.file.model, preset="demo", seed=seed))
    run = new_run(
        project,
        assignments=["ppo.episodes=32", "ppo.steps=15", "ppo.evaluate_every=5", "ppo.validation_samples=48"],
    )
    assert go(run, monkeypatch) == 0
    evaluations = {
        m.step: m.values for m in run.status().metrics if isinstance(m, Metrics) and "eval/scores" in m.values
    }
    best = evaluations[run.status().result["best_step"]]  # pyright: ignore[reportArgumentType]
    assert best["eval/scores"] >= evaluations[0]["eval/scores"] + 0.2
    assert best["eval/kl"] <= 10
