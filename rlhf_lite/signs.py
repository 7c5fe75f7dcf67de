"""The signs of a PPO run's health: each looks at what the run said and is silent, or says a line with its action.

Decided here: medians of the first and the last steps are compared, never two single steps, and a rise counts only
where it stands out of the noise between neighbouring steps. Left out: answers that become alike between themselves,
which no event tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from rlhf_lite.project import RunStatus
from rlhf_lite.settings import Ppo

Level = Literal["ok", "watch", "bad"]
LEVELS: tuple[Level, ...] = ("ok", "watch", "bad")
WIDTH = 76  # characters; more would wrap in a terminal of 80
MEASURED = 3  # steps before anything is said
COMPARED = 6  # steps before first and last are compared
RECENT = 10  # steps for which an event on the way stays worth saying

RISE, FALL, FLAT = 2.0, -2.5, 0.7  # standard errors of a difference of medians
RANDOM, VERY_RANDOM = 1.25, 1.5  # entropy now to entropy at first
RAMBLING, STEADY = 1.4, 0.15  # answer length now to length at first; what still counts as the same
OVER_TARGET, NEAR_BUDGET = 1.25, 0.8
FEW_END, HARDLY_ANY_END, FEWER_END = (
    0.7,
    0.5,
    0.2,
)  # shares of answers; the last one a loss since the first steps
CLIPPED, TOO_FAR = 0.3, 1.5  # share of tokens; times ppo.max_approx_kl
REPEATING, LOOPING = 0.1, 0.4  # a rise of the share that repeats; too much of it whatever it was
FOLLOWS_LENGTH = 0.7  # the demo's reward model, which is a good one, starts at 0.5


@dataclass(frozen=True)
class Health:
    """One line: ``words`` of at most :data:`WIDTH` characters, and what to do (empty where nothing is)."""

    level: Level
    words: str
    action: str = ""


@dataclass(frozen=True)
class Change:
    """Medians of the first and the last steps; ``errors``: their difference in its standard errors."""

    first: float
    last: float
    errors: float

    @property
    def ratio(self) -> float:
        return self.last / self.first if self.first > 0 else 1.0


class Steps:
    """The training steps of a run as series; measurements on held-out prompts between them are not steps."""

    def __init__(self, status: RunStatus) -> None:
        self.found = [m for m in status.metrics if "objective/kl" in m.values]

    def __len__(self) -> int:
        return len(self.found)

    def series(self, name: str) -> list[float]:
        return [m.values[name] for m in self.found if name in m.values]

    def now(self, name: str, steps: int = 5) -> float | None:
        """Median of the last steps."""
        values = self.series(name)[-steps:]
        return median(values) if len(values) >= MEASURED else None

    def kl(self) -> float:
        """Of the last three steps, as it can double in two."""
        return median(self.series("objective/kl")[-3:])

    def change(self, name: str) -> Change | None:
        """How the last steps differ from the first; None while there are too few."""
        values = self.series(name)
        return change_of(values) if len(values) >= COMPARED else None

    @property
    def rising(self) -> bool:
        reward = self.change("objective/scores")
        return reward is not None and reward.errors >= RISE


def change_of(values: Sequence[float]) -> Change:
    size = max(3, min(20, len(values) // 3))
    first, last = median(values[:size]), median(values[-size:])
    # Differences of neighbours tell the noise whatever the trend; 1.4826 and 1.2533: from a median absolute
    # deviation to a standard one, and from a mean's standard error to a median's.
    between = median(abs(b - a) for a, b in pairwise(values))
    noise = 1.4826 * between / 2**0.5 * 1.2533 * (2 / size) ** 0.5
    return Change(first, last, (last - first) / max(noise, 1e-9))


# What happened on the way


def broke(status: RunStatus, steps: Steps) -> Health | None:
    """Numbers that were not finite: the job goes back to a checkpoint with half the learning rate, at most twice."""
    breaks = [c for c in status.changes if c.name == "learning_rate" and c.why != "asked for"]
    if not breaks or _last_step(steps) - breaks[-1].step >= RECENT:
        return None
    often = "again" if len(breaks) > 1 else "once"
    return Health(
        "bad" if len(breaks) > 1 else "watch",
        f"Broke {often}; rolled back to step {breaks[-1].step}, learning rate now {breaks[-1].value:.1e}.",
        "stop, and start with a tenth of ppo.learning_rate" if len(breaks) > 1 else "wait: it may go on well",
    )


def out_of_memory(status: RunStatus, steps: Steps) -> Health | None:
    halved = [c for c in status.changes if c.name.endswith(("micro_batch", "batch_size"))]
    if not halved or _last_step(steps) - halved[-1].step >= RECENT:
        return None
    name = halved[-1].name.rpartition(".")[2].replace("_", " ")
    return Health(
        "watch",
        f"Ran out of memory at step {halved[-1].step}; the {name} is now {halved[-1].value:g}.",
        "wait: it goes on by itself, only slower",
    )


def _last_step(steps: Steps) -> int:
    return steps.found[-1].step if steps.found else 0


# What the numbers tell


def _over_budget(steps: Steps, settings: Ppo) -> Health | None:
    """The newest step alone, as the job itself decides by it."""
    kl, budget = steps.series("objective/kl")[-1], settings.kl_budget
    if kl <= budget:
        return None
    words = f"Drifted from the base: KL {kl:.1f} is over the budget of {budget:.1f}."
    return Health("bad", words, "the best checkpoint is kept; start again with a larger ppo.kl_coef")


def _negative_kl(steps: Steps, settings: Ppo) -> Health | None:
    if not all(kl < -0.5 for kl in steps.series("objective/kl")[-3:]):
        return None
    words = "Sampling and scoring disagree: KL below zero for 3 steps."
    return Health("bad", words, "stop: what is measured is wrong; please report it with the run's log")


def _near_budget(steps: Steps, settings: Ppo) -> Health | None:
    """Near it, or growing so fast that two more steps lead there: a real run went 3, 6, 7, 14."""
    kl, target, budget = steps.kl(), settings.kl_target, settings.kl_budget
    newest = steps.series("objective/kl")[-4:]
    growth = (newest[-1] / max(newest[0], 0.1 * target)) ** (1 / 3) if newest[-1] > target else 0.0
    soon = newest[-1] * growth**2 > budget and len(newest) == 4
    if not soon and kl < max(NEAR_BUDGET * budget, min(OVER_TARGET * target, budget)):
        return None
    words = f"Drifting from the base: KL {newest[-1]:.1f}, and the run ends at {budget:.1f}."
    return Health("bad", words, "raise the KL coefficient")


def _random(steps: Steps, settings: Ppo) -> Health | None:
    entropy = steps.change("objective/entropy")
    if not entropy or not steps.rising or entropy.ratio < RANDOM or entropy.errors < RISE:
        return None
    words = f"Getting random: reward up, but entropy up {entropy.ratio - 1:.0%} too."
    return Health("bad" if entropy.ratio >= VERY_RANDOM else "watch", words, "lower the learning rate")


def _unfinished(steps: Steps, settings: Ppo) -> Health | None:
    ended = steps.now("val/num_eos_tokens")
    if ended is None or ended >= FEW_END:
        return None
    return Health(
        "bad" if ended < HARDLY_ANY_END else "watch",
        f"Answers never finish: only {ended:.0%} end by themselves.",
        "raise sampling.max_new_tokens, or check the chat template",
    )


def _too_large_updates(steps: Steps, settings: Ppo) -> Health | None:
    moved, clipped = steps.now("policy/approxkl_avg") or 0.0, steps.now("policy/clipfrac_avg") or 0.0
    if moved < TOO_FAR * settings.max_approx_kl and clipped < CLIPPED:
        return None
    words = f"Updates are too large: {clipped:.0%} of tokens clipped, approx KL {moved:.3f}."
    return Health("watch", words, "halve the learning rate")


def _over_target(steps: Steps, settings: Ppo) -> Health | None:
    kl, target = steps.kl(), settings.kl_target
    if kl < OVER_TARGET * target:
        return None
    words = f"KL {kl:.1f} is over its target of {target:.1f}."
    return Health("watch", words, "wait: the KL coefficient grows by itself; or raise it now")


def _rambling(steps: Steps, settings: Ppo) -> Health | None:
    length = steps.change("completion_length")
    if not length or not steps.rising or length.ratio < RAMBLING or length.errors < RISE:
        return None
    words = f"Learning to ramble: reward up, but answers {length.ratio - 1:.0%} longer."
    return Health("watch", words, "label 20 pairs of like length, then train the reward model again")


def _follows_length(steps: Steps, settings: Ppo) -> Health | None:
    follows = steps.now("length_correlation", 10)
    if follows is None or follows < FOLLOWS_LENGTH:
        return None
    words = f"Learning length: longer answers score higher (correlation {follows:.2f})."
    return Health("watch", words, "label 20 pairs of like length, then train the reward model again")


def _repeating(steps: Steps, settings: Ppo) -> Health | None:
    repeated = steps.change("repetition")
    if not repeated or repeated.last - repeated.first < REPEATING or repeated.errors < RISE:
        return None
    words = f"Repeating itself: {repeated.last:.0%} of four tokens in a row were said before."
    return Health("bad" if repeated.last >= LOOPING else "watch", words, "raise the KL coefficient")


def _fewer_finish(steps: Steps, settings: Ppo) -> Health | None:
    ended = steps.change("val/num_eos_tokens")
    if not ended or ended.first - ended.last < FEWER_END or ended.errors > -RISE:
        return None
    words = f"Fewer answers finish: {ended.first:.0%} at first, {ended.last:.0%} now."
    return Health("watch", words, "raise ppo.no_eos_penalty or sampling.max_new_tokens")


def _not_learning(steps: Steps, settings: Ppo) -> Health | None:
    """Flat since the start, over 40 steps or two fifths of a shorter run; a plateau after a rise is no fault."""
    reward = steps.change("objective/scores")
    if not reward or len(steps) < max(10, min(40, round(0.4 * settings.steps))) or reward.errors >= FLAT:
        return None
    if reward.errors <= FALL:
        words = f"Getting worse: reward fell from {reward.first:.2f} to {reward.last:.2f}."
        return Health("watch", words, "halve the learning rate")
    level = median(steps.series("objective/scores"))
    words = f"Not learning: reward flat at {level:.2f} for {len(steps)} steps."
    return Health("watch", words, "check the reward model's accuracy, or raise the learning rate")


SIGNS: tuple[Callable[[Steps, Ppo], Health | None], ...] = (
    _over_budget, _negative_kl, _near_budget, _random, _unfinished, _too_large_updates, _over_target, _rambling,
    _follows_length, _repeating, _fewer_finish, _not_learning,
)  # fmt: skip
