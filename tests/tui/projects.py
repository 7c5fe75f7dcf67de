"""Projects for tests of looks: one person's taste in kitchen advice, at every stage, the same bytes each time.

The runs say what real ones say, event for event; their numbers come from formulas and a seeded noise.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf_lite import events, settings
from rlhf_lite.events import AnyEvent, EventWriter
from rlhf_lite.labels import Verdict
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, load_preset

BEGAN = 1_790_000_000.0  # 21 September 2026, 13:33:20 UTC
PERSON = "person:ada"
STEPS = 16
ASKED = (
    ("How do I get a blood stain out of a white shirt?",
     "Glad you asked. Soak it in cold water for half an hour, then rub in a little dish soap and rinse.\n"
     "- never use hot water\n- repeat before drying\nLet me know if it is still visible.",
     "Blood stains can be tricky! There are many ways people have tried to remove them over the years. You could use "
     "hot water, bleach, or simply throw the shirt away."),
    ("Why does my bread not rise?",
     "Most often the yeast is old or the water was too hot. Try it with a spoon of sugar first: it should foam.",
     "Bread is one of the oldest foods of mankind, and it has been baked for thousands of years."),
    ("Write a line that invites my neighbours to a summer party.",
     "Come over on Saturday at six: the grill is hot, the drinks are cold, and the children may be loud.",
     "You are invited to a party."),
    ("How long do I boil an egg?",
     "Six minutes for a soft yolk, nine for a firm one. Start counting when the water boils again.",
     "It depends. Eggs can be boiled for a short time or a long time, as you like."),
    ("What should I check before a long ride on my bicycle?",
     "Happy to help. Tyres, brakes, chain, lights: in this order. It takes five minutes.",
     "Check everything on the bicycle before you ride, and also after you ride."),
    ("My basil dies on the window sill. What am I doing wrong?",
     "Pour the water into the saucer and let the leaves be dry. Would you like to know how to cut it?",
     "Basil is a plant. Plants need water, light and air, and yours may have too much or too little of those."),
    ("Explain to a child why the moon changes its shape.",
     "The moon is a ball, and the sun lights one half of it. While it walks around us, we see that half from the side.",
     "The lunar phases are a consequence of the changing angle between the Sun, the Moon and the Earth."),
    ("Is it too late to start learning the cello at forty?",
     "Not at all! Your fingers learn slower than a child's, and your patience is better. Ask for a teacher of adults.",
     "Perhaps. It is possible that one can learn the cello at forty, and it is also possible that one cannot."),
)  # fmt: skip
PLACES = ("", " Please keep it short.", " I am in a hurry.", " Answer in plain words.", " What would you do?",
          " I have tried once already.", " My sister asks.", " I am new to this.")  # fmt: skip


def empty(folder: Path) -> Project:
    """A project that nothing was done in."""
    return Project.create(folder, ProjectFile(name="kitchen-advice", model="demo", preset="demo"))


def prompted(folder: Path) -> Project:
    """Sixty prompts, no answers."""
    project = empty(folder)
    with project.labels() as store:
        store.add_prompts([_prompt(n) for n in range(60)])
    return project


def _prompt(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": ASKED[number % 8][0] + PLACES[number // 8]}]


def labelled(folder: Path, labels: int = 34) -> Project:
    """Sixty pairs, of which this many have a verdict."""
    project = prompted(folder)
    with project.labels() as store, store.transaction():
        for number, prompt in enumerate(store.prompts()):
            _, good, bad = ASKED[number % 8]
            more = PLACES[number // 8]
            store.add_pair(prompt.id, good + more, bad + more, origin="0001-generate")
        for number, pair in enumerate(store.unlabelled()[:labels]):
            liked: Verdict = "a" if pair.a.startswith(ASKED[(pair.prompt.id - 1) % 8][1]) else "b"
            said: Verdict = {7: "tie", 15: "both_bad", 23: "skip"}.get(number, liked)  # pyright: ignore[reportAssignmentType]
            store.label(
                pair.id, said, judge=PERSON, strong=number % 9 == 0, seconds=9.0, swapped=number % 2 == 0
            )
    _run(project, "generate", _generated())
    return project


def rewarded(folder: Path) -> Project:
    """Labelled, and a reward model that is good."""
    project = labelled(folder, labels=60)
    _run(project, "reward", _learned_reward())
    return project


def tuned(folder: Path) -> Project:
    """PPO is done; nothing is compared or exported."""
    project = rewarded(folder)
    _run(project, "ppo", _ppo(STEPS))
    return project


def finished(folder: Path) -> Project:
    """Everything once: warm-up, reward, PPO, DPO, evaluation with its answers, export."""
    project = rewarded(folder)
    _run(project, "sft", _learned("sft", {"loss_first": 1.31, "loss_last": 0.62, "examples": 24}))
    _run(project, "dpo", _learned("dpo", {"pairs_train": 44, "pairs_heldout": 13, "accuracy": 0.692,
                                          "accuracy_interval": [0.424, 0.873], "loss_last": 0.41, "steps": 54,
                                          "best_step": 54, "kl_best": 2.4, "stopped": "finished"}))  # fmt: skip
    _run(project, "ppo", _ppo(STEPS))
    run = _run(project, "eval", _evaluated())
    (run.folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _answers()))
    _run(project, "export", _exported(project))
    file = project.root / "exports" / "kitchen-advice-q8_0.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    return project


def begun(project: Project, stage: str, stream: Iterable[AnyEvent]) -> Run:
    """A run that has said this and not ended; it is alive for whoever holds its lock."""
    return _run(project, stage, stream, ended=False)


def ppo_so_far(steps: int) -> list[AnyEvent]:
    """What PPO has said after so many steps."""
    return [e for e in _ppo(steps) if not isinstance(e, events.Result)]


def learned_so_far(stage: str, steps: int) -> list[AnyEvent]:
    """What a stage on TRL's trainers has said after so many steps of its 54."""
    return _learning(stage, steps)


