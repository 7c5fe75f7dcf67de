"""How fast is a step of PPO, and how much memory does it take, against TRL 1.12.0, the last one that had PPO?

    python3.11 -m venv build/trl && build/trl/bin/pip install -r benchmarks/peers/trl-1.12.0.txt
    .venv/bin/python benchmarks/ppo_speed.py build/trl [--pairs 5] [--cases built-in/nf4 …] [--out-folder FOLDER]

The built-in model, whose answers end by themselves, and a random Llama of 25 M parameters with 32,000 tokens, whose
answers never end; 4-bit and 32-bit weights. A step is 32 answers of at most 96 tokens, score, KL to the reference and
values, and two epochs of one update each over them in micro-batches of 4, with LoRA of rank 16 on every linear layer.
Both sides do it on the CPU in one process each, with the environment of a job, on the very same prompts in the same
order. A warm-up step, then ours and TRL's in turn; a side's clock runs through the whole of its own loop, events and
logging included. Kept is the median of the pairs' ratios, with least and most.

Memory is the peak of a side's process from its start to its last step, less what a bare interpreter with torch holds in
the same environment. It includes the libraries that a side imports.

What one side does that the other does not:

- Ours loads one base; policy, reward model and reference are views of it. TRL loads three: policy (with its adapter off
  it is the reference), value and reward model. Its reward model has no adapter here, ours has.
- TRL's value model, with a LoRA like the policy's, reads every answer and is trained in every update. Ours is no model:
  values are a regression, solved once a step, on the states that the reward model's pass leaves behind.
- Ours merges weights and adapter, 4-bit ones unpacked, once for each view of a rollout and each minibatch; TRL unpacks
  them for every token it samples and in every pass.
- Answers that have ended leave our batch; TRL's ``generate`` goes on padding them until the last one ends.
- Ours keeps the log-probabilities of the sampling, once the code of the updates has found the same of the longest
  answers; TRL takes them from the logits of the sampling, which it keeps, all of them.
- Ours computes logits of an answer's tokens alone and lays texts of like length together, each prompt with its answer
  right behind it; TRL computes logits of the prompt's tokens too, keeps all hidden states, and pads every prompt and
  every answer to the longest of the batch.
- Ours clips gradients; TRL does not.
- Ours writes what a screen shows to the run's event log; TRL prints its metrics. Neither saves or validates here.

TRL is given what a user can give it: prompts padded to the longest of the batch, no checkpointing (which would cost it
time), generation with its cache and in one batch, no trackers, no sample generations. bitsandbytes' own faster path for
4-bit layers on CPUs with AVX512-BF16 is off on both sides, because training after it goes on with wrong gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, Record
from rollout import random_model

from rlhf_lite import jobs, paths
from rlhf_lite.engine import heads
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.formats import prompt_of, read_prompts
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import Inputs, Lora, Ppo, Preset, Quantization, Sampling

PEERS = Path(__file__).parent / "peers"
MODELS = ("built-in", "random 25 M")
WEIGHTS: tuple[Quantization, ...] = ("nf4", "32bit")
CASES = {
    f"{model}/{weights}": {"model": model, "weights": weights} for model in MODELS for weights in WEIGHTS
}
FOR_EVER = 10**9
PRESET = Preset(
    lora=Lora(rank=16, alpha=32),
    sampling=Sampling(max_new_tokens=96, batch_size=32),
    ppo=Ppo(
        steps=FOR_EVER, episodes=32, minibatch=32, micro_batch=4, epochs=2, learning_rate=1e-5,
        evaluate_every=FOR_EVER, validation_samples=1,
        max_approx_kl=1e9, kl_budget=1e9,  # no epoch and no run ends early
    ),
)  # fmt: skip


class Side:
    """A process that does a step when it is told to; ``bare`` is what Python with torch holds there, in bytes: of a
    GPU's memory nothing.
    """

    def __init__(self, python: Path, script: str, told: Path, environment: dict[str, str]) -> None:
        on_gpu = environment.get("CUDA_VISIBLE_DEVICES") != ""
        self.bare = (
            0 if on_gpu else int(subprocess.check_output([python, PEERS / "stepping.py"], env=environment))
        )
        self._log = told.parent / f"{told.name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, PEERS / script, told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment,
            )  # fmt: skip

    def step(self, prompts: list[list[int]] | None = None) -> dict[str, Any]:
        """Seconds, tokens sampled and the process's peak in bytes; of ours, the prompts too.

        Raises:
            SystemExit: the process has ended; with what it said last.
        """
        assert self._process.stdin, "a pipe was asked for"
        assert self._process.stdout, "a pipe was asked for"
        self._process.stdin.write(json.dumps(prompts) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(self._log.read_text()[-3000:])
        return json.loads(line)

    def end(self) -> None:
        self._process.communicate()


def prepared(
    folder: Path, model: Path, weights: Quantization, preset: Preset = PRESET, asked: Sequence[str] = (),
    checkpointing: bool = False,
) -> tuple[Path, Path]:  # fmt: skip
    """A project with a reward model that has learned nothing: the run of ours, and TRL's work as a file."""
    project = Project.create(folder / "project", ProjectFile("speed", str(model), quantization=weights))
    with project.labels() as store:
        store.add_prompts(
            [prompt_of(line) for line in asked] or read_prompts(paths.examples() / "prompts.txt")[0]
        )
    inputs = Inputs(
        stage="ppo", project=str(project.root), model=str(model), quantization=weights, seed=0,
        reward=str(folder / "reward"), checkpointing=checkpointing,
    )  # fmt: skip
    save_reward_model(inputs)
    ppo = preset.ppo
    work = {
        "model": str(model), "weights": weights, "folder": str(folder / "trl"), "rank": preset.lora.rank,
        "alpha": preset.lora.alpha, "episodes": ppo.episodes, "micro_batch": ppo.micro_batch, "epochs": ppo.epochs,
        "learning_rate": ppo.learning_rate, "max_new_tokens": preset.sampling.max_new_tokens,
        "checkpointing": checkpointing,
    }  # fmt: skip
    (folder / "work.json").write_text(json.dumps(work))
    return project.new_run(inputs, preset).folder, folder / "work.json"


