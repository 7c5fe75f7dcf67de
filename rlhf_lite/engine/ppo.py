"""PPO on one base: rollout → scores, reference log-probs, states → GAE → clipped updates. Read it top to bottom.

Decided here (Schulman et al. 2017; Ziegler et al. 2019; Stiennon et al. 2020; Huang et al. 2024, "The N+
implementation details"):

- The KL penalty is k1 inside the reward; its coefficient adapts towards ``kl_target``; ``kl_budget`` is a hard stop.
- A function's score lands on the last real token; an answer that does not end by itself loses ``no_eos_penalty``.
- Scores are scaled by a running standard deviation and clipped; advantages alone are centred.
- The reward model's score is a sum over tokens, and each is rewarded for its own part.
- The critic is a regression on states that are computed anyway (:mod:`rlhf_lite.engine.critic`).
- An epoch ends early when the update has moved the policy by ``max_approx_kl``.
- What is kept is not the last checkpoint: of those within the budget whose score on held-out prompts is the best but
  for its standard error, the one with the least KL. Step 0, the untrained policy, takes part: training that made
  nothing better says so.
- Every step's randomness comes from (seed, step, process): a resume goes on as if nothing had happened.
- Several processes take the same steps together (:mod:`rlhf_lite.engine.processes`); the main one does the talking.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from rlhf_lite.engine import checkpoint, objectives, outcome, update
from rlhf_lite.engine.base import SharedBase, peak_memory
from rlhf_lite.engine.job import Job, StopRequested
from rlhf_lite.engine.learner import Candidate, Learner
from rlhf_lite.engine.processes import team_of
from rlhf_lite.engine.prompts import PromptIds, draw, load_prompts
from rlhf_lite.engine.rollout import Rollout, make_rollout
from rlhf_lite.engine.sampling import seeded
from rlhf_lite.engine.scoring import RewardFunction, RewardModel, Scorer
from rlhf_lite.engine.shares import whole
from rlhf_lite.engine.validation import validate
from rlhf_lite.errors import Diverged, OutOfMemory
from rlhf_lite.events import Changed, Metrics, Resumed, Saved
from rlhf_lite.settings import Ppo

MAX_ROLLBACKS = 2
LIVE = ("kl_coef", "learning_rate")  # what can be changed between two steps
MICRO_BATCH = "micro_batch"  # as an event names it, and a resume reads it


def run(job: Job) -> None:
    """The stage ``ppo``, in each of its processes."""
    with team_of(job) as team:
        base = SharedBase.of(job)
        prompts = load_prompts(job, base, "train")
        held_out = load_prompts(job, base, "valid", or_else=prompts)
        start, reward = _path(job.inputs.start), _path(job.inputs.reward)
        learner = Learner(base, job.preset.ppo, job.preset.lora, start=start, team=team)
        if reward:
            score: Scorer = RewardModel(base, reward)
        else:
            texts = {tuple(p.ids): p.text for p in [*prompts, *held_out]}
            score = RewardFunction(base, job.inputs.function, job.inputs.function_sha256, texts)
        learner.check_trainable()
        training = Training(job, learner, score, prompts, held_out)
        stopped = training.run()
        peak = max(team.each(lambda: peak_memory(base.device)))
        if team.main:
            outcome.publish(job, learner.counters, stopped, peak)


class Training:
    """One PPO run."""

    def __init__(
        self, job: Job, learner: Learner, score: Scorer, prompts: list[PromptIds], held_out: list[PromptIds]
    ):
        self.job, self.learner, self.score = job, learner, score
        self.prompts, self.held_out = prompts, held_out
        self.team = learner.team
        ppo, count = job.preset.ppo, self.team.count
        share = min(max(1, ppo.minibatch // count), -(-ppo.episodes // count))  # so that no process is idle
        self.settings: Ppo = msgspec.structs.replace(ppo, micro_batch=min(ppo.micro_batch, share))
        self.sampling_batch = job.preset.sampling.batch_size
        self.kl = 0.0  # of the last step's rollout

    @property
    def step(self) -> int:
        return self.learner.counters.step

    def run(self) -> str:
        """All steps; returns why it ended: ``finished`` or ``kl_budget``."""
        self._begin()
        while self.step < self.settings.steps:
            self._live_changes()
            try:
                within = self.one_step()
            except FloatingPointError as error:
                self._roll_back(str(error))
                continue
            self.job.progress("PPO steps", self.step, self.settings.steps)
            if not within:
                self.job.warn(
                    f"stopped at step {self.step}: KL {self.kl:.1f} exceeds the budget, {self.settings.kl_budget:g}",
                    "the best checkpoint within the budget is kept; a larger kl_coef leashes tighter",
                )
                return "kl_budget"
            if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps:
                self.validate_and_save()
        return "finished"

    def one_step(self) -> bool:
        """One rollout and its updates; False where the KL is over the budget.

        Raises:
            FloatingPointError: a loss or gradient is not finite.
        """
        began, counters = time.monotonic(), self.learner.counters
        rollout, settings = self._rollout(), self.settings
        if self.step == 0:
            rollout.check_start()
            self.job.progress("PPO steps", 0, settings.steps)
        kl = float(rollout.kl.sum(-1).mean())
        shuffler = random.Random(f"{self.job.inputs.seed}/{self.step}")
        means = update.update(self.learner, settings, rollout, shuffler)
        self._remember(rollout.rows)
        counters.step += 1
        self._report(rollout, kl, means, time.monotonic() - began)
        counters.kl_coef = objectives.adapted_kl_coef(counters.kl_coef, kl, settings.kl_target)
        self.kl = kl
        return kl <= settings.kl_budget

    def validate_and_save(self) -> None:
        """Measure on held-out prompts, remember what is good within the budget, write a checkpoint."""
        counters, sampling = self.learner.counters, self.job.preset.sampling
        measured = validate(
            self.learner, self.score, self.held_out, self.settings, seed=self.job.inputs.seed,
            max_new_tokens=sampling.max_new_tokens, sampling_batch=self.sampling_batch,
            on_batch=self._beginning("answers to held-out prompts", self.settings.validation_samples),
        )  # fmt: skip
        for sample in measured.samples:
            self.job.emit(sample)
        self._tell(measured.metrics(self.step))
        if self.step == 0:
            counters.score_first = measured.score
        if measured.kl <= self.settings.kl_budget:
            counters.consider(Candidate(self.step, measured.score, measured.error, measured.kl))
        self._save()

    def _save(self) -> None:
        if not self.team.main:
            return
        keep = {candidate.step for candidate in self.learner.counters.candidates}
        path = checkpoint.save(self.job.run, self.step, self.learner.save, keep=keep)
        self.job.emit(Saved(step=self.step, path=str(path)))

    def _load(self) -> None:
        """Go on from the newest checkpoint."""
        self.learner.load(self.job.run.checkpoints()[-1])
        self.job.emit(Resumed(from_step=self.step))

    def _begin(self) -> None:
        """Start at step 0, or go on from the newest checkpoint of an earlier life."""
        if self.job.run.checkpoints():
            self._load()
            # An earlier life has found out what fits here.
            for change in self.team.from_main(lambda: self.job.run.status().changes):
                if change.name == MICRO_BATCH:
                    self._use_micro_batch(int(change.value))
        else:
            self.validate_and_save()
        if self.step:
            self.job.progress("PPO steps", self.step, self.settings.steps)

    def _beginning(self, what: str, total: int) -> Callable[[int], None]:
        """Says how far a part of the way to the first step is; from then on the steps say how far all is."""
        if self.step:
            return lambda _: None
        self.job.progress(what, 0, total)
        return lambda done: self.job.progress(what, done, total)

    def _live_changes(self) -> None:
        """Act on what the user asked for between two steps."""
        changes, stop = self.team.from_main(lambda: (self.job.controls(), self.job.stop_requested))
        for change in changes:
            name, value = change.get("name"), change.get("value")
            if not isinstance(value, int | float) or not 0 < value < math.inf or name not in LIVE:
                self.job.warn(
                    f"cannot set {name} to {value}", f"{' and '.join(LIVE)} can be a number above 0"
                )
                continue
            if name == "kl_coef":
                self.learner.counters.kl_coef = float(value)
            else:
                self.learner.set_learning_rate(float(value))
            self._changed(name, value, "asked for")
        if stop:
            self._save()
            raise StopRequested(self.step)

    def _rollout(self) -> Rollout:
        """The step's answers and all that is known of them; with half the micro-batch where memory does not do.

        Raises:
            OutOfMemory: a single row does not fit.
        """
        while True:
            try:
                return whole(self.team, self._make_rollout, self.learner.base.device)
            except torch.OutOfMemoryError as error:
                told = str(error).splitlines()[0]
            # Behind the except: the error holds the frames, and they what filled the memory.
            rows = self.settings.micro_batch
            if rows == 1:
                raise OutOfMemory(
                    "out of memory with a single answer at a time", why=told,
                    hint="shorter answers (--set sampling.max_new_tokens=128) or a smaller model",
                )  # fmt: skip
            if self.learner.base.device.type == "cuda":
                torch.cuda.empty_cache()
            self._remember(rows // 2)

    def _make_rollout(self) -> Rollout:
        """This process's share."""
        number, seed, base = self.settings.episodes, self.job.inputs.seed, self.learner.base
        drawn = draw([p.ids for p in self.prompts], number, self.step * number, seed)
        own, stream = self.team.share(drawn), self.step * self.team.count + self.team.rank + 1
        return make_rollout(
            base, own,
            reference=self.learner.reference, score=self.score, trust_sampled=self.step > 0,
            no_eos_penalty=self.settings.no_eos_penalty, max_new_tokens=self.job.preset.sampling.max_new_tokens,
            sampling_batch=self.sampling_batch, micro_batch=self.settings.micro_batch,
            generator=seeded(base.device, seed, stream),
            on_batch=self._beginning("answers to learn from", len(own)),
        )  # fmt: skip

    def _report(self, rollout: Rollout, kl: float, means: dict[str, float], seconds: float) -> None:
        counters, measured = self.learner.counters, rollout.metrics()
        values = {
            **measured,
            "objective/kl": kl,
            "objective/kl_coef": counters.kl_coef,
            "objective/rlhf_reward": measured["objective/scores"] / counters.scores.std
            - counters.kl_coef * kl,
            "lr": counters.learning_rate,
            "episode": float(self.step * len(rollout.prompts)),
            "seconds": seconds,
            **means,
        }
        if not all(math.isfinite(v) for v in values.values()):
            raise FloatingPointError("a metric is not finite")
        self._tell(Metrics(step=self.step, values=values))

    def _tell(self, metrics: Metrics) -> None:
        self.job.emit(metrics)
        self.team.log(metrics.values, metrics.step)

    def _remember(self, rows: int) -> None:
        """From now on at most so many rows at once, where it were more."""
        if rows < self.settings.micro_batch:
            self._use_micro_batch(rows)
            self._changed(MICRO_BATCH, rows, "out of memory")

    def _use_micro_batch(self, size: int) -> None:
        """Sampling shrinks by as much: its batch holds the cache of every answer."""
        shrunk = max(1, self.sampling_batch * size // self.settings.micro_batch)
        self.settings, self.sampling_batch = msgspec.structs.replace(self.settings, micro_batch=size), shrunk

    def _roll_back(self, why: str) -> None:
        """Back to the last checkpoint with half the learning rate, at most twice.

        Raises:
            Diverged: it happened a third time.
        """
        rollbacks = self.learner.counters.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            hint = "try a tenth of the learning rate: --set ppo.learning_rate=…"
            raise Diverged("training diverged", why=why, hint=hint)
        self._load()
        self.learner.counters.rollbacks = rollbacks
        rate = self.learner.counters.learning_rate * 0.5**rollbacks
        self.learner.set_learning_rate(rate)
        self._changed("learning_rate", rate, why)

    def _changed(self, name: str, value: float, why: str) -> None:
        self.job.emit(Changed(step=self.step, name=name, value=float(value), why=why))


def _path(folder: str) -> Path | None:
    return Path(folder) if folder else None