def exported_so_far() -> list[AnyEvent]:
    done = ("merge", 38), ("verify f16", 16), ("quantize q8_0", 1)
    return [*_loaded(), *(_progress(what, n, n) for what, n in done), _progress("verify q8_0", 7, 16)]


def evaluated_so_far() -> list[AnyEvent]:
    return [*_loaded(), _progress("answers of base", 60, 60), _progress("answers of 0005-ppo", 24, 60)]


def generated_so_far() -> list[AnyEvent]:
    return [*_loaded(), _progress("pairs", 22, 60)]


def _run(project: Project, stage: str, stream: Iterable[AnyEvent], *, ended: bool = True) -> Run:
    inputs = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, load_preset(project.file.preset))
    log = EventWriter(run.events_path)
    began = BEGAN + 3600 * run.number
    log.write(events.Started(stage=stage, pid=1, time=began))
    for number, event in enumerate(stream, 1):
        if isinstance(event, events.Result):
            event = events.Result(values={"run": run.name, **event.values})
        log.write(_at(event, began + 7 * number))
    if ended:
        log.write(events.Finished(time=began + 420))
        if stage in ("sft", "reward", "dpo", "ppo"):
            _write_adapter(run)
    log.close()
    os.utime(run.folder / "settings.toml", (began, began))
    return run


def _at(event: AnyEvent, when: float) -> AnyEvent:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return type(event)(**{**fields, "time": when})


def _write_adapter(run: Run) -> None:
    """Files of a fixed size, for whatever counts them; nothing loads them here."""
    folder = run.folder / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(bytes(400_000))
    settings.write_whole(folder / "adapter_config.json", b"{}")


def _progress(what: str, done: int, total: int) -> events.Progress:
    return events.Progress(what=what, done=done, total=total)


def _loaded() -> list[AnyEvent]:
    return [_progress("loading the model", 0, 1), _progress("loading the model", 1, 1)]


def _generated() -> list[AnyEvent]:
    found = {"pairs": 60, "prompts": 60, "skipped_identical": 2, "seconds": 9.8}
    return [*_loaded(), _progress("pairs", 60, 60), events.Result(values=found)]


def _learning(stage: str, steps: int) -> list[AnyEvent]:
    noise, said = random.Random(stage), _loaded()
    said += _looked_at(0) if stage == "dpo" else []
    for step in range(1, steps + 1):
        far = step / 54
        values = {"loss": 0.693 * math.exp(-2.2 * far) + 0.05 + noise.gauss(0, 0.02), "lr": 3e-3 * (1 - far),
                  "grad_norm": 2 - far, "num_tokens": 978.0 * step}  # fmt: skip
        margin = 4.4 * far**1.5 + noise.gauss(0, 0.1)
        values |= {
            "reward": {"margin": margin, "accuracy": min(1.0, 0.5 + 0.6 * far)},
            "dpo": {"rewards/margins": margin / 3, "rewards/accuracies": min(1.0, 0.5 + 0.4 * far)},
            "sft": {"mean_token_accuracy": 0.6 + 0.25 * far},
        }[stage]
        said += _looked_at(step) if stage == "dpo" and step % 6 == 0 else []
        said += [events.Metrics(step=step, values=values), _progress("training steps", step, 54)]
    return said


