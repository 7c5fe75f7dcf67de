"""Pairs as the person who labels them meets them: different, worth a look, and there before the last is sampled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from export_models import lora
from safetensors.torch import load_file, save_file

from rlhf_lite import jobs, paths, settings
from rlhf_lite.engine import candidates
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.labels import Pair
from rlhf_lite.project import Project, ProjectFile, Run

QUESTIONS = (paths.examples() / "prompts.txt").read_text().splitlines()[:6]


def make_project(folder: Path, seed: int = 0) -> Project:
    file = ProjectFile(
        name="p", model=str(paths.demo_model()), preset="demo", quantization="32bit", seed=seed
    )
    project = Project.create(folder, file)
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": q}] for q in QUESTIONS])
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "p")


def new_run(project: Project, pairs: int, *, policy: str = "") -> Run:
    given = settings.Inputs(
        stage="generate", project=str(project.root), model=project.file.model, quantization="32bit",
        seed=project.file.seed, limit=pairs, policies=(policy,) if policy else (),
    )  # fmt: skip
    small = ["sampling.max_new_tokens=12", "sampling.batch_size=8"]  # four pairs a batch
    return project.new_run(given, settings.override(settings.load_preset("demo"), small))


def generate(project: Project, pairs: int, *, policy: str = "") -> list[tuple[str, str, str]]:
    """The pairs that a new run stored: prompt and both answers."""
    run = new_run(project, pairs, policy=policy)
    assert run_job("generate", run) == 0
    return [(p.prompt.text, *sorted((p.a, p.b))) for p in stored(project, run)]


def stored(project: Project, run: Run) -> list[Pair]:
    with project.labels() as store:
        return [p for p in store.unlabelled() if p.origin == run.name]


def before_each_batch(monkeypatch: pytest.MonkeyPatch, do: Callable[[int], dict[str, Any] | None]) -> None:
    """Call ``do`` with the batch's number; what it returns are further arguments of the sampling."""
    original, number = candidates.sample, iter(range(1000))

    def sample(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **{**named, **(do(next(number)) or {})})

    monkeypatch.setattr(candidates, "sample", sample)


def test_the_pairs_that_were_asked_for_wait_to_be_labelled(project: Project) -> None:
    run = new_run(project, 6)
    assert run_job("generate", run) == 0
    pairs = stored(project, run)
    assert len(pairs) == 6
    assert {p.prompt.text for p in pairs} <= set(QUESTIONS)
    assert len({p.prompt.text for p in pairs}) == 6, "no prompt comes twice before each came once"
    assert all(p.a.strip() and p.b.strip() and p.a != p.b for p in pairs)
    result = run.status().result
    assert (result["pairs"], result["prompts"]) == (6, 6)
    assert next(reversed(run.status().progress.values())) == (6, 6)


def test_labelling_can_begin_while_the_rest_is_sampled(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ready = new_run(project, 7), list[int]()
    before_each_batch(monkeypatch, lambda _: ready.append(len(stored(project, run))))
    assert run_job("generate", run) == 0
    assert ready[0] == 0
    assert 1 <= ready[1] <= 4


def test_a_stop_keeps_what_is_stored(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(project, 40)
    before_each_batch(monkeypatch, lambda n: jobs.control(run, type="stop") if n == 1 else None)
    assert run_job("generate", run) == 130
    assert run.status().ended == "stopped"
    assert 2 <= len(stored(project, run)) <= 8, "of two batches"


def test_the_same_seed_gives_the_same_pairs_and_the_next_run_others(project: Project, tmp_path: Path) -> None:
    first, second = generate(project, 3), generate(project, 3)
    result: dict[str, Any] = project.runs()[-1].status().result
    assert result["skipped_identical"] < 3, "nothing is sampled a second time"
    assert generate(make_project(tmp_path / "again"), 3) == first
    assert not set(first) & set(second)
    assert not set(first) & set(generate(make_project(tmp_path / "other", seed=5), 3))


def test_the_policy_answers_once_there_is_one(project: Project, tmp_path: Path) -> None:
    untrained = generate(project, 4)
    folder = Path(shutil.copytree(lora("demo"), tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    far = {k: 8 * v if "lora_B" in k else v for k, v in weights.items()}
    save_file(far, folder / "adapter_model.safetensors")
    tuned = generate(make_project(tmp_path / "tuned"), 4, policy=str(folder))
    assert [p[0] for p in tuned] == [p[0] for p in untrained], "the same prompts"
    assert tuned != untrained, "by the same seed, so it is the policy that differs"


def test_answers_that_are_all_alike_are_an_error_and_no_work(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "sample", partial(candidates.sample, greedy=True))
    run = new_run(project, 4)
    assert run_job("generate", run) == 5
    failure = run.status().failure
    assert failure
    assert failure.message == "no two answers differ"
    assert stored(project, run) == []


def test_pairs_that_are_alike_are_left_out_and_counted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_each_batch(
        monkeypatch, lambda n: {"greedy": n > 0}
    )  # from the second batch on both answers are the same
    run = new_run(project, 6)
    assert run_job("generate", run) == 0
    result, pairs = run.status().result, stored(project, run)
    assert 1 <= len(pairs) <= 4
    assert result["pairs"] == len(pairs)
    batches = -(-6 // 4) * candidates.MAX_TRIES
    assert result["skipped_identical"] == 4 * batches - len(pairs)
    assert any(f"only {len(pairs)} of 6" in w.text for w in run.status().warnings)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Keep the figs in the hall.", "Keep the figs in the hall.", True),
        ("Keep the figs in the hall.", "Keep  the figs in the hall. ", True),  # nothing that a person can tell
        ("", "Keep the figs in the hall.", True),
        ("Keep the figs in the hall.", "", True),
        ("one two three four five six seven eight nine ten", "one two three four five six seven eight nine 10", False),
        ("Keep the figs in the hall.", "What for?", False),
    ],
)  # fmt: skip
def test_what_is_not_worth_a_look(first: str, second: str, expected: bool) -> None:
    assert candidates.alike(first, second, 0.9) is expected
