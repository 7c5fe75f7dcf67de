"""The pages and their states; one line a view."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import projects
from looks import View, at, told

from rlhf_lite.events import AnyEvent, Progress
from rlhf_lite.project import Project, Run


def busy(stage: str, said: Iterable[AnyEvent]) -> Callable[[Project], Run]:
    """A run of this stage that has said this and goes on."""
    return lambda project: projects.begun(project, stage, said)


def from_to(said: Callable[[int], list[AnyEvent]], begin: int, end: int) -> list[list[AnyEvent]]:
    """What each step between these two says, given what is said up to a step."""
    return [said(n)[len(said(n - 1)) :] for n in range(begin + 1, end + 1)]


sft, reward, dpo = (partial(projects.learned_so_far, stage) for stage in ("sft", "reward", "dpo"))
LABEL = ("a", "B", "t", "b", "a", "a")  # six answers, the second one strong
VOTES = tuple("abaatabaxaababaabaaabatabaaabaabab")  # thirty-four of them
VIEWS = [
    View("home without a project", None, at("home")),
    View("home of a new project", projects.empty, at("home")),
    View("home", projects.labelled, at("home")),
    View("home while PPO runs", projects.rewarded, at("home"), busy("ppo", projects.ppo_so_far(6))),
    View("home when all is done", projects.finished, at("home")),
    View("doctor", None, at("doctor")),
    View("new", None, at("new")),
    View("open", projects.labelled, at("open")),
    View("model", projects.labelled, at("model")),
    View("prompts without any", projects.empty, at("prompts")),
    View("prompts", projects.labelled, at("prompts")),
    View("prompts while pairs are sampled", projects.prompted,
         told("prompts", [[Progress(what="pairs", done=n, total=60)] for n in (30, 38, 46)]),
         busy("generate", projects.generated_so_far())),
    View("label without pairs", projects.prompted, at("label")),
    View("label", projects.labelled, at("label", *LABEL)),
    View("label when all is labelled", projects.rewarded, at("label")),
    View("label, word differences", projects.labelled, at("label", "d")),
    View("label, one answer", projects.labelled, at("label", "z")),
    View("writing a better answer", projects.labelled, at("label", "e")),
    View("compare before", projects.tuned, at("compare")),
    View("compare while answers are sampled", projects.tuned, at("compare"),
         busy("eval", projects.evaluated_so_far())),
    View("compare", projects.finished, at("compare", *VOTES[:4])),
    View("compare result", projects.finished, at("compare", *VOTES, "o")),
    View("chat before anything is trained", projects.labelled, at("chat")),
    View("chat", projects.finished, at("chat", "enter", text="How long do I boil an egg?")),
    View("chat side by side", projects.tuned, at("chat", "f3", "enter", text="How long do I boil an egg?")),
    View("chat help", projects.tuned, at("chat", "enter", text="/help")),
    View("runs", projects.finished, at("runs")),
    View("runs while one runs", projects.rewarded, at("runs"), busy("ppo", projects.ppo_so_far(6))),
    View("replay", projects.tuned, at("runs", "enter", "left", "left")),
    View("delete", projects.finished, at("runs", "x")),
    View("samples", projects.tuned, at("samples")),
    View("log", projects.finished, at("log")),
    View("settings", projects.labelled, at("settings")),
    View("help", projects.labelled, at("home", "question_mark")),
    View("sft before", projects.labelled, at("sft")),
    View("sft while it runs", projects.labelled, told("sft", from_to(sft, 20, 23)), busy("sft", sft(20))),
    View("sft after", projects.finished, at("sft")),
    View("reward before", projects.labelled, at("reward")),
    View("reward while it runs", projects.labelled, told("reward", from_to(reward, 30, 33)),
         busy("reward", reward(30))),
    View("reward after", projects.rewarded, at("reward")),
    View("dpo before", projects.rewarded, at("dpo")),
    View("dpo while it runs", projects.rewarded, told("dpo", from_to(dpo, 40, 43)), busy("dpo", dpo(40))),
    View("dpo after", projects.finished, at("dpo")),
    View("ppo before", projects.rewarded, at("ppo")),
    View("ppo starting", projects.rewarded, at("ppo"), busy("ppo", [])),
    View("ppo", projects.rewarded, told("ppo", from_to(projects.ppo_so_far, 6, 9)),
         busy("ppo", projects.ppo_so_far(6))),
    View("ppo after", projects.tuned, at("ppo")),
    View("export before", projects.tuned, at("export")),
    View("export while it runs", projects.tuned, at("export"), busy("export", projects.exported_so_far())),
    View("export after", projects.finished, at("export")),
    View("quit", projects.rewarded, at("home", "q"), busy("ppo", projects.ppo_so_far(6))),
    View("error", projects.prompted, at("reward", "enter")),
]  # fmt: skip
CORE = ("home", "label", "ppo", "compare", "chat")
