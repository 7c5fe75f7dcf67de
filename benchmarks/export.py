"""Our GGUF files beside those of llama.cpp's own converter: the same, and at what cost?

    .venv/bin/python benchmarks/export.py [SDIST] [--pairs 5]

SDIST is an unpacked source distribution of llama-cpp-python, which has the converter in vendor/llama.cpp; without one
it is fetched into build/.

First a tiny random model of each architecture, in F16: tensors compared bit by bit, settings key by key. A difference
that is not named here with its reason fails. Both files are read by llama.cpp too, in fp32 arithmetic, and compared
with transformers: mean KL over 300 tokens, which tells who is right where they differ.

Then a random model of 494 M parameters (the shape of Qwen2.5-0.5B, bf16 safetensors): a process each, by turns, from
the model's folder to a file that is on the disk. The clock and the peak of memory start behind the imports. Ours is
without its proof, theirs has none. Beside it, what a base costs that was trained in 4 bits: each matrix is quantized
and unpacked by bitsandbytes on the way. ``plain write`` is what the disk takes for that many bytes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from record import Record
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_lite.engine.export.verify import kl_per_position, log_softmax
from rlhf_lite.engine.llama import LlamaModel
from rlhf_lite.engine.offload import Place
from rlhf_lite.errors import RlhfLiteError

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
sys.path.insert(0, str(ROOT / "tests" / "engine"))

from architecture_models import KINDS, model_folder  # noqa: E402
from export_models import make_tokenizer  # noqa: E402

LARGE = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 4,
    "architectures": ["Qwen2ForCausalLM"],
}  # fmt: skip
_SAID = "ours says what llama.cpp assumes anyway"
SETTINGS = {
    "general.size_label": "a label for people, which ours leaves out",
    "rlhf_lite.tokenizer.nfc": "for our own chat", "tokenizer.ggml.eos_token_ids": "for Ollama",
    "tokenizer.ggml.add_bos_token": _SAID, "tokenizer.ggml.add_eos_token": _SAID,
    "tokenizer.ggml.add_space_prefix": _SAID, "attention.key_length": _SAID, "attention.value_length": _SAID,
    "rope.dimension_count": _SAID, "rope.freq_base": _SAID, "vocab_size": _SAID,
    "rope.scaling.yarn_beta_fast": _SAID, "rope.scaling.yarn_beta_slow": _SAID,
    "rope.scaling.attn_factor": "what llama.cpp reads; theirs writes another key or none",
    "rope.scaling.yarn_attn_factor": "llama.cpp puts its own value over it",
    "rope.scaling.type": "theirs writes no scaling for Gemma 2; for Phi-3 it changes nothing",
    "rope.scaling.factor": "theirs writes no scaling for Gemma 2",
    "rope.scaling.original_context_length": "read with scaled positions only",
    "attention.sliding_window": "llama.cpp computes no window for Phi-3",
    "attention.sliding_window_pattern": "theirs relies on the pattern of the published models",
    "context_length": "ours is cut to the window, or to LongRoPE's first length: beyond, llama.cpp computes otherwise",
}  # fmt: skip
TENSORS = {
    "output.weight": "llama.cpp loads no OLMo 2 without one, tied or not",
    "token_embd.weight": "theirs cuts Gemma 3's rows that have no token, as its path by sentencepiece expects",
}


def converter(sdist: Path | None) -> Path:
    """The folder of llama.cpp in the source distribution, which is fetched where none is named."""
    name = f"llama_cpp_python-{version('llama_cpp_python')}"
    if sdist is None:
        build, sdist = ROOT / "build", ROOT / "build" / name
        if not sdist.is_dir():
            wanted = [
                "--no-deps",
                "--no-binary",
                ":all:",
                name.replace("_", "-").replace("python-", "python=="),
            ]
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", build, *wanted], check=True)
            with tarfile.open(build / f"{name}.tar.gz") as packed:
                packed.extractall(build, filter="data")
    return sdist / "vendor" / "llama.cpp"


def cost(script: str, *arguments: Any) -> dict[str, float]:
    """What one side says of itself. Raises SystemExit with its last words."""
    command = [sys.executable, PEERS / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compared(ours: Path, theirs: Path) -> dict[str, Any]:
    """Tensors and settings of two files. ``unexplained`` has what differs without a reason above."""
    a, b = GGUFReader(ours), GGUFReader(theirs)
    tensors, others = ({t.name: t for t in file.tensors} for file in (a, b))
    equal = [n for n in tensors.keys() & others.keys() if _same(tensors[n], others[n])]
    differing = sorted((tensors.keys() | others.keys()) - set(equal))
    mine, yours = (
        {k: f.contents() for k, f in x.fields.items() if not k.startswith("GGUF.")} for x in (a, b)
    )
    settings = sorted(k for k in mine.keys() | yours.keys() if mine.get(k) != yours.get(k))
    architecture = mine["general.architecture"]
    unexplained = [n for n in differing if n not in TENSORS]
    unexplained += [k for k in settings if k.removeprefix(f"{architecture}.") not in SETTINGS]
    return {
        "tensors": len(tensors), "bit_identical": len(equal), "settings": len(mine.keys() & yours.keys()),
        "otherwise": ", ".join([*differing, *(k for k in settings if k in mine.keys() & yours.keys())]),
        "ours_alone": sum(k not in yours for k in settings), "theirs_alone": sum(k not in mine for k in settings),
        "unexplained": ", ".join(unexplained),
    }  # fmt: skip


def _same(a: Any, b: Any) -> bool:
    return a.tensor_type == b.tensor_type and np.array_equal(a.data.view(np.uint8), b.data.view(np.uint8))


def mean_kl(folder: Path, file: Path) -> float | str:
    """Of a file against transformers; or that llama.cpp cannot load it."""
    ids = np.random.default_rng(0).integers(8, 600, 300).tolist()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    try:
        with LlamaModel(file, kv="f32", n_threads=1, place=lambda _: Place(512)) as loaded:
            found = log_softmax(loaded.logits(ids).astype(np.float64))
    except RlhfLiteError:
        return "does not load"
    return float(kl_per_position(torch.log_softmax(logits.double(), -1).numpy(), found).mean())


def one_architecture(llama_cpp: Path, kind: str) -> dict[str, Any]:
    folder = model_folder(kind)
    with tempfile.TemporaryDirectory() as made:
        ours, theirs = Path(made) / "ours.gguf", Path(made) / "theirs.gguf"
        cost("gguf_of_ours.py", folder, ours, "f16", "16bit")
        found: dict[str, Any] = {"our_kl": mean_kl(folder, ours)}
        try:
            cost("gguf_upstream.py", llama_cpp, folder, theirs, "f16", "qwen2")
        except SystemExit as refused:
            return {**found, "their_kl": f"refused: {str(refused).partition('Error: ')[2]}"}
        return {**found, "their_kl": mean_kl(folder, theirs), **compared(ours, theirs)}


def large_model(folder: Path) -> None:
    config = AutoConfig.for_model("qwen2", **LARGE)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    random = {n: torch.empty(s, dtype=torch.bfloat16).normal_(std=0.02) for n, s in shapes.items()}
    save_file(random, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    make_tokenizer("qwen2").save_pretrained(folder)


def plain_write(folder: Path, size: int) -> float:
    """Seconds to get so many bytes onto the disk."""
    began = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        for _ in range(size // 2**24):
            file.write(bytes(2**24))
        file.flush()
        os.fsync(file.fileno())
    (folder / "plain").unlink()
    return time.perf_counter() - began


def time_it(record: Record, llama_cpp: Path, pairs: int) -> None:
    runs: list[dict[str, Any]] = [{"export": "weights as they are", "run": i} for i in range(pairs)]
    missing = record.missing([*runs, {"export": "base trained in 4 bits", "run": 0}])
    with tempfile.TemporaryDirectory() as made:
        folder, target = Path(made) / "model", Path(made) / "out.gguf"
        if missing:
            folder.mkdir()
            large_model(folder)
        for key in missing:
            if key in runs:
                sides = {
                    "ours": ("gguf_of_ours.py", folder, target, "f16", "16bit"),
                    "theirs": ("gguf_upstream.py", llama_cpp, folder, target, "f16", "qwen2"),
                }
            else:
                sides = {"ours": ("gguf_of_ours.py", folder, target, "f16", "nf4")}
            measured = {side: cost(*call) for side, call in sides.items()}
            print(record.add(key, **measured, plain_write=plain_write(Path(made), target.stat().st_size)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sdist", nargs="?", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    record, llama_cpp = Record("export"), converter(given.sdist)
    for key in record.missing([{"architecture": kind} for kind in KINDS]):
        print(record.add(key, **one_architecture(llama_cpp, key["architecture"])), flush=True)
    time_it(record, llama_cpp, given.pairs)
    unexplained = [r["key"]["architecture"] for r in record.rows if r.get("unexplained")]
    if unexplained:
        print(f"files differ without a known reason: {', '.join(unexplained)}")
    return bool(unexplained)


if __name__ == "__main__":
    sys.exit(main())
