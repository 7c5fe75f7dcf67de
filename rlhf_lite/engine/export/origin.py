"""Where a tuned model comes from, for its card: whose labels, which settings, how training went, what it was found
to be. All of it is read from the project; nothing is measured here. People are counted and not named: a card is
published, and the name they label by is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rlhf_lite.engine.export.chart import Panel, Points
from rlhf_lite.project import Project, Run

_CURVES = {
    "reward": {"of training": "objective/scores", "on held-out prompts": "eval/scores"},
    "KL to the reference, nats a sequence": {"of training": "objective/kl", "on held-out prompts": "eval/kl"},
    "loss": {"of training": "loss", "on held-out pairs": "eval_loss"},
}
_KINDS = {
    "person": ("by one person", "by {} people"),
    "script": ("by a script", "by {} scripts"),
    "import": ("imported", "imported"),
}


@dataclass(frozen=True)
class Origin:
    """What is known of a run's adapter.

    Attributes:
        run: its name.
        labels: how many pairs were decided, by the words for who did.
        settings: the run's preset, the sections that it used.
        reward: what the reward model's run found, empty where none scored it.
        panels: its curves.
        evaluation: the newest evaluation of it, as the contract's JSON; empty where there is none.
    """

    run: str
    labels: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    panels: tuple[Panel, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, project: Project, run: Run) -> Origin:
        """Read it from a project. ``run`` is the one whose adapter is exported."""
        told = run.settings()
        sections: dict[str, Any] = msgspec.to_builtins(told.preset)
        used = {"lora": sections["lora"], run.stage: sections.get(run.stage, {}), "seed": told.inputs.seed}
        with project.labels() as store:
            judges = store.judges()
        reward = Run(Path(told.inputs.reward).parent).status().result if told.inputs.reward else {}
        return cls(run.name, _by_kind(judges), used, reward, _panels(run), _evaluation(project, run))


def _by_kind(judges: Mapping[str, int]) -> dict[str, int]:
    """Decided pairs by kind of judge, the most first."""
    found: dict[str, list[int]] = {}
    for judge, pairs in judges.items():
        found.setdefault(judge.partition(":")[0], []).append(pairs)
    named = {_kind(kind, len(pairs)): sum(pairs) for kind, pairs in found.items()}
    return dict(sorted(named.items(), key=lambda item: -item[1]))


def _kind(kind: str, judges: int) -> str:
    one, more = _KINDS.get(kind, ("by another judge", "by {} other judges"))
    return one if judges == 1 else more.format(judges)


def _panels(run: Run) -> tuple[Panel, ...]:
    metrics = run.status().metrics

    def points(name: str) -> Points:
        return [(float(m.step), m.values[name]) for m in metrics if name in m.values]

    drawn = {
        title: {name: points(metric) for name, metric in lines.items()} for title, lines in _CURVES.items()
    }
    return tuple(
        Panel(title, {name: line for name, line in lines.items() if line})
        for title, lines in drawn.items()
        if any(len(line) > 1 for line in lines.values())
    )


def _evaluation(project: Project, run: Run) -> dict[str, Any]:
    for found in reversed(project.runs()):
        result: Any = found.status().result if found.stage == "eval" else {}
        if run.name in (result.get("runs") or {}):
            return {**result, "tuned": result["runs"][run.name].get("tuned"), **result["runs"][run.name]}
    return {}
