"""The pipeline as a list of eight steps: what is done, what is next, and what a blocked step waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.labels import Counts
from rlhf_lite.project import POLICY_STAGES, Project, Run, unscored
from rlhf_lite.settings import load_preset

State = Literal["done", "next", "ready", "blocked", "optional"]
DEMONSTRATIONS = 20  # fewer say little about how answers should sound
NO_PROMPTS = "no prompts yet"
UNVOTED = "no reward model, no judge"
GOOD_LABELS = 100  # below it, one more label still moves the reward model visibly

STAGES: tuple[str, ...] = ("generate", "sft", "reward", "ppo", "dpo", "eval", "export")


@dataclass(frozen=True)
class Step:
    """One row. ``words``: what there is, or what is missing; ``done`` also where it is the next to do again."""

    number: int
    key: str
    title: str
    state: State
    words: str
    done: bool = False


def steps(found: Project) -> list[Step]:
    """The eight steps, exactly one of them next.

    Raises:
        CorruptStore: the labels cannot be read.
    """
    with found.labels() as store:
        counts, examples = store.counts(), len(store.demonstrations())
    wanted = load_preset(found.file.preset).reward.min_pairs
    newest = _newest(found)
    policy, tuned = (
        max((newest[s] for s in which), key=_number) for which in (("dpo", "ppo"), POLICY_STAGES)
    )
    decided = counts.a + counts.b
    rows: list[tuple[str, str, State, str]] = [
        ("model", "Model", "done", f"{found.file.model} · {found.file.quantization}"),
        ("prompts", "Prompts & answers", *_answers(counts, decided, wanted)),
        ("label", "Label pairs", *_labels(counts, decided, wanted)),
        ("sft", "Warm-up (SFT)", *_warm_up(newest["sft"], examples)),
        ("reward", "Reward model", *_reward(newest["reward"], decided, wanted)),
        ("ppo", "PPO", *_policy(policy, newest["reward"])),
        ("compare", "Compare base and tuned", *_comparison(found, newest["eval"], tuned)),
        ("export", "Export & chat", *_after(newest["export"], tuned, _export_words)),
    ]
    following = _next([(key, state) for key, _, state, _ in rows], newest, policy, counts)
    return [
        Step(number, key, title, "next" if key == following else state, words, state == "done")
        for number, (key, title, state, words) in enumerate(rows, 1)
    ]


def _newest(found: Project) -> dict[str, Run | None]:
    """The newest finished run of each stage; the folder is listed once, and no older run is read."""
    newest: dict[str, Run | None] = dict.fromkeys(STAGES)
    for run in reversed(found.runs()):
        if run.stage in newest and newest[run.stage] is None and run.status().ended == "finished":
            newest[run.stage] = run
    return newest


def _answers(counts: Counts, decided: int, wanted: int) -> tuple[State, str]:
    if not counts.prompts:
        return "ready", NO_PROMPTS
    words = f"{counts.prompts} prompts · {counts.pairs} pairs of answers"
    if not counts.pairs:
        return "ready", words
    if decided < wanted and not _waiting(counts):
        return "ready", f"{words} · all labelled, {decided} of {wanted} decided labels that training wants"
    return "done", words


def _labels(counts: Counts, decided: int, wanted: int) -> tuple[State, str]:
    if not counts.pairs:
        return "blocked", "waits for pairs of answers"
    waiting = counts.pairs - counts.labelled - counts.skipped
    words = f"{counts.labelled} labelled, {decided} of them decided · {waiting} waiting"
    if decided < wanted:
        return "ready", f"{words} · at least {wanted} to go on"
    return "done", words + ("" if decided >= GOOD_LABELS else f" · {GOOD_LABELS} are better")


def _warm_up(run: Run | None, examples: int) -> tuple[State, str]:
    if run:
        return "done", run.name
    if not examples:
        return "optional", "optional · imitates answers you wrote or chose"
    enough = "ready" if examples >= DEMONSTRATIONS else f"{DEMONSTRATIONS} are better"
    return "optional", f"optional · {examples} answers to imitate ({enough})"


def _reward(run: Run | None, decided: int, wanted: int) -> tuple[State, str]:
    if run:
        match run.status().result:
            case {"accuracy": float(accuracy), "accuracy_interval": [float(low), float(high)]}:
                told = f"agrees with {accuracy:.0%} of held-out labels ({low:.0%} to {high:.0%})"
                return "done", f"{told} · {run.name}"
            case _:
                return "done", run.name
    if decided < wanted:
        return "blocked", f"needs {wanted} decided labels, has {decided}"
    return "ready", f"{decided} decided labels to learn from"


def _policy(run: Run | None, reward: Run | None) -> tuple[State, str]:
    if run:
        result = run.status().result
        kl = result.get("kl_best", result.get("kl_last"))
        return "done", run.name + (f" · KL {kl:z.1f}" if isinstance(kl, float) else "")
    return ("ready", "ready") if reward else ("blocked", "waits for the reward model")


def _after(run: Run | None, policy: Run | None, words: Callable[[Run], str]) -> tuple[State, str]:
    if policy is None:
        return "blocked", "waits for a tuned model"
    if run is None:
        return "ready", "ready"
    if run.number < policy.number:
        return "ready", f"{policy.name} is newer than {run.name}"
    return "done", words(run)


def _comparison(found: Project, run: Run | None, policy: Run | None) -> tuple[State, str]:
    """Where nothing scored the answers, it is the votes that complete it; how they stand is not told before the end."""
    state, words = _after(run, policy, _eval_words)
    if state != "done" or run is None or policy is None or not unscored(run.status().result):
        return state, words
    from rlhf_lite.votes import ENOUGH, Ballot  # the app's first paint does not wait for it

    try:
        ballot = Ballot(run.folder, found.file.seed, prefer=policy.name)
    except RlhfLiteError as error:  # no answers left, or damaged: the comparison can be made again
        return "ready", error.message
    votes = ballot.tally.votes
    wanted = min(ENOUGH, votes + ballot.waiting)
    if votes < wanted:
        return "ready", f"{votes} of {wanted} votes · {UNVOTED}"
    if ballot.waiting:
        return "done", f"{votes} votes, {ballot.waiting} pairs to go · {run.name}"
    return "done", f"{ballot.tally.sentence} · {run.name}"


def _eval_words(run: Run) -> str:
    match run.status().result:
        case {"win_rate": float(rate), "win_rate_interval": [float(low), float(high)]}:
            return f"tuned wins {rate:.0%} ({low:.0%} to {high:.0%}) · {run.name}"
        case _:
            return run.name


def _export_words(run: Run) -> str:
    result = run.status().result
    return f"{result.get('quant', '')} · {str(result.get('path', run.name)).rsplit('/', 1)[-1]}"


def _next(
    rows: list[tuple[str, State]], newest: dict[str, Run | None], policy: Run | None, counts: Counts
) -> str:
    """The first step that is not done; a newer round of labels or rewards reopens what stands on it."""
    state = dict(rows)
    pairs, reward = newest["generate"], newest["reward"]
    if state["prompts"] != "done":
        return "prompts"
    if state["label"] != "done" or (
        _number(pairs) > max(_number(reward), _number(policy)) and _waiting(counts)
    ):
        return "label"
    if _number(reward) < 0 and policy is None:
        return "reward"
    if _number(policy) < _number(reward):
        return "ppo"
    return next((key for key in ("compare", "export") if state[key] != "done"), "export")


def _waiting(counts: Counts) -> bool:
    return counts.pairs > counts.labelled + counts.skipped


def _number(run: Run | None) -> int:
    return run.number if run else -1
