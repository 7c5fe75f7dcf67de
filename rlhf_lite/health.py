"""Is a run healthy, in words and with the next step: a pure function of what the run said and of its settings.

The worst of the :mod:`rlhf_lite.signs` wins, the first of equals. ``watch`` wants an eye on it, ``bad`` wants somebody
to act.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import cast

from rlhf_lite.project import RunStatus
from rlhf_lite.settings import Ppo
from rlhf_lite.signs import (
    LEVELS,
    MEASURED,
    RISE,
    SIGNS,
    STEADY,
    WIDTH,
    Health,
    Steps,
    broke,
    out_of_memory,
)  # fmt: skip


def of_ppo(status: RunStatus, settings: Ppo) -> Health:
    """The health of a PPO run, live or ended."""
    if status.ended == "failed" and status.failure:
        return Health("bad", _fitted(status.failure.message), status.failure.hint)
    steps = Steps(status)
    found = [broke(status, steps), out_of_memory(status, steps)]
    if len(steps) < MEASURED:
        return _worst(found) or Health("ok", f"measuring… ({len(steps)} of {MEASURED} steps)")
    return _worst([*found, *(sign(steps, settings) for sign in SIGNS)]) or _healthy(steps, settings)


def of_reward(status: RunStatus) -> Health:
    """The verdict on a reward model: good, weak, or one that learned length."""
    if status.ended == "failed" and status.failure:
        return Health("bad", _fitted(status.failure.message), status.failure.hint)
    if not status.result:
        return Health("ok", "measuring…")
    accuracy, baseline = status.result.get("accuracy"), status.result.get("length_baseline")
    if not isinstance(accuracy, int | float):
        return Health("watch", "Not measured: no pair was held out.", "label more pairs, on more prompts")
    low, high = cast("list[float]", status.result.get("accuracy_interval") or [0.0, 1.0])
    if low <= 0.5:
        return Health(
            "bad" if accuracy <= 0.5 else "watch",
            f"Weak: right on {accuracy:.0%} of held-out pairs, {low:.0%} to {high:.0%} at 95%.",
            "label 50 more pairs",
        )
    if isinstance(baseline, int | float) and baseline >= accuracy:
        return Health(
            "watch",
            f"Learned length: the longer answer wins {baseline:.0%}, the model {accuracy:.0%}.",
            "label 20 pairs whose answers are of like length",
        )
    beside = f"; length alone {baseline:.0%}" if isinstance(baseline, int | float) else ""
    return Health("ok", f"Good: right on {accuracy:.0%} of held-out pairs ({low:.0%} to {high:.0%}){beside}.")


def _worst(found: Sequence[Health | None]) -> Health | None:
    return max((h for h in found if h), key=lambda h: LEVELS.index(h.level), default=None)


def _fitted(text: str) -> str:
    return textwrap.shorten(text, WIDTH, placeholder="…")


def _healthy(steps: Steps, settings: Ppo) -> Health:
    kl, target = steps.kl(), settings.kl_target
    leash = f"KL {kl:z.1f} {'under' if kl <= target else 'near'} target {target:.1f}"
    reward, length = steps.change("objective/scores"), steps.change("completion_length")
    if reward is None:
        return Health("ok", f"Healthy so far: reward {steps.now('objective/scores') or 0:.2f}, {leash}.")
    trend = "rising" if reward.errors >= RISE else "steady"
    moved = length.ratio - 1 if length else 0.0
    lengths = "length steady" if abs(moved) < STEADY else f"length {moved:+.0%}"
    return Health("ok", f"Healthy: reward {trend}, {leash}, {lengths}.")
