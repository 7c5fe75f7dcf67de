"""What a PPO run leaves behind: its best checkpoint as its adapter, and what was found."""

from __future__ import annotations

from rlhf_lite.engine import checkpoint
from rlhf_lite.engine.job import Job
from rlhf_lite.engine.learner import Counters


def publish(job: Job, counters: Counters, stopped: str, peak_memory_bytes: int) -> None:
    """Make the best checkpoint the run's adapter and say what was found; ``stopped`` is why the run ended."""
    steps = [m.values for m in job.run.status().metrics if "seconds" in m.values]  # of all the run's lives
    last = steps[-1]
    best = counters.best
    checkpoint.publish(checkpoint.at(job.run, best.step) / "policy", job.run.adapter)
    if best.step == 0:
        job.warn(
            "no checkpoint scored better than the untrained policy",
            "look at the reward's accuracy; label more pairs",
        )
    job.result(
        {
            "steps": counters.step,
            "episodes": counters.step * job.preset.ppo.episodes,
            "best_step": best.step,
            "score_first": counters.score_first,
            "score_last": last["objective/scores"],
            "score_best": best.score,
            "kl_last": last["objective/kl"],
            "kl_best": best.kl,
            "stopped": stopped,
            "episodes_per_second": len(steps) * job.preset.ppo.episodes / sum(s["seconds"] for s in steps),
            "peak_memory_bytes": peak_memory_bytes,
        }
    )
