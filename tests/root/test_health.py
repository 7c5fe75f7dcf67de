from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence

import pytest
from rich.console import Console

from rlhf_lite import health, narrate, settings
from rlhf_lite.events import AnyEvent, Changed, EventWriter, Failed, Metrics, Progress, Result, Resumed
from rlhf_lite.project import Project, RunStatus, fold
from rlhf_lite.settings import Ppo

STEPS = 40
PPO = Ppo(steps=STEPS, kl_target=6.0, kl_budget=10.0)
HEALTHY: dict[str, list[float]] = {  # over the run, with a wobble in place of noise
    "objective/scores": [t / STEPS + 0.05 * (-1) ** t for t in range(STEPS)],
    "objective/kl": [2.6 * min(1, t / 20) for t in range(STEPS)],
    "objective/entropy": [2.0 - 0.005 * t + 0.03 * (-1) ** t for t in range(STEPS)],
    "completion_length": [90.0 + 4 * (-1) ** t for t in range(STEPS)],
    "val/num_eos_tokens": [0.95 + 0.02 * (-1) ** t for t in range(STEPS)],
    "policy/approxkl_avg": [0.008] * STEPS,
    "policy/clipfrac_avg": [0.06] * STEPS,
    "length_correlation": [0.3 + 0.1 * (-1) ** t for t in range(STEPS)],
    "repetition": [0.02 + 0.01 * (-1) ** t for t in range(STEPS)],
}


def told(series: dict[str, list[float]]) -> list[AnyEvent]:
    """One event a step, and a measurement on held-out prompts after every fifth."""
    found: list[AnyEvent] = []
    for t, row in enumerate(zip(*series.values(), strict=True), 1):
        found.append(Metrics(step=t, values=dict(zip(series, row, strict=True))))
        if t % 5 == 0:
            found.append(Metrics(step=t, values={"eval/scores": -99.0, "eval/kl": 99.0}))
    return found


def seen(*more: AnyEvent, **changed: Sequence[float]) -> health.Health:
    """The health of the healthy run with some series changed; names by their last part."""
    series = {name: list(changed.get(name.split("/")[-1], values)) for name, values in HEALTHY.items()}
    return health.of_ppo(fold([*told(series), *more]), PPO)


def ramp(first: float, last: float) -> list[float]:
    return [first + (last - first) * t / (STEPS - 1) for t in range(STEPS)]


def flat(value: float) -> list[float]:
    return [value + 0.05 * (-1) ** t for t in range(STEPS)]


def test_a_healthy_run_is_told_with_its_numbers() -> None:
    found = seen()
    assert found == health.Health("ok", "Healthy: reward rising, KL 2.6 under target 6.0, length steady.")


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"kl": ramp(0, 10.5)}, "bad", "Drifted from the base: KL 10.5 is over the budget of 10.0"),
        ({"kl": [*ramp(0, 1)[:-3], -0.6, -0.7, -0.9]}, "bad", "Sampling and scoring disagree"),
        ({"kl": ramp(0, 9)}, "bad", "Drifting from the base: KL 9.0, and the run ends at 10.0"),
        ({"kl": [*ramp(0, 1)[:-4], 1.33, 3.18, 3.15, 6.12]}, "bad", "Drifting from the base: KL 6.1"),
        ({"kl": ramp(0, 8)}, "watch", "KL 7.8 is over its target of 6.0"),
        ({"entropy": ramp(2.0, 2.9)}, "watch", "Getting random: reward up, but entropy up"),
        ({"entropy": ramp(2.0, 4.5)}, "bad", "Getting random"),
        ({"completion_length": ramp(90, 150)}, "watch", "Learning to ramble: reward up, but answers"),
        ({"num_eos_tokens": ramp(0.95, 0.6)}, "watch", "Answers never finish: only 62%"),
        ({"num_eos_tokens": flat(0.2)}, "bad", "Answers never finish"),
        (
            {"num_eos_tokens": [0.99] * 20 + [0.74] * 20},
            "watch",
            "Fewer answers finish: 99% at first, 74% now.",
        ),
        ({"approxkl_avg": ramp(0.005, 0.06)}, "watch", "Updates are too large"),
        ({"clipfrac_avg": ramp(0.05, 0.4)}, "watch", "Updates are too large: 38% of tokens clipped"),
        ({"scores": flat(0.3)}, "watch", "Not learning: reward flat at 0.3"),
        ({"scores": ramp(1, 0)}, "watch", "Getting worse: reward fell"),
        ({"length_correlation": flat(0.85)}, "watch", "Learning length"),
        ({"repetition": ramp(0.02, 0.3)}, "watch", "Repeating itself: 26% of four tokens in a row"),
        ({"repetition": ramp(0.02, 0.7)}, "bad", "Repeating itself"),
    ],
)
def test_every_sign_fires_with_an_action(changed: dict[str, list[float]], level: str, words: str) -> None:
    found = seen(**changed)
    assert (found.level, found.words[: len(words)]) == (level, words)
    assert found.action
    assert max(len(found.words), len(found.action)) <= health.WIDTH


