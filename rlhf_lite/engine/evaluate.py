"""``eval``: base (always adapters off) against tuned, on prompts that neither training nor selection has seen.

Every answer of a tuned policy meets an answer of the base to the same prompt, each side sampled at temperature 1 from
seeded randomness of its own: shared random numbers would couple the two and flatter the winner. A judge file decides
where one is given, else the reward model. A reward model judging the policy that was trained on it is a partial judge:
the result says who judged. Without either, whatever asks for a judgement is None in the result, and the answers wait
for blind votes. Greedy answers are compared beside the sampled.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.job import Job, load_function
from rlhf_lite.engine.judge import ask
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.prompts import PromptIds, load_prompts
from rlhf_lite.engine.rollout import logprobs_of, sequence_kl
from rlhf_lite.engine.sampling import Samples, sample, seeded
from rlhf_lite.engine.scoring import RewardModel
from rlhf_lite.engine.statistics import distinct_2, mean, mean_with_interval
from rlhf_lite.errors import UserError
from rlhf_lite.intervals import wilson
from rlhf_lite.settings import write_whole

TIE_MARGIN = 0.1
"""Scores nearer than this many standard deviations of the reward model are a tie."""
WORTH = {"wins": 1.0, "losses": 0.0, "ties": 0.5}
RATES = ("win_rate", "win_rate_interval", "decided_win_rate", "decided_share")


@dataclass
class Answers:
    """One side's answers, ``samples`` to each prompt in the prompts' order, then one greedy answer to each."""

    name: str
    texts: list[str]
    tokens: list[int]
    ended: list[bool]
    greedy: list[str]
    ids: list[list[int]]
    scores: list[float] = field(default_factory=list[float])
    greedy_scores: list[float] = field(default_factory=list[float])
    kl: float | None = None


def run(job: Job) -> None:
    """The stage ``eval``."""
    if not (job.inputs.policies or job.inputs.gguf):
        raise UserError(
            "nothing to compare with the base", hint=f"train first: rlhf-lite train {job.project.root} ppo"
        )
    base = SharedBase.of(job)
    prompts = load_prompts(job, base, "test", or_else=load_prompts(job, base, None))
    asked = [p for p in prompts for _ in range(job.preset.eval.samples)]
    decide = _decider(job, prompts, asked)  # before the minutes of sampling: its file may be refused
    sides = [_sample_side(job, base, None, "base", prompts, asked)]
    for folder in map(Path, job.inputs.policies):
        name = folder.parent.name
        base.load_adapter(name, folder, trainable=False)
        sides.append(_sample_side(job, base, name, name, prompts, asked))
    if job.inputs.gguf:
        sides.append(_sample_gguf(job, base, prompts, asked))
    if job.inputs.reward:
        model = RewardModel(base, Path(job.inputs.reward))
        for side in sides:
            _score(model, side, prompts, asked, base)
    _write_samples(job, prompts, asked, sides)
    outcomes = {side.name: decide(sides[0], side) for side in sides[1:]} if decide else {}
    results = {side.name: _compare(side, outcomes.get(side.name)) for side in sides[1:]}
    last = results[sides[-1].name]
    if outcomes and job.inputs.gguf and job.inputs.policies:
        last |= {"difference": _difference(*(outcomes[s.name][0] for s in sides[-2:]))}
    judge = job.inputs.function or ("the reward model" if job.inputs.reward else None)
    if decide and not job.inputs.function and any(s.endswith("-ppo") for s in results):
        job.warn(
            "the reward model judges a policy trained on it",
            "a judge file or blind comparison is fairer: --judge",
        )
    job.result({"judge": judge, "prompts": len(prompts), "base": _summary(sides[0]), **last, "runs": results})


def _sample_side(
    job: Job, base: SharedBase, view: str | None, name: str, prompts: list[PromptIds], asked: list[PromptIds]
) -> Answers:
    """Sampled and greedy answers of a view, and its KL to the bare base."""
    sampling, total = job.preset.sampling, len(asked) + len(prompts)
    generator = seeded(base.device, job.inputs.seed, zlib.crc32(name.encode()))
    what = f"answers of {name}"

    def tell(done: int) -> None:
        job.progress(what, done, total)
        job.check_stop()

    def ask_for(some: list[PromptIds], before: int, greedy: bool) -> Samples:
        return sample(
            base, [p.ids for p in some], max_new_tokens=sampling.max_new_tokens, batch_size=sampling.batch_size,
            generator=generator, greedy=greedy,
            on_batch=lambda done: tell(before + done),
        )  # fmt: skip

    job.progress(what, 0, total)
    with base.view(view):
        found = ask_for(asked, 0, greedy=False)
        likeliest = ask_for(prompts, len(asked), greedy=True)
    side = Answers(
        name=name,
        texts=[text.decode(base.tokenizer, c) for c in found.completions],
        tokens=[len(c) for c in found.completions],
        ended=found.ended,
        greedy=[text.decode(base.tokenizer, c) for c in likeliest.completions],
        ids=found.completions,
    )
    if view is not None:
        bare = logprobs_of(base, None, [p.ids for p in asked], found.completions, job.preset.ppo.micro_batch)
        side.kl = mean(sequence_kl(found, bare))
    return side


def _sample_gguf(job: Job, base: SharedBase, prompts: list[PromptIds], asked: list[PromptIds]) -> Answers:
    """Sampled and greedy answers of an exported file, by llama.cpp, at temperature 1 as well."""
    model = LlamaModel(Path(job.inputs.gguf))
    side = Answers(Path(job.inputs.gguf).name, [], [], [], [], [])
    limit, total = job.preset.sampling.max_new_tokens, len(asked) + len(prompts)
    for index, prompt in enumerate(asked):
        job.check_stop()
        question = model.tokenize(model.render(prompt.messages))
        seed = job.inputs.seed * 1_000_003 + index
        ids = list(model.generate(question, max_tokens=limit, temperature=1.0, seed=seed))
        side.texts.append(_text(model, ids))
        side.tokens.append(len(ids))
        side.ended.append(bool(ids) and model.is_eog(ids[-1]))
        side.ids.append(text.completion_ids(base.tokenizer, side.texts[-1]))
        job.progress(f"answers of {side.name}", index + 1, total)
    for index, prompt in enumerate(prompts):
        question = model.tokenize(model.render(prompt.messages))
        side.greedy.append(_text(model, model.generate(question, max_tokens=limit, temperature=0.0)))
        job.progress(f"answers of {side.name}", len(asked) + index + 1, total)
    model.close()
    return side


def _text(model: LlamaModel, ids: Iterable[int]) -> str:
    return "".join(model.stream_text(ids)).strip()


def _score(
    model: RewardModel, side: Answers, prompts: list[PromptIds], asked: list[PromptIds], base: SharedBase
) -> None:
    side.scores = model([p.ids for p in asked], side.ids)
    greedy = [text.completion_ids(base.tokenizer, t) for t in side.greedy]
    side.greedy_scores = model([p.ids for p in prompts], greedy)


Decider = Callable[[Answers, Answers], tuple[list[float], list[float]]]
"""Base and tuned → 1, 0.5 or 0 for tuned, of each sampled and each greedy answer."""


def _decider(job: Job, prompts: list[PromptIds], asked: list[PromptIds]) -> Decider | None:
    """None where there is nobody to decide."""
    if job.inputs.function:
        prefer = load_function(job.inputs.function, job.inputs.function_sha256)
        worth = {"a": 0.0, "b": 1.0, "tie": 0.5}

        def by_judge(base: Answers, tuned: Answers) -> tuple[list[float], list[float]]:
            def each(who: list[PromptIds], a: list[str], b: list[str]) -> list[float]:
                return [
                    worth[ask(prefer, job.inputs.function, p.text, x, y)]
                    for p, x, y in zip(who, a, b, strict=True)
                ]

            return each(asked, base.texts, tuned.texts), each(prompts, base.greedy, tuned.greedy)

        return by_judge
    if not job.inputs.reward:
        job.note("no reward model or judge will score these answers: blind votes compare them")
        return None

    def by_reward(base: Answers, tuned: Answers) -> tuple[list[float], list[float]]:
        return _against(base.scores, tuned.scores), _against(base.greedy_scores, tuned.greedy_scores)

    return by_reward


def _against(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    differences = [t - b for b, t in zip(base, tuned, strict=True)]
    return [0.5 if abs(d) < TIE_MARGIN else float(d > 0) for d in differences]


def _difference(policy: Sequence[float], exported: Sequence[float]) -> dict[str, Any]:
    """Win rate of the exported file less that of the policy it was made from, answer by answer, with its interval."""
    center, interval = mean_with_interval([e - p for p, e in zip(policy, exported, strict=True)])
    return {"win_rate": center, "interval": interval, "answers": len(policy)}


def _compare(tuned: Answers, outcomes: tuple[list[float], list[float]] | None) -> dict[str, Any]:
    """What is measured of one policy, and how often it won; the same keys, None, where nobody decided that."""
    measured: dict[str, Any] = {"tuned": _summary(tuned), "kl": tuned.kl}
    if outcomes is None:
        uncounted = dict.fromkeys(WORTH)
        return {**measured, **uncounted, **dict.fromkeys(RATES), "greedy": uncounted}
    sampled, greedy = outcomes
    counted = _count(sampled)
    rate, (low, high) = mean_with_interval(sampled)
    decided = counted["wins"] + counted["losses"]
    return {
        **measured,
        **counted,
        "win_rate": rate,
        "win_rate_interval": [max(low, 0.0), min(high, 1.0)],
        "decided_win_rate": counted["wins"] / decided if decided else None,
        "decided_share": decided / len(sampled),
        "greedy": _count(greedy),
    }


def _count(outcomes: Sequence[float]) -> dict[str, int]:
    return {name: sum(o == worth for o in outcomes) for name, worth in WORTH.items()}


def _summary(side: Answers) -> dict[str, Any]:
    return {
        "score": mean(side.scores) if side.scores else None,
        "tokens": mean(side.tokens),
        "eos_rate": mean(side.ended),
        "eos_rate_interval": list(wilson(sum(side.ended), len(side.ended))),
        "distinct_2": distinct_2(side.texts),
    }


def _write_samples(job: Job, prompts: list[PromptIds], asked: list[PromptIds], sides: list[Answers]) -> None:
    """``samples.jsonl``: a prompt and every side's answers, one line each."""
    lines: list[str] = []
    for i, prompt in enumerate(asked):
        lines.append(
            json.dumps({"prompt": prompt.text, "mode": "sampled", **{s.name: s.texts[i] for s in sides}})
        )
    for i, prompt in enumerate(prompts):
        lines.append(
            json.dumps({"prompt": prompt.text, "mode": "greedy", **{s.name: s.greedy[i] for s in sides}})
        )
    write_whole(job.run.folder / "samples.jsonl", ("\n".join(lines) + "\n").encode())
