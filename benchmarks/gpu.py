"""On a GPU, with real shapes and random weights: does the plan hold, and how fast is PPO?

    python3.11 -m venv build/trl && build/trl/bin/pip install -r benchmarks/peers/trl-1.12.0.txt
    .venv/bin/python benchmarks/gpu.py [--peer build/trl] [--models NAME…] [--pairs 5] [--sizes PROMPT ANSWER EPISODES]

Each model has a published one's shape (``rlhf_lite/catalog.py``), weights drawn from N(0, 0.02²) in bf16, loaded as
NF4, and the built-in model's tokenizer, of whose ids it knows more; so an answer hardly ever ends. Prompts fill their
256 tokens, answers their 128; 32 episodes a step in micro-batches of 4, LoRA of rank 16 on every linear layer.

- *Memory*: the peak of the steps as torch counts it, beside the plan's, less what the plan adds for CUDA's own context.
  Of a size that :data:`MUST_FIT` names, torch may allocate no more than that, context included: a step that does not
  fit fails. Gradient checkpointing is what the plan chose for that much memory.
- *Episodes a second* beside TRL 1.12.0's by turns, as in ``ppo_speed.py``, which says what the sides do differently;
  without ``--peer``, ours alone.
- *Decoding*: seconds a token for each of so many answers, by the difference of a long and a short sampling, over the
  time that reading the weights once takes at the GPU's own rate of copying memory.

Without a GPU the same is done on the CPU, which is how the script is tried: ``--models demo --sizes 48 16 8``. There
the memory is the process's peak above a bare interpreter with torch, and weights are read as the fp32 that they are
sampled with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import page
import ppo_speed
import torch
from msgspec import structs
from record import Record
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlhf_lite import catalog, memory, needs, paths, planning, shapes
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase, pick_device
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.settings import Inputs, Lora, Preset

MODELS = (
    "Qwen2.5-0.5B-Instruct", "Llama-3.2-1B-Instruct", "Qwen2.5-1.5B-Instruct", "Qwen2.5-3B-Instruct",
    "Qwen2.5-7B-Instruct",
)  # fmt: skip
MUST_FIT = {"Qwen2.5-1.5B-Instruct": 6, "Qwen2.5-3B-Instruct": 8, "Qwen2.5-7B-Instruct": 12}  # GiB
SHARD = 2**30  # parameters' bytes in a file
BATCHES = (1, 8, 32)
SHORT, LONG = 16, 80
REPEATS = 3


def random_weights(model: shapes.Model, folder: Path) -> Path:
    """Save a model of this shape, a file at a time, so that no more than one is in memory."""
    config = AutoConfig.for_model(
        model.architecture, vocab_size=model.vocab_size, hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size, num_hidden_layers=model.layers, num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads, head_dim=model.head_dim, tie_word_embeddings=model.tied,
        max_position_embeddings=model.context,
    )  # fmt: skip
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    names = {n: t for n, t in empty.state_dict().items() if not (model.tied and n == "lm_head.weight")}
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}
    folder.mkdir()
    for i, (name, tensor) in enumerate(names.items()):
        shard[name] = torch.empty_like(tensor, device="cpu").normal_(std=0.02)
        if name.endswith("norm.weight"):
            shard[name].fill_(1)
        if sum(t.nbytes for t in shard.values()) > SHARD or i == len(names) - 1:
            file = f"model-{i}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            where |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    empty.config.architectures = [type(empty).__name__]
    empty.config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(paths.demo_model()).save_pretrained(folder)
    return folder


def preset(prompt: int, answer: int, episodes: int) -> Preset:
    plain = ppo_speed.PRESET
    return structs.replace(
        plain,
        sampling=structs.replace(
            plain.sampling, max_prompt_tokens=prompt, max_new_tokens=answer, batch_size=episodes
        ),
        ppo=structs.replace(plain.ppo, episodes=episodes, minibatch=episodes),
    )


def questions(folder: Path, tokens: int, number: int = 64) -> list[str]:
    """Prompts that fill their tokens, but for a word."""
    tokenizer = text.load_tokenizer(str(folder), trust_remote_code=False, plain_template=False)
    words = (paths.examples() / "prompts.txt").read_text().split()
    dice, found = random.Random(0), list[str]()
    while len(found) < number:
        said: list[str] = []
        while len(text.prompt_ids(tokenizer, [{"role": "user", "content": " ".join(said)}])) <= tokens:
            said.append(dice.choice(words))
        found.append(" ".join(said[:-1]))
    return found


def decoded(folder: Path, prompt: int) -> dict[int, float]:
    """Seconds a token for each of so many answers, and the bytes a second of a copy under 0."""
    base = SharedBase.load(Inputs(stage="ppo", project="", model=str(folder), quantization="nf4", seed=0))
    base.add("policy", Lora(rank=16, alpha=32), trainable=True)
    base.stops = frozenset()
    dice = torch.Generator().manual_seed(0)
    asked = torch.randint(100, 1000, (max(BATCHES), prompt), generator=dice).tolist()

    def seconds(rows: int, tokens: int) -> float:
        taken: list[float] = []
        for i in range(1 + REPEATS):
            began = time.perf_counter()
            with base.view("policy"):
                sample(base, asked[:rows], max_new_tokens=tokens, batch_size=rows,
                       generator=seeded(base.device, i, 0))  # fmt: skip
            _wait(base.device)
            taken.append(time.perf_counter() - began)
        return median(taken[1:])

    found = {rows: (seconds(rows, LONG) - seconds(rows, SHORT)) / (LONG - SHORT) for rows in BATCHES}
    return found | {0: copying(base.device)}


def copying(device: torch.device) -> float:
    """Bytes a second, read and written, the best of several."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target, taken = torch.empty_like(source), list[float]()
    for _ in range(6):
        _wait(device)
        began = time.perf_counter()
        target.copy_(source)
        _wait(device)
        taken.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def weights_read(model: shapes.Model, device: planning.Device) -> float:
    """Bytes of weights that one token needs: NF4 blocks, or their fp32 product with the adapter on a CPU, and the
    output layer.
    """
    if device == "cpu":
        return needs.FP32 * (model.linear_parameters + model.vocab_size * model.hidden_size)
    return needs.linear_weights(model, "nf4", 2) + 2 * model.vocab_size * model.hidden_size