@pytest.mark.parametrize(
    "changed",
    [
        {"kl": ramp(0, 6.5)},
        {"kl": [*ramp(0, 1)[:-4], 1.33, 3.18, 3.15, 5.9]},  # a fast rise that has not reached the target
        {"kl": [6.0 + 0.8 * (-1) ** t for t in range(STEPS)]},  # held at the target
        {"kl": [*ramp(0, 1)[:-3], -0.6, 0.1, -0.9]},
        {"entropy": ramp(2.0, 2.3)},
        {"completion_length": ramp(90, 115)},
        {"completion_length": ramp(90, 45)},
        {"num_eos_tokens": flat(0.8)},
        {"scores": [min(1.0, t / 10) + 0.05 * (-1) ** t for t in range(STEPS)]},  # a plateau after a rise
        {"length_correlation": flat(0.5)},
        {"repetition": ramp(0.02, 0.1)},
        {"scores": [(t / STEPS) * 1e-3 for t in range(STEPS)]},  # the scale of a reward is nobody's business
    ],
)
def test_what_is_still_healthy(changed: dict[str, list[float]]) -> None:
    assert seen(**changed).level == "ok"


@pytest.mark.parametrize("name", [n.split("/")[-1] for n in HEALTHY if n != "objective/kl"])
def test_one_wild_step_says_nothing(name: str) -> None:
    whole = next(n for n in HEALTHY if n.split("/")[-1] == name)
    wild = [*HEALTHY[whole][:-1], HEALTHY[whole][-1] * 4]
    assert seen(**{name: wild}).level == "ok"


def test_entropy_and_length_alarm_only_beside_a_rising_reward() -> None:
    plateau = flat(1.0)
    assert "random" not in seen(scores=plateau, entropy=ramp(2, 4)).words
    assert "ramble" not in seen(scores=plateau, completion_length=ramp(90, 200)).words


def test_the_worst_sign_wins() -> None:
    found = seen(completion_length=ramp(90, 150), kl=ramp(0, 11), scores=ramp(0, 1))
    assert found.level == "bad"
    assert "budget" in found.words


def test_the_first_steps_are_not_judged() -> None:
    events = told(HEALTHY)
    assert health.of_ppo(fold(events[:2]), PPO) == health.Health("ok", "measuring… (2 of 3 steps)")
    assert health.of_ppo(fold(events[:4]), PPO).words.startswith("Healthy so far: reward ")


def test_flat_is_measured_against_the_length_of_the_run() -> None:
    events = told({**HEALTHY, "objective/scores": flat(0.3)})[:18]  # 15 steps
    assert health.of_ppo(fold(events), Ppo(steps=16)).words.startswith("Not learning")
    assert health.of_ppo(fold(events), Ppo(steps=200)).level == "ok"


def broken(step: int, rate: float) -> list[AnyEvent]:
    why = "the policy loss is not finite"
    return [Resumed(from_step=step), Changed(step=step, name="learning_rate", value=rate, why=why)]


def test_a_rollback_is_said_for_a_while_with_its_step() -> None:
    found = seen(*broken(35, 5e-6))
    assert found.level == "watch"
    assert found.words == "Broke once; rolled back to step 35, learning rate now 5.0e-06."
    assert seen(*broken(35, 5e-6), *broken(35, 2.5e-6)).level == "bad"
    assert health.of_ppo(fold(broken(0, 5e-6)), PPO).level == "watch"
    early = [*told(HEALTHY)[:24], *broken(20, 5e-6), *told(HEALTHY)[24:]]
    assert health.of_ppo(fold(early), PPO).level == "ok"


def test_a_learning_rate_that_was_asked_for_is_no_fault() -> None:
    assert seen(Changed(step=39, name="learning_rate", value=1e-6, why="asked for")).level == "ok"


def test_a_halved_micro_batch_is_said() -> None:
    found = seen(Changed(step=37, name="micro_batch", value=4, why="out of memory"))
    assert found.level == "watch"
    assert found.words == "Ran out of memory at step 37; the micro batch is now 4."
    assert seen(Changed(step=7, name="micro_batch", value=4)).level == "ok"


def test_a_failed_run_says_what_failed() -> None:
    found = seen(Failed(kind="Diverged", message="training diverged " * 9, hint="a tenth"))
    assert (found.level, found.action) == ("bad", "a tenth")
    assert len(found.words) <= health.WIDTH


