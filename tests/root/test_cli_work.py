"""Prompts, labels and data in and out; stopping and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Command, Done, add_run, refused

from rlhf_lite import events, memory, stages
from rlhf_lite.project import Project

COMMAND = [sys.executable, "-c", "import sys; from rlhf_lite.cli import main; sys.exit(main())"]
LONGER = "def prefer(prompt, a, b):\n    return len(a) - len(b)\n"


def test_prompts_are_added_once_and_listed(command: Command, tmp_path: Path) -> None:
    root, file = tmp_path / "p", tmp_path / "prompts.txt"
    command("new", root, "--model", "demo")
    file.write_text("What is tea?\n\nWhy is the sky blue?\nWhat is tea?\n")
    assert command("prompts", root, "add", file, "--json").json["added"] == 2
    assert command("prompts", root, "add", file, "--json").json["added"] == 0
    assert command("prompts", root, "list").out.splitlines() == ["What is tea?", "Why is the sky blue?"]


def test_a_new_project_says_how_its_base_is_held_unless_it_was_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = memory.Memory("gpu", "card", 80 * memory.GIB, memory.GIB, 79 * memory.GIB)
    monkeypatch.setattr(memory, "read", lambda: card)
    model = "Qwen/Qwen2.5-0.5B-Instruct"
    chosen = command("new", tmp_path / "a", "--model", model, "--json")
    assert chosen.json["quantization"] == "16bit"
    assert "16-bit weights: training takes" in chosen.err
    told = command("new", tmp_path / "b", "--model", model, "--quantization", "nf4", "--json")
    assert told.json["quantization"] == "nf4"
    assert "weights" not in told.err


def test_labelling_line_by_line_keeps_each_answer_at_once(command: Command, project: Project) -> None:
    done = command("label", project.root, "--plain", stdin="a\nB\n?\nt\nx\n")  # and the input ends
    assert done.code == 0
    assert "'?' is none of the keys" in done.out
    with project.labels() as store:
        counts = store.counts()
        assert (counts.labelled, counts.a, counts.b, counts.tie, counts.both_bad) == (4, 1, 1, 1, 1)
        assert sorted(p.margin for p in store.preferences()) == [0.0, 1.0]  # B: much better
        assert len(store.unlabelled()) == 2


def test_undo_takes_back_the_last_answer_even_of_an_earlier_sitting(
    command: Command, project: Project
) -> None:
    assert command("label", project.root, "--json", stdin="a\ns\nq\n").json == {
        "labelled": 1, "a": 1, "b": 0, "tie": 0, "both_bad": 0, "skipped": 1,
    }  # fmt: skip
    done = command("label", project.root, "--json", stdin="u\nu\nu\nb\nb\nq\n")
    assert (done.json["labelled"], done.json["b"]) == (2, 2)
    assert "nothing to undo" in done.err
    with project.labels() as store:
        assert (store.counts().a, store.counts().b, store.counts().skipped) == (0, 2, 0)


def test_a_limit_ends_the_sitting(command: Command, project: Project) -> None:
    assert command("label", project.root, "--limit", 2, "--json", stdin="a\n" * 9).json["labelled"] == 2


def test_a_function_labels_and_is_recorded_as_one(command: Command, project: Project, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(LONGER)
    done = command("label", project.root, "--judge", tmp_path / "judge.py:prefer", "--json")
    assert done.code == 0
    assert (done.json["labelled"], done.json["a"] + done.json["b"]) == (6, 6)
    assert "labels 6/6" in done.err
    with project.labels() as store:
        assert all(p.chosen.startswith("A long answer") for p in store.preferences())
    inputs = project.runs()[0].settings().inputs
    assert inputs.function == f"{tmp_path / 'judge.py'}:prefer"
    assert len(inputs.function_sha256) == 64
    refused(
        command("label", project.root, "--judge", tmp_path / "judge.py:prefer"), 2, "every pair is labelled"
    )


def test_events_are_the_runs_own_log_line_by_line(command: Command, project: Project, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(LONGER)
    done = command("label", project.root, "--judge", tmp_path / "judge.py:prefer", "--events")
    assert done.out == project.runs()[0].events_path.read_text()
    assert done.err == ""


def test_a_failed_job_ends_with_its_error_and_names_the_log(
    command: Command, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "judge.py").write_text("def prefer(prompt, a, b):\n    return 1 / 0\n")
    done = command("label", project.root, "--judge", tmp_path / "judge.py:prefer")
    assert done.code == 2
    assert "ZeroDivisionError" in done.err
    assert str(project.runs()[0].log_path) in done.err
    assert "Traceback" in project.runs()[0].log_path.read_text()


def test_data_goes_in_once_and_bad_rows_are_named(command: Command, project: Project, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    row = {"prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "Coffee."}
    file.write_text(json.dumps(row) + "\n{broken\n" + json.dumps(row | {"prompt": "Cats or dogs?"}) + "\n")
    done = command("import", project.root, file, "--json")
    assert (done.code, done.json["imported"], done.json["duplicates"]) == (0, 2, 0)
    assert [(r["file"], r["line"]) for r in done.json["refused"]] == [(str(file), 2)]
    again = command("import", project.root, file)
    assert "0 rows imported, 2 known already, 1 refused" in again.out
    assert f"{file}:2" in again.out


@pytest.mark.parametrize(
    ("arguments", "good", "counted"),
    [
        (("import",), {"prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "Coffee."}, "imported"),
        (("prompts", "add"), {"prompt": "Tea or coffee?"}, "added"),
    ],
)
def test_a_file_of_nothing_but_bad_rows_is_an_error(
    command: Command, project: Project, tmp_path: Path, arguments: tuple[str, ...], good: object, counted: str
) -> None:
    def take_in(*more: str) -> Done:
        return command(arguments[0], project.root, *arguments[1:], file, *more)

    file = tmp_path / "data.jsonl"
    file.write_text('{broken\n{"prompt": 7}\n')
    done = take_in("--json")
    assert done.code == done.json["error"]["exit_code"] == 4
    assert done.json["error"]["kind"] == "DataError"
    assert (done.json[counted], [r["line"] for r in done.json["refused"]]) == (0, [1, 2])
    done = take_in()
    assert done.code == 4
    assert done.out.count(str(file)) == 2, "every refused row is named, as where some are good"
    assert f"nothing was {counted}" in done.err
    assert f"{file}:1" in done.err
    assert done.err.count("\n") == 3, "what happened, why, what to do next"
    file.write_text(json.dumps(good) + "\n{broken\n")
    assert (take_in("--json").code, take_in("--json").code) == (0, 0), "a good row, then one known already"


@pytest.mark.parametrize("arguments", [("import",), ("prompts", "add")])
def test_an_empty_file_is_an_error(
    command: Command, project: Project, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "data.jsonl").write_text("\n")
    refused(command(arguments[0], project.root, *arguments[1:], tmp_path / "data.jsonl"), 4, "holds no")


@pytest.mark.parametrize("columns", ["explicit", "conversational", "implicit", "kto"])
def test_exported_labels_come_in_again(
    command: Command, project: Project, tmp_path: Path, columns: str
) -> None:
    command("label", project.root, stdin="a\nb\na\nb\na\nb\n")
    out = tmp_path / "labels.jsonl"
    rows = command("export-labels", project.root, out, "--format", columns, "--json").json["rows"]
    assert rows == len(out.read_text().splitlines())
    command("new", tmp_path / "other", "--model", "demo")
    assert command("import", tmp_path / "other", out, "--json").json["imported"] == rows


# Going on and stopping


def test_resume_takes_the_newest_unfinished_run_with_its_settings(project: Project) -> None:
    add_run(project, "ppo", events.Started(stage="ppo", pid=1), events.Stopped(step=3))
    newest = add_run(project, "ppo", events.Started(stage="ppo", pid=1))  # killed
    add_run(project, "ppo")
    add_run(project, "reward", events.Stopped(step=1))
    assert stages.resume(project, "ppo", None).run == newest


def test_a_reward_file_must_be_named_again_unchanged(
    command: Command, project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "reward.py"
    file.write_text("def score(prompts, completions): return [0.0] * len(completions)\n")
    named = stages.NamedFunction.find(f"{file}:score")
    stopped = add_run(
        project, "ppo", events.Stopped(step=1), function=named.spec, function_sha256=named.sha256
    )
    refused(command("train", project.root, "ppo", "--resume"), 2, f"--reward {named.spec}")
    assert stages.resume(project, "ppo", named) == stages.Prepared(stopped, named.spec)
    file.write_text("def score(prompts, completions): return [1.0] * len(completions)\n")
    done = command("train", project.root, "ppo", "--resume", "--reward", named.spec)
    refused(done, 2, "changed since")


def test_ctrl_c_stops_and_says_how_to_go_on(project: Project, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef prefer(prompt, a, b):\n    time.sleep(0.5)\n    return 'a'\n"
    )
    arguments = ["label", str(project.root), "--judge", f"{tmp_path / 'slow.py'}:prefer", "--json"]
    child = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert any("labels 0/6" in line for line in iter(child.stderr.readline, ""))
    time.sleep(0.6)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "stopping" in err
    assert f"rlhf-lite label {project.root}" in err
    assert json.loads(out)["error"]["exit_code"] == 130
    assert project.runs()[0].status().ended == "stopped"
    with project.labels() as store:
        assert 1 <= store.counts().labelled < 6
