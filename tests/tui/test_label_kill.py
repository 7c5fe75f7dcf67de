"""Labels given by keys to the real app, which is killed at moments of chance: none is lost, none doubled.

What has been seen is what counts: once the next pair is on the screen, the label of the last one is on disk.
"""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest
from terminal import Terminal

from rlhf_lite.project import Project, ProjectFile

NEXT = r"Question (\d+) asks|Every pair is labelled"
VERDICTS = {"a": "left", "b": "right", "t": "tie", "x": "both_bad", "s": "skip"}


def labelled(project: Project) -> list[tuple[int, str, bool]]:
    """Every label that counts: the number of its question, what was chosen, and whether it was a repeat."""
    with sqlite3.connect(project.labels_path) as db:
        rows = db.execute(
            """SELECT messages, verdict, swapped, repeat FROM labels JOIN pairs ON pairs.id = pair_id
            JOIN prompts ON prompts.id = prompt_id WHERE withdrawn IS NULL ORDER BY labels.id"""
        ).fetchall()
    sides = {("a", 0): "left", ("b", 0): "right", ("a", 1): "right", ("b", 1): "left"}
    return [
        (int(messages.split("Question ")[1].split()[0]), sides.get((verdict, swapped), verdict), bool(repeat))
        for messages, verdict, swapped, repeat in rows
    ]


def label_and_kill(project: Project, labels: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with project.labels() as store, store.transaction():
        store.add_prompts([[{"role": "user", "content": f"Question {n} asks"}] for n in range(labels)])
        for prompt in store.prompts():
            store.add_pair(prompt.id, "Short.", "Longer, with more words.", origin="test")
    kill_after = sorted(chance.sample(range(1, labels), kills))
    certain: list[tuple[int, str]] = []  # seen to have been taken
    while True:
        before = len(certain)
        with Terminal("label", project.root, size=(80, 24), TEXTUAL_ANIMATIONS="none") as terminal:
            shown = terminal.wait_for(NEXT)
            while shown[1]:
                key = chance.choice("abtxs")
                terminal.press(key)
                if kill_after and len(certain) >= kill_after[0]:
                    kill_after.pop(0)
                    time.sleep(chance.uniform(0, 0.03))
                    terminal.kill()
                    break
                asked, shown = int(shown[1]), terminal.wait_for(NEXT, other=shown[0])
                certain.append((asked, VERDICTS[key]))
            else:
                break
        found = [(number, choice) for number, choice, _ in labelled(project)]
        assert found[: len(certain)] == certain, "lost, or not what was pressed"
        assert len(found) <= len(certain) + 1, "doubled"
        certain += found[len(certain) :]  # the last key may have been taken
        assert len(certain) >= before
    done = labelled(project)
    assert [(number, choice) for number, choice, _ in done] == certain
    first = [number for number, _, repeat in done if not repeat]
    assert sorted(first) == list(range(labels)), "each pair once"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))


def test_20_labels_with_2_kills(project: Project) -> None:
    label_and_kill(project, labels=20, kills=2, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_200_labels_with_20_kills(project: Project, seed: int) -> None:
    label_and_kill(project, labels=200, kills=20, seed=seed)