def noisy(seed: int) -> tuple[dict[str, list[float]], int]:
    """A healthy run: reward and KL rise and level off, everything with the noise of 64 answers."""
    rng = random.Random(seed)
    length = rng.randint(12, 120)
    rise = [1 - math.exp(-2.5 * t / length) for t in range(length)]
    noise = rng.gauss
    return {
        "objective/scores": [up + noise(0, 0.2) for up in rise],
        "objective/kl": [max(0.0, 4.5 * up * (1 + noise(0, 0.1))) for up in rise],
        "objective/entropy": [2 - 0.2 * up + noise(0, 0.1) for up in rise],
        "completion_length": [90 + 10 * up + noise(0, 7) for up in rise],
        "val/num_eos_tokens": [min(1.0, 0.95 + noise(0, 0.03)) for _ in rise],
        "policy/approxkl_avg": [abs(0.008 + noise(0, 0.003)) for _ in rise],
        "policy/clipfrac_avg": [abs(0.08 + noise(0, 0.03)) for _ in rise],
        "length_correlation": [0.3 + noise(0, 0.12) for _ in rise],
    }, length


def test_noise_alone_raises_hardly_an_alarm() -> None:
    alarmed = steps = alarms = 0
    for seed in range(200):
        series, length = noisy(seed)
        metrics = [e for e in told(series) if isinstance(e, Metrics)]
        levels = [
            health.of_ppo(RunStatus(metrics=metrics[:n]), Ppo(steps=length)).level
            for n in range(4, len(metrics) + 1, 3)
        ]
        steps, alarms = steps + len(levels), alarms + sum(level != "ok" for level in levels)
        alarmed += levels[-1] != "ok"
    assert alarmed <= 2, "at the end of a run"
    assert alarms <= 0.005 * steps, "on the way"


REWARD = {"accuracy": 0.71, "accuracy_interval": [0.58, 0.82], "length_baseline": 0.63}


@pytest.mark.parametrize(
    ("result", "level", "words"),
    [
        ({}, "ok", "Good: right on 71% of held-out pairs (58% to 82%); length alone 63%."),
        ({"length_baseline": None}, "ok", "Good: right on 71% of held-out pairs (58% to 82%)."),
        ({"accuracy": 0.6, "accuracy_interval": [0.45, 0.73]}, "watch", "Weak: right on 60% of held-out"),
        ({"accuracy": 0.4, "accuracy_interval": [0.2, 0.6]}, "bad", "Weak: right on 40% of held-out"),
        ({"length_baseline": 0.74}, "watch", "Learned length: the longer answer wins 74%, the model 71%."),
        ({"accuracy": None, "accuracy_interval": [0, 1]}, "watch", "Not measured"),
    ],
)
def test_the_verdict_on_a_reward_model(result: dict[str, object], level: str, words: str) -> None:
    found = health.of_reward(fold([Result(values={**REWARD, **result})]))
    assert (found.level, found.words[: len(words)]) == (level, words)
    assert bool(found.action) is (level != "ok")
    assert len(found.words) <= health.WIDTH


def test_a_reward_model_in_training_has_no_verdict_yet() -> None:
    assert health.of_reward(RunStatus()).words == "measuring…"


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ([{"eval/kl": 1.25}, {"loss": 0.5}], "loss 0.5  KL 1.25"),
        ([{"objective/kl": 3.0}, {"eval/kl": 9.0}], "KL 3"),
    ],
    ids=["DPO tells KL now and then and the loss at every step", "of PPO's two the step's own"],
)
def test_progress_beside_what_was_measured_last(measured: list[dict[str, float]], words: str) -> None:
    said = io.StringIO()
    narrator = narrate.Narrator(Console(file=said, width=200))
    narrator.tell(Progress(what="steps", done=0, total=100))
    for step, values in enumerate(measured):
        narrator.tell(Metrics(step=step, values=values))
    narrator.tell(Progress(what="steps", done=100, total=100))
    assert said.getvalue().rstrip().endswith(f"100%  {words}")


def test_the_narration_says_a_change_of_health_once(project: Project) -> None:
    preset = settings.override(settings.Preset(), [f"ppo.steps={STEPS}"])
    inputs = settings.Inputs(stage="ppo", project="", model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, preset)
    said = io.StringIO()
    nurse = narrate.Nurse(run, narrate.Narrator(Console(file=said, width=200)))
    writer = EventWriter(run.events_path)
    eos = [0.95] * 10 + [0.6] * 15 + [0.95] * 15
    for event in told({**HEALTHY, "val/num_eos_tokens": eos}):
        writer.write(event)
        nurse.tell(event)
    writer.close()
    lines = said.getvalue().splitlines()
    assert [line.strip()[:29] for line in lines] == [
        "step 13: Answers never finish",
        "step 32: Healthy: reward risi",
    ]
    assert "Next: raise sampling.max_new_tokens" in lines[0]
