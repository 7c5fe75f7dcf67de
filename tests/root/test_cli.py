"""What the commands refuse: the exit code, what happened, why, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Command, add_run, decide, refused

from rlhf_lite import jobs, stages
from rlhf_lite.project import Project
from rlhf_lite.settings import Preset


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("new", "DIR/p", "--model", "Qwen/Qwen3 0.6B"), "Qwen/Qwen3-0.6B"),
        (("new", "DIR/p", "--model", "dem"), "demo"),
        (("new", "DIR/p", "--model", "demo", "--preset", "dmeo"), "did you mean demo?"),
        (("new", "DIR/p"), "rlhf-lite new --help"),
        (("new", "DIR/p", "--model", "demo", "--sed", "3"), "--sed"),
        (("teach", "DIR"), "teach"),
        (("train", "DIR/none", "ppo"), "rlhf-lite new"),
        (("generate", "DIR", "--pairs", "0"), "--pairs"),
        (("presets", "fast"), "default"),
        (("plan", "--model", "Qwen3-0.5B"), "did you mean Qwen"),
        (("chat", "DIR/none.gguf"), "does not exist"),
    ],
)
def test_a_bad_argument_is_answered_by_the_next_step(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    refused(command(*(a.replace("DIR", str(tmp_path)) for a in arguments)), 2, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "ppo"), "train", ),
        (("train", "reword"), "did you mean reward?"),
        (("train", "reward"), "label"),
        (("train", "dpo"), "label"),
        (("train", "sft"), "import"),
        (("train", "reward", "--set", "reward.epoch=3"), "did you mean epochs?"),
        (("train", "reward", "--reward", __file__ + ":score"), "only ppo"),
        (("train", "ppo", "--reward", "nowhere.py:score"), "nowhere.py"),
        (("train", "ppo", "--resume"), "no unfinished ppo run"),
        (("train", "pop", "--resume"), "did you mean ppo?"),
        (("train", "ppo", "--resume", "--set", "ppo.steps=3"), "--set"),
        (("eval",), "train"),
        (("export",), "train"),
        (("label", "--judge", "judge.py"), "FILE.py:FUNC"),
        (("serve",), "this takes a GGUF file"),
        (("generate", "--json", "--events"), "choose one"),
    ],
)  # fmt: skip
def test_a_stage_whose_ground_is_missing_says_what_comes_first(
    command: Command, project: Project, arguments: tuple[str, ...], expected: str
) -> None:
    verb, *rest = arguments
    done = command(verb, project.root, *rest)
    assert done.code == 2
    assert expected in done.err
    assert project.runs() == [], "nothing was started"


def test_ppo_before_reward_names_the_command_that_comes_first(command: Command, project: Project) -> None:
    refused(
        command("train", project.root, "ppo"),
        2,
        "no reward model yet",
        f"rlhf-lite train {project.root} reward",
    )


def test_labels_all_on_one_side_are_no_labels(command: Command, project: Project) -> None:
    decide(project, on_side="a", count=19)
    refused(command("train", project.root, "reward"), 2, "19 decided labels", "wants 20")
    decide(project, on_side="a", count=30)
    refused(command("train", project.root, "reward"), 2, "all 30 labels say A", "did not look")
    decide(project, on_side="b", count=31)
    assert stages.train(project, Preset(), "reward", None).run.stage == "reward"


def test_without_prompts_nothing_is_sampled(command: Command, tmp_path: Path) -> None:
    assert command("new", tmp_path / "p", "--model", "demo").code == 0
    refused(
        command("generate", tmp_path / "p"), 2, "no prompts", f"rlhf-lite prompts {tmp_path / 'p'} add FILE"
    )


def test_an_unknown_quantization_is_answered_by_the_nearest(command: Command, project: Project) -> None:
    add_run(project, "ppo", adapter=True)
    refused(command("export", project.root, "--quant", "q8"), 2, "q8_0")


def test_a_second_job_on_the_device_is_refused_before_it_starts(command: Command, project: Project) -> None:
    other = add_run(project, "ppo")
    with jobs.hold_device(jobs.device_name(), other):
        refused(command("generate", project.root), 2, "busy", other.name)
    assert project.runs() == [other]


def test_a_damaged_store_is_something_on_disk(command: Command, project: Project) -> None:
    project.labels_path.write_bytes(b"not a database" * 100)
    refused(command("status", project.root), 4, "labels.db", "backup")


def test_an_error_is_one_json_object_too(command: Command, project: Project) -> None:
    done = command("train", project.root, "ppo", "--json")
    assert done.code == done.json["error"]["exit_code"] == 2
    assert done.json["error"]["kind"] == "UserError"
    assert done.json["error"]["hint"] in done.err
    assert command("train", project.root, "--jsn", "--json").json["error"]["exit_code"] == 2


# What a model's folder must be


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_whole_model_folder_is_taken(command: Command, tmp_path: Path, model: Path) -> None:
    done = command("new", tmp_path / "p", "--model", model, "--seed", 7, "--json")
    assert done.code == 0
    assert done.json["model"] == str(model)
    assert (done.json["preset"], done.json["seed"]) == ("default", 7)
    assert Project.open(tmp_path / "p").file.seed == 7


@pytest.mark.parametrize(
    ("missing", "code", "expected"),
    [
        ("config.json", 4, "config.json"),
        ("tokenizer.json", 4, "tokenizer"),
        ("model.safetensors", 4, "safetensors"),
        ("tokenizer_config.json", 2, "--plain-template"),
    ],
)
def test_a_model_folder_that_lacks_something_is_refused(
    command: Command, tmp_path: Path, model: Path, missing: str, code: int, expected: str
) -> None:
    (model / missing).unlink()
    refused(command("new", tmp_path / "p", "--model", model), code, expected)
    assert not (tmp_path / "p").exists()


def test_a_plain_template_stands_in_where_it_is_asked_for(
    command: Command, tmp_path: Path, model: Path
) -> None:
    (model / "tokenizer_config.json").unlink()
    assert command("new", tmp_path / "p", "--model", model, "--plain-template").code == 0
    assert Project.open(tmp_path / "p").file.plain_template


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused(command: Command, tmp_path: Path, model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    refused(command("new", tmp_path / "p", "--model", model), 4, "pickle", "save_pretrained")


def test_code_that_came_with_a_model_runs_only_when_allowed(
    command: Command, tmp_path: Path, model: Path
) -> None:
    (model / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}')
    refused(command("new", tmp_path / "p", "--model", model), 2, "--trust-remote-code")
    assert command("new", tmp_path / "p", "--model", model, "--trust-remote-code").code == 0
    assert Project.open(tmp_path / "p").file.trust_remote_code