def save_reward_model(inputs: Inputs) -> None:
    base = SharedBase.load(inputs)
    base.add("reward", PRESET.lora, trainable=False)
    head = heads.new_head(base.width, base.device)
    with torch.no_grad():
        for parameter in [*base.parameters("reward"), head.weight]:
            parameter.normal_(std=0.02)
    base.save_adapter("reward", Path(inputs.reward), {heads.SCORE_KEY: head.weight})
    heads.save_scale(Path(inputs.reward), heads.RewardScale())


def measured(
    peer: Path | None, run: Path, work: Path, pairs: int, preset: Preset = PRESET, *, gpu: bool = False, room: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Medians of one case; without ``peer``'s environment, of ours alone. ``room``: GiB of a GPU that ours may take."""
    environment = jobs.child_environment() | {
        "RLHF_LITE_STATE": str(run / "state"), "HF_HUB_OFFLINE": "1", "BENCH_ROOM": str(room),
        "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
        **({} if gpu else {"CUDA_VISIBLE_DEVICES": ""}),
    }  # fmt: skip
    ours = Side(Path(sys.executable), "speed_of_ours.py", run, environment)
    prompts = ours.step()["prompts"]
    theirs = peer and Side(peer / "bin" / "python", "speed_in_trl.py", work, environment)
    if theirs:
        theirs.step(prompts)
    steps: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(pairs):
        steps["ours"].append(ours.step())
        if theirs:
            steps["trl"].append(theirs.step(steps["ours"][-1]["prompts"]))
    told: dict[str, Any] = {"pairs": pairs, "threads": torch.get_num_threads()}
    for name, side in (("ours", ours), ("trl", theirs)):
        if side:
            told[name] = figures(side, steps[name], preset.ppo.episodes)
            side.end()
    if theirs:
        ratios = [b["seconds"] / a["seconds"] for a, b in zip(steps["ours"], steps["trl"], strict=True)]
        told |= {
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "memory_ratio": told["ours"]["peak_bytes"] / told["trl"]["peak_bytes"],
            "peer": steps["trl"][-1]["versions"],
        }  # fmt: skip
    return told


def figures(side: Side, steps: list[dict[str, Any]], episodes: int) -> dict[str, Any]:
    """What one side's steps say."""
    return {
        "episodes_per_second": episodes / statistics.median(step["seconds"] for step in steps),
        "tokens_per_answer": statistics.mean(step["tokens"] for step in steps) / episodes,
        "peak_bytes": steps[-1]["peak"] - side.bare, "bare_bytes": side.bare,
    }  # fmt: skip


def table_row(row: dict[str, Any]) -> str:
    key, ours, trl = row["key"], row["ours"], row["trl"]
    cells = (
        key["model"], key["weights"], f"{ours['episodes_per_second']:.2f}", f"{trl['episodes_per_second']:.2f}",
        f"{row['ratio']:.2f}", f"{row['least']:.2f}", f"{row['most']:.2f}",
        f"{ours['tokens_per_answer']:.0f}", f"{trl['tokens_per_answer']:.0f}",
        f"{ours['peak_bytes'] / 2**20:.0f}", f"{trl['peak_bytes'] / 2**20:.0f}", f"{row['memory_ratio']:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environment", type=Path, help="where TRL 1.12.0 is installed")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out-folder", type=Path, default=RESULTS)
    given = parser.parse_args()
    record = Record("ppo_against_trl_speed", given.out_folder)
    for key in record.missing(CASES[name] for name in given.cases):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = paths.demo_model() if key["model"] == "built-in" else random_model(folder / "model")
            run, work = prepared(folder, model, key["weights"])
            record.add(key, **measured(given.environment, run, work, given.pairs))
    print(
        "| model | weights | episodes/s, ours | TRL | ratio | least | most | tokens an answer, ours | TRL "
        "| peak MiB, ours | TRL | ratio |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in record.rows:
        print(table_row(row))


if __name__ == "__main__":
    main()
