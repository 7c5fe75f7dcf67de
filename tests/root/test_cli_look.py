"""What can be looked at, and that what a model wrote cannot harm who looks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from command_line import Command, add_run, decide, refused

from rlhf_lite import events, memory, paths, stages
from rlhf_lite.project import Project
from rlhf_lite.report import printable
from rlhf_lite.settings import Preset


def test_status_leads_from_an_empty_project_to_a_chat(command: Command, tmp_path: Path) -> None:
    command("new", tmp_path / "p", "--model", "demo")
    project = Project.open(tmp_path / "p")

    def following() -> str:
        return (
            command("status", project.root, "--json")
            .json["next"]["command"]
            .replace(str(project.root), "DIR")
        )

    assert following() == "rlhf-lite prompts DIR add FILE"
    command("prompts", project.root, "add", paths.examples() / "prompts.txt")
    assert following() == "rlhf-lite generate DIR"
    with project.labels() as store:
        store.add_pair(store.prompts()[0].id, "one", "two", origin="test")
    assert following() == "rlhf-lite label DIR"
    decide(project)
    assert following() == "rlhf-lite train DIR reward"
    add_run(project, "reward")
    assert following() == "rlhf-lite train DIR ppo"
    add_run(project, "ppo", adapter=True)
    assert following() == "rlhf-lite eval DIR"
    add_run(project, "eval")
    assert following() == "rlhf-lite export DIR"
    add_run(project, "export")
    assert following() == "rlhf-lite chat DIR"
    add_run(project, "generate")  # the next round begins
    assert following() == "rlhf-lite label DIR"


def test_runs_tell_their_state(command: Command, project: Project) -> None:
    add_run(project, "reward", events.Result(values={"accuracy": 0.9}), events.Finished())
    add_run(
        project, "ppo", events.Started(stage="ppo", pid=1), events.Progress(what="PPO steps", done=3, total=9)
    )
    add_run(project, "ppo", events.Failed(kind="Diverged", message="not a number, three times"))
    found = command("runs", project.root, "--json").json["runs"]
    assert [r["state"] for r in found] == ["finished", "died", "failed"]
    text = command("runs", project.root).out
    for expected in ("0001-reward", "accuracy 0.9", "3/9", "not a number, three times"):
        assert expected in text


def test_a_weak_reward_model_is_warned_about(project: Project) -> None:
    add_run(
        project,
        "reward",
        events.Result(values={"accuracy_interval": [0.4, 0.7]}),
        events.Finished(),
        adapter=True,
    )
    prepared = stages.train(project, Preset(), "ppo", None)
    assert any("40% to 70%" in warning for warning in prepared.warnings)


def test_the_plan_sums_up_and_knows_what_fits(command: Command) -> None:
    done = command("plan", "--model", "Qwen/Qwen3-0.6B", "--vram", 24, "--json")
    assert done.json["fits"] is True
    for stage in done.json["stages"].values():
        assert stage["bytes"] == sum(stage["items"].values())
    assert (done.json["device"], done.json["free"]) == ("gpu", 24 * memory.GIB)
    assert done.json["quantization"] == "16bit", "as a new project on that card would have it"
    assert command("plan", "--model", "Qwen/Qwen2.5-7B-Instruct", "--vram", 4, "--json").json["fits"] is False


def test_without_a_card_the_plan_is_held_against_what_this_machine_has_free(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram = memory.Memory("cpu", "RAM", 8 * memory.GIB, memory.GIB, 7 * memory.GIB)
    monkeypatch.setattr(memory, "read", lambda: ram)
    done = command("plan", "--model", "Qwen2.5-0.5B-Instruct", "--json").json
    assert (done["device"], done["free"], done["fits"]) == ("cpu", ram.free, True)
    assert done["quantization"] == "nf4"
    assert "cuda_context" not in done["stages"]["ppo"]["items"]
    said = command("plan", "--model", "Qwen2.5-0.5B-Instruct").out
    assert "fits: 7.0 of 8.0 GiB of RAM free" in said
    assert re.search(r"^ppo +\S+ GiB +on ", said, re.MULTILINE)
    assert re.search(r"^chat +\S+ GiB +- ", said, re.MULTILINE)
    assert (
        "does not fit: 7.0 of 8.0 GiB of RAM free; a smaller model"
        in command("plan", "--model", "Qwen2.5-7B-Instruct").out
    )
    monkeypatch.setattr(memory, "read", lambda: memory.Memory("cpu", "RAM", 0, 0, 0))
    assert command("plan", "--model", "demo", "--json").json["fits"] is None


@pytest.mark.parametrize(
    ("arguments", "key"),
    [(("models",), "models"), (("presets",), "presets"), (("presets", "demo"), "ppo"), (("doctor",), "checks"),
     (("config", "path"), "path"), (("config", "show"), "name"), (("plan", "--model", "demo"), "stages")],
)  # fmt: skip
def test_what_can_be_looked_at_reads_well_and_is_one_json_object(
    command: Command, arguments: tuple[str, ...], key: str
) -> None:
    assert key in command(*arguments, "--json").json
    text = command(*arguments)
    assert (text.code, bool(text.out.strip())) == (0, True)


def test_the_apps_settings_come_from_its_file(
    command: Command, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("RLHF_LITE_CONFIG", str(file))
    monkeypatch.setenv(
        "EDITOR", f'{sys.executable} -c \'import sys; open(sys.argv[1], "a").write("name = \\"Ada\\"")\''
    )
    assert command("config", "edit").code == 0
    assert command("config", "show", "--json").json["name"] == {"value": "Ada", "from": str(file)}
    command("label", project.root, stdin="a\n")
    with project.labels() as store:
        assert store.undo("person:Ada") is not None
    file.write_text('nmae = "Ada"\n')
    refused(command("config", "show"), 2, str(file), "did you mean name?")


def test_bare_and_help_and_version(command: Command) -> None:
    assert command().out.rstrip() == command("--help").out.rstrip()
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", command("--version").out)


# A model's text is a stranger's


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain, ünïcödé 日本 👍\n\tkept", "plain, ünïcödé 日本 👍\n\tkept"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;your title\x07hidden", "hidden"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hcleared", "cleared"),
        ("one\rtwo\x08\x7f\x00", "onetwo"),
        ("\x9b31mC1", "31mC1"),
        ("right \u202eto left", "right to left"),
    ],
)
def test_no_control_sequence_reaches_the_terminal(text: str, seen: str) -> None:
    assert printable(text) == seen


def test_answers_are_shown_without_control_sequences(command: Command, project: Project) -> None:
    with project.labels() as store:
        store.add_pair(store.prompts()[-1].id, "\x1b[2Jgone", "kept", origin="test")
    out = command("label", project.root, stdin="a\n" * 7).out
    assert "gone" in out
    assert "\x1b" not in out