def planned(model: shapes.Model, wanted: Preset, device: planning.Device) -> tuple[int, bool]:
    """Bytes of PPO by the plan for the memory that it must fit into, CUDA's context left out; and checkpointing."""
    room = MUST_FIT.get(model.id.split("/")[-1], 0) * memory.GIB
    plan = planning.plan(model, wanted, "nf4", room or memory.read().free, device, stage="ppo").stages["ppo"]
    torch_counts = {what: size for what, size in plan.items.items() if "context" not in what}
    return sum(torch_counts.values()), bool(plan.checkpointing)


def steps(folder: Path, model: shapes.Model, wanted: Preset, given: argparse.Namespace) -> dict[str, Any]:
    """PPO's episodes a second and its peak, beside the plan's."""
    device: planning.Device = "gpu" if torch.cuda.is_available() else "cpu"
    least, checkpointing = planned(model, wanted, device)
    asked = questions(folder / "model", wanted.sampling.max_prompt_tokens)
    run, work = ppo_speed.prepared(folder, folder / "model", "nf4", wanted, asked, checkpointing)
    room = MUST_FIT.get(model.id.split("/")[-1], 0) if device == "gpu" else 0
    told = ppo_speed.measured(given.peer, run, work, given.pairs, wanted, gpu=device == "gpu", room=room)
    peak = told["ours"]["peak_bytes"]
    return {
        **told, "planned_bytes": least, "peak over plan": peak / least, "checkpointing": checkpointing,
        "GiB allowed": room or None,
    }  # fmt: skip


def decoded_beside_limit(folder: Path, model: shapes.Model, prompt: int) -> dict[str, Any]:
    """In a process of its own, which gives back what it held."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(decoded, folder, prompt).result()
    copied = found.pop(0)
    limit = weights_read(model, "gpu" if torch.cuda.is_available() else "cpu") / copied
    return {
        "GB/s": copied / 1e9,
        "ms by bytes": 1e3 * limit,
        **{f"batch {rows}": {"ms": 1e3 * s, "times the limit": s / limit} for rows, s in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="where TRL 1.12.0 is installed")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--sizes", nargs=3, type=int, default=[256, 128, 32], metavar=("PROMPT", "ANSWER", "EPISODES")
    )
    given = parser.parse_args()
    if pick_device().type == "cpu" and given.models == list(MODELS):
        print("no GPU here, nothing is measured; on a CPU it is tried with --models demo --sizes 48 16 8")
        return
    prompt, answer, episodes = given.sizes
    kept, wanted = Record("gpu"), preset(*given.sizes)
    for name in given.models:
        model = catalog.find_model(name)
        step = {"model": name, "prompt": prompt, "answer": answer, "episodes": episodes}
        decoding = {"model": name, "decoding after": prompt}
        if not kept.missing([step, decoding]):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            random_weights(model, folder / "model")
            if not kept.has(**step):
                kept.add(step, **steps(folder, model, wanted, given))
            if not kept.has(**decoding):
                kept.add(decoding, **decoded_beside_limit(folder / "model", model, prompt))
            print(name, flush=True)
    print(page.tables(kept.rows))


if __name__ == "__main__":
    main()
