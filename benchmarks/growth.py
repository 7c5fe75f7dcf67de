"""How does the cost of a PPO step grow, and does a step cost more the longer a run goes on?

    python benchmarks/growth.py

One thing at a time is varied around 16 answers of 64 tokens of a random Llama of 3 M parameters with 4,096 tokens, in
32 bit: the batch, the answers' length, the parameters, the vocabulary. A random model's answers hardly ever end, so
every answer has its full length. A step is rollout (sampling, score, log-probabilities, reference) and update (the
critic's regression and one epoch for the policy): the stage ``ppo`` as any job runs it, on the CPU, timed from inside,
the median of three after one to warm up. Each point is a process of its own, and its memory the process's peak above
that of a bare interpreter with torch. The exponent is the slope of the least-squares line of log seconds over log x.

Then thirty steps of one run, all of the same work: the slope over the last 25 of a step's seconds and of the memory
held after it, with 95 % intervals.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lite import jobs, paths, shapes
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, Lora, Ppo, Preset, Sampling

PEERS = Path(__file__).parent / "peers"
STEPS, LONG_RUN, SETTLING = 4, 30, 5
FOR_EVER = 10**9
WIDTH_AND_LAYERS = ((256, 4), (384, 6), (512, 10), (768, 11))  # 3, 10, 26 and 62 M parameters
T_95 = 2.07  # Student's t, two-sided, for the 23 degrees of freedom of a line through 25 steps


@dataclass(frozen=True)
class Point:
    """What one process measures."""

    batch: int = 16
    length: int = 64
    width: int = 256
    layers: int = 4
    vocabulary: int = 4096

    def model(self, folder: Path) -> shapes.Model:
        """Save a random Llama with the built-in model's tokenizer, of whose ids it knows more."""
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=2 * self.width,
            num_hidden_layers=self.layers, num_attention_heads=self.width // 64,
            num_key_value_heads=self.width // 128, head_dim=64, tie_word_embeddings=True,
            max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(paths.demo_model()).save_pretrained(folder)
        return shapes.read(folder, "random")

    @property
    def preset(self) -> Preset:
        return Preset(
            lora=Lora(rank=16, alpha=32),
            sampling=Sampling(max_new_tokens=self.length, batch_size=self.batch),
            ppo=Ppo(
                steps=FOR_EVER, episodes=self.batch, minibatch=16, micro_batch=8, epochs=1,
                evaluate_every=FOR_EVER, validation_samples=1, max_approx_kl=1e9, kl_budget=1e9,
            ),
        )  # fmt: skip


SWEEPS = {
    "batch": [Point(batch=n) for n in (8, 16, 32, 64)],
    "length": [Point(length=n) for n in (32, 64, 128, 256)],
    "parameters": [Point(width=d, layers=n) for d, n in WIDTH_AND_LAYERS],
    "vocabulary": [Point(vocabulary=n) for n in (4096, 8192, 32768, 131072)],
}


