"""The card that is published with a model: whose work it is, what was measured, and nothing that is private."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from rlhf_lite import events
from rlhf_lite.engine.export import Exported, ExportRequest, card
from rlhf_lite.engine.export.chart import Panel, draw
from rlhf_lite.engine.export.origin import Origin
from rlhf_lite.engine.export.verify import Parity
from rlhf_lite.events import EventWriter
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, load_preset

PARITY = Parity(
    prompts=16, positions=1318, mean_kl=0.0003, top1_agreement=0.992, tune_kl=0.126, kept=0.972, passed=True,
    template_identical=True, tokens_identical=True, bos_identical=True, stop_tokens_known=True, greedy_identical=0.75,
    greedy_follows=True, ended=16, stops=1.0,
)  # fmt: skip
EVAL = {
    "judge": "/home/wilhelmina/judge.py:prefer", "prompts": 50,
    "base": {"score": -0.03, "tokens": 35.8, "eos_rate": 1.0},
    "runs": {"0002-ppo": {"tuned": {"score": 1.28, "tokens": 44.2, "eos_rate": 0.98}, "kl": 2.0, "win_rate": 0.84,
                          "win_rate_interval": [0.81, 0.87]}},
}  # fmt: skip


def a_run(project: Project, stage: str, *said: events.AnyEvent, **inputs: str) -> Run:
    told = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=7, **inputs)
    run = project.new_run(told, load_preset("demo"))
    log = EventWriter(run.events_path)
    for event in (*said, events.Finished()):
        log.write(event)
    log.close()
    return run


def a_step(step: int) -> events.Metrics:
    return events.Metrics(
        step=step, values={"objective/scores": step / 10, "objective/kl": step**2 / 50, "lr": 1e-3}
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Labels by two people, a script and a file; a reward model, PPO on it, an evaluation."""
    project = Project.create(tmp_path / "mine", ProjectFile("mine", "demo", "demo"))
    judges = [
        "person:wilhelmina",
        "person:wilhelmina",
        "person:roderick",
        "script:/home/wilhelmina/judge.py:prefer 0123",
        "import",
    ]
    with project.labels() as store:
        store.add_prompts([[{"role": "user", "content": f"Question {i}?"}] for i in range(6)])
        for prompt, judge in zip(store.prompts(), judges, strict=False):
            store.add_pair(prompt.id, "yes", "no", origin="x")
            store.label(store.unlabelled()[0].id, "b" if "script" in judge else "a", judge=judge)
        store.add_pair(store.prompts()[-1].id, "yes", "no", origin="x")
        store.label(store.unlabelled()[0].id, "tie", judge="person:roderick")  # decides nothing
    reward = a_run(project, "reward", events.Result(values={"accuracy": 0.9, "pairs_heldout": 40}))
    a_run(project, "ppo", *(a_step(n) for n in range(1, 9)), reward=str(reward.adapter))
    a_run(project, "eval", events.Result(values=EVAL))
    return project


def the_card(project: Project, model: Path, kind: str = "gguf") -> str:
    run = project.run("0002-ppo")
    request = ExportRequest(
        model=model, quantization="nf4", adapter=run.adapter, quants=("q8_0",), output=project.root / "exports",
        name="mine", prompts=[], origin=Origin.of(project, run),
    )  # fmt: skip
    made = Exported(project.root / "exports" / "mine-q8_0.gguf", "q8_0", 3450304, PARITY, 4096)
    (project.root / "exports").mkdir(exist_ok=True)
    card.write(project.root / "exports", request, kind, [made])
    return (project.root / "exports" / "README.md").read_text()


def base(folder: Path, front: str = "", config: str = "{}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    if front:
        (folder / "README.md").write_text(front)
    return folder


def test_it_says_whose_labels_which_settings_and_what_was_measured(project: Project, tmp_path: Path) -> None:
    text = the_card(project, base(tmp_path / "base"))
    assert "5 decided pairs of answers, 3 by 2 people," in text
    assert "1 by a script" in text
    assert "1 imported" in text
    assert "right on 90% of 40 held-out pairs" in text
    settings = tomllib.loads(re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    assert settings["seed"] == 7
    assert settings["ppo"]["kl_budget"] == load_preset("demo").ppo.kl_budget
    assert "| win rate over the base | - | 84% (81% to 87%) |" in text
    assert "| ends by itself | 100% | 98% |" in text
    assert "| mean KL (nats per position) | 0.0003 |" in text
    assert "keeps 97 % of the change" in text
    assert "rlhf-lite chat mine-q8_0.gguf" in text
    assert "ollama create mine-q8_0 -f Modelfile" in text


def test_it_names_nobody_and_no_place_on_this_machine(project: Project, tmp_path: Path) -> None:
    for kind in ("gguf", "safetensors", "adapter"):
        text = the_card(project, base(tmp_path / "base"), kind)
        assert "wilhelmina" not in text
        assert "roderick" not in text
        assert str(tmp_path) not in text
        assert "judge.py:prefer" in text


def test_its_picture_is_of_this_run(project: Project, tmp_path: Path) -> None:
    assert f"]({card.CHART})" in the_card(project, base(tmp_path / "base"))
    drawn = ElementTree.parse(project.root / "exports" / card.CHART)
    lines = [e.get("points", "") for e in drawn.iter() if e.tag.endswith("polyline")]
    curves = [line for line in lines if line.count(",") == 8]  # eight steps
    assert len(curves) == 2
    for curve in curves:
        heights = [float(point.split(",")[1]) for point in curve.split()]
        assert heights == sorted(heights, reverse=True)  # both rise, and y goes down


def test_a_picture_of_a_flat_line_and_of_odd_words() -> None:
    text = draw([Panel("<loss> & co", {"a": [(0, 1.0), (5, 1.0)]})])
    assert "<loss> & co" in "".join(ElementTree.fromstring(text).itertext())


@pytest.mark.parametrize(
    ("front", "config", "told"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Base", "{}", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3.2\n---\n", "{}", "other (llama3.2)"),
        ('---\nlicense: "mit"\n---\n', "{}", "mit"),
        ("# A card\n\nlicense: mit, or so says the text", "{}", "unknown"),
        ("", '{"license": "mit"}', "mit"),
        ("", "{}", "unknown"),
        ("", "not json", "unknown"),
    ],
)
def test_the_licence_is_the_bases_own_word(tmp_path: Path, front: str, config: str, told: str) -> None:
    assert card.licence(base(tmp_path / "base", front, config)) == told


def test_an_unknown_licence_is_not_given_one(project: Project, tmp_path: Path) -> None:
    text = the_card(project, base(tmp_path / "base"))
    assert "unknown, see the base" in text
    assert "license:" not in text


def test_what_a_base_says_stays_text(project: Project, tmp_path: Path) -> None:
    odd = base(tmp_path / 'b"\nlicense: mit\n#', '---\nlicense: x"\ttags: [y]\n---\n')
    front = the_card(project, odd).split("---")[1]
    keys = [line.partition(":")[0] for line in front.strip().splitlines()]
    assert keys == ["base_model", "base_model_relation", "license", "library_name", "pipeline_tag", "tags"]


def test_a_run_without_scores_has_a_card_too(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "mine", ProjectFile("mine", "demo", "demo"))
    losses: list[Any] = [events.Metrics(step=n, values={"loss": 1 / n}) for n in (1, 2, 3)]
    run = a_run(project, "dpo", *losses)
    origin = Origin.of(project, run)
    assert [panel.title for panel in origin.panels] == ["loss"]
    assert not origin.evaluation
    assert not origin.reward
    assert "dpo" in origin.settings