def _looked_at(step: int) -> list[AnyEvent]:
    """DPO's answers to held-out prompts, which nobody scores."""
    said = [events.Sample(step=step, prompt=s.prompt, completion=s.completion) for s in _sampled(step // 4)]
    return [*said, events.Metrics(step=step, values={"eval/kl": 2.4 * (step / 54) ** 2, "eval/ended": 1.0})]


def _learned(stage: str, result: dict[str, Any]) -> list[AnyEvent]:
    return [
        *_learning(stage, 54),
        events.Saved(step=54, path="checkpoints/000054"),
        events.Result(values=result),
    ]


def _learned_reward() -> list[AnyEvent]:
    result = {"pairs_train": 44, "pairs_heldout": 13, "heldout_splits": ["valid", "test"], "accuracy": 0.923,
              "accuracy_interval": [0.667, 0.986], "length_baseline": 0.615, "skipped_too_long": 0}  # fmt: skip
    return _learned("reward", result)


def _ppo(steps: int) -> list[AnyEvent]:
    noise, said = random.Random(7), _loaded()
    said += [*_sampled(0), _evaluated_at(0), _progress("PPO steps", 0, STEPS)]
    for step in range(1, steps + 1):
        far = step / STEPS
        values = {
            "objective/scores": 1.6 * far + noise.gauss(0, 0.06), "objective/scores_std": 0.5 - 0.2 * far,
            "objective/kl": 2.8 * far**1.6 + noise.gauss(0, 0.03), "objective/kl_coef": 0.05 * 0.98**step,
            "objective/rlhf_reward": 1.5 * far, "objective/entropy": 0.44 - 0.1 * far + noise.gauss(0, 0.004),
            "val/num_eos_tokens": 1.0, "completion_length": 36 + 4 * far + noise.gauss(0, 0.4),
            "length_correlation": 0.46 - 0.15 * far, "lr": 1e-3, "episode": 64.0 * step, "seconds": 7.9,
            "loss/policy_avg": 0.03, "value/explained_variance": 0.5 - 0.5 * 0.9**step,
            "policy/approxkl_avg": 0.0003 * step, "policy/clipfrac_avg": 0.003, "val/ratio": 0.999,
        }  # fmt: skip
        said += [events.Metrics(step=step, values=values), _progress("PPO steps", step, STEPS)]
        if step % 4 == 0:
            said += [
                *_sampled(step),
                _evaluated_at(step),
                events.Saved(step=step, path=f"checkpoints/{step:06d}"),
            ]
    result = {"steps": 16, "episodes": 1024, "best_step": 16, "score_first": 0.159, "score_last": 1.548,
              "score_best": 1.749, "kl_last": 2.77, "stopped": "finished", "episodes_per_second": 7.6,
              "peak_memory_bytes": 955314176}  # fmt: skip
    return [*said, events.Result(values=result)]


def _evaluated_at(step: int) -> events.Metrics:
    far = step / STEPS
    return events.Metrics(
        step=step, values={"eval/scores": 0.16 + 1.5 * far, "eval/kl": 3.1 * far, "eval/ended": 1.0}
    )


def _sampled(step: int) -> list[events.Sample]:
    """The same two prompts each time, answered ever more as this person likes it."""

    def one(number: int) -> events.Sample:
        asked, good, bad = ASKED[number]
        text = bad if step < 6 else bad.split(".")[0] + ". Let me know if I can help." if step < 12 else good
        return events.Sample(step=step, prompt=asked, completion=text, score=0.11 * step - 0.4 + 0.2 * number)

    return [one(3), one(5)]


def _evaluated() -> list[AnyEvent]:
    def side(score: float, tokens: float, distinct: float) -> dict[str, Any]:
        ends = [0.987, 1.0]
        return {
            "score": score,
            "tokens": tokens,
            "eos_rate": 1.0,
            "eos_rate_interval": ends,
            "distinct_2": distinct,
        }

    base, better = side(0.07, 34.5, 0.319), side(1.735, 43.6, 0.25)
    versus = {"kl": 3.58, "wins": 44, "losses": 3, "ties": 13, "win_rate": 0.842, "win_rate_interval": [0.762, 0.921],
              "decided_win_rate": 0.936, "decided_share": 0.783,
              "greedy": {"wins": 8, "losses": 0, "ties": 0}}  # fmt: skip
    one = {"tuned": better, **versus}
    result = {"judge": "", "prompts": 8, "base": base, **one, "runs": {"0005-ppo": one}}
    return [*_loaded(), _progress("answers of base", 60, 60), events.Result(values=result)]


def _answers() -> Iterable[dict[str, str]]:
    for number in range(60):
        asked, good, bad = ASKED[number % 8]
        more = PLACES[number // 8]
        yield {"prompt": asked + more, "mode": "sampled", "base": bad + more, "0005-ppo": good + more}
    for asked, good, bad in ASKED:
        yield {"prompt": asked, "mode": "greedy", "base": bad, "0005-ppo": good}


def _exported(project: Project) -> list[AnyEvent]:
    parity = {"prompts": 8, "positions": 602, "mean_kl": 0.000407, "top1_agreement": 0.9925, "tune_kl": 0.1818,
              "template_identical": True, "tokens_identical": True, "stop_tokens_known": True, "ended": 8,
              "stops": 1.0, "passed": True}  # fmt: skip
    path = project.root / "exports" / "kitchen-advice-q8_0.gguf"
    made = {"path": str(path), "quant": "q8_0", "bytes": 3450304, "parity": parity, "context": 1024}
    result = {"format": "gguf", **made, "files": [made]}
    return [*exported_so_far(), events.Result(values=result)]