def measured(point: Point, steps: int) -> dict[str, Any]:
    """Each step's seconds of rollout and update and bytes after it, the process's peak, the model's parameters."""
    from ppo_speed import save_reward_model

    from rlhf_lite.formats import read_prompts

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {
            **jobs.child_environment(), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            "RLHF_LITE_STATE": str(folder / "state"),
        }  # fmt: skip
        model = point.model(folder / "model")
        project = Project.create(
            folder / "project", ProjectFile("growth", str(folder / "model"), quantization="32bit")
        )
        with project.labels() as store:
            store.add_prompts(read_prompts(paths.examples() / "prompts.txt")[0])
        inputs = Inputs(
            stage="ppo", project=str(project.root), model=str(folder / "model"), quantization="32bit", seed=0,
            reward=str(folder / "reward"),
        )  # fmt: skip
        save_reward_model(inputs)
        run = project.new_run(inputs, point.preset)
        bare = int(subprocess.check_output([sys.executable, PEERS / "stepping.py"], env=environment))
        done = subprocess.run(
            [sys.executable, __file__, str(run.folder), str(steps)], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found = json.loads(done.stdout.splitlines()[-1])
        return {**found, "peak": found["peak"] - bare, "parameters": model.parameters}


def inside(run: Run, steps: int) -> None:
    """The stage, timed; in a process of its own. What it found is the last line it prints."""
    sys.path.insert(0, str(PEERS))
    from stepping import peak

    from rlhf_lite.engine import ppo
    from rlhf_lite.engine.__main__ import run_job
    from rlhf_lite.engine.rollout import Rollout

    rollouts: list[float] = []
    updates: list[float] = []
    held: list[int] = []

    class Timed(ppo.Training):
        def one_step(self) -> bool:
            began = time.perf_counter()
            within = super().one_step()
            updates.append(time.perf_counter() - began - rollouts[-1])
            held.append(memory_held())
            if len(updates) == steps:
                print(json.dumps({"rollout": rollouts, "update": updates, "held": held, "peak": peak()}))
                sys.stdout.flush()
                os._exit(0)
            return within

        def _rollout(self) -> Rollout:
            began = time.perf_counter()
            rollout = super()._rollout()
            rollouts.append(time.perf_counter() - began)
            return rollout

    ppo.Training = Timed  # the stage makes its own
    sys.exit(run_job("ppo", run))


def memory_held() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Line:
    """The least-squares line: its slope, the standard error of that, and the share of the variance it explains."""

    slope: float
    error: float
    r2: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        mx, my = statistics.mean(x), statistics.mean(y)
        sxx = sum((a - mx) ** 2 for a in x)
        syy = sum((b - my) ** 2 for b in y)
        slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sxx
        left = sum((b - my - slope * (a - mx)) ** 2 for a, b in zip(x, y, strict=True))
        error = math.sqrt(left / (len(x) - 2) / sxx)
        return cls(slope, error, 1 - left / syy if syy else 1.0)


def main() -> None:
    import page
    from record import Record

    kept = Record("growth")
    for varied, points in SWEEPS.items():
        for place, point in enumerate(points, 1):
            key = {"varied": varied, "point": place}
            if not kept.has(**key):
                found = measured(point, STEPS)
                x = found["parameters"] if varied == "parameters" else getattr(point, varied)
                seconds = {part: statistics.median(found[part][1:]) for part in ("rollout", "update")}
                kept.add(key, x=x, seconds=seconds, **{"peak MiB": found["peak"] / 2**20})
                print(key, x, seconds, flush=True)
        if not kept.has(**{"exponent over": varied}):
            rows = [r for r in kept.rows if r["key"].get("varied") == varied]
            kept.add({"exponent over": varied}, **exponents(rows))
    if not kept.has(**{"over the steps of a run": "seconds a step"}):
        found = measured(Point(), LONG_RUN)
        seconds = [a + b for a, b in zip(found["rollout"], found["update"], strict=True)]
        kept.add({"over the steps of a run": "seconds a step"}, **drift(seconds))
        kept.add({"over the steps of a run": "MiB held"}, **drift([b / 2**20 for b in found["held"]]))
    print(page.tables(kept.rows))


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    x = [math.log(row["x"]) for row in rows]
    told: dict[str, Any] = {}
    for part in ("rollout", "update"):
        line = Line.through(x, [math.log(row["seconds"][part]) for row in rows])
        told |= {part: line.slope, f"{part} r2": line.r2}
    return told


def drift(values: Sequence[float]) -> dict[str, Any]:
    """The mean and the slope a step with its interval, once the first steps are over."""
    settled = values[SETTLING:]
    line = Line.through(range(len(settled)), settled)
    half = T_95 * line.error
    return {
        "mean": statistics.mean(settled), "slope a step": line.slope,
        "95 % interval": [line.slope - half, line.slope + half],
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 3:
        inside(Run(Path(sys.argv[1])), int(sys.argv[2]))
    else:
        main()
