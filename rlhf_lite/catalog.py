"""Models known to work, quantizations that can be exported, and the memory plan: arithmetic over a config.

The plan is for a GPU with 16-bit compute and counts what is alive at a stage's worst moment as if all of it were
alive at once: a little more than the true peak, never less by design. It is computed, not measured; batch sizes and
lengths are the preset's, every prompt and answer as long as it may be.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from rlhf_lite import paths
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.settings import Preset, Quantization, Sampling, override

TOKENS_AT_ONCE = 8192  # of supervised training, in one forward and backward pass; larger batches accumulate
QUANTS: tuple[str, ...] = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")

GIB = 2**30
# NF4 with double quantization (Dettmers et al. 2023): 4 bits, a 1-byte scale every 64 weights, and a 4-byte scale
# for every 256 of those: 0.516 bytes a weight.
_WEIGHT_BYTES: dict[Quantization, float] = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "16bit": 2, "32bit": 4}
_CUDA_CONTEXT = 3 * GIB // 4
_TRAINED, _FROZEN = (
    16,
    4,
)  # bytes a LoRA parameter in fp32: weight, gradient and Adam's two moments, or the weight
# TRL's fused output layer holds one tile of the logits at a time, this many tokens by this much of the vocabulary.
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32768
# What each stage's need is brought down by; PPO's sampling is also `sampling.batch_size`.
_KNOBS = {"generate": "sampling.batch_size", "sft": "sft.batch_size", "reward": "reward.batch_size",
          "ppo": "ppo.micro_batch", "dpo": "dpo.batch_size"}  # fmt: skip


class Model(msgspec.Struct, frozen=True):
    """A decoder-only transformer by the numbers of its ``config.json``."""

    id: str
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    context: int

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one block."""
        d, f, q, kv = (
            self.hidden_size,
            self.intermediate_size,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        )
        return [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]

    @property
    def linear_parameters(self) -> int:
        """Weights of the blocks' linear layers: what is quantized."""
        return self.layers * sum(i * o for i, o in self.linears)

    @property
    def other_parameters(self) -> int:
        """Embeddings, output layer, norms and biases: what stays in the compute dtype."""
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.architecture == "qwen2" else 0
        head_norms = 2 * self.head_dim if self.architecture == "qwen3" else 0
        return embeddings + self.hidden_size + self.layers * (2 * self.hidden_size + biases + head_norms)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters

    def lora_parameters(self, rank: int) -> int:
        """Parameters of one LoRA on every linear layer."""
        return self.layers * rank * sum(i + o for i, o in self.linears)


# vocabulary, hidden, intermediate, layers, heads, key-value heads, head width, tied, context: from each config.json
MODELS: tuple[Model, ...] = (
    Model("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 49152, 576, 1536, 30, 9, 3, 64, True, 8192),
    Model("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 49152, 960, 2560, 32, 15, 5, 64, True, 8192),
    Model("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 151936, 896, 4864, 24, 14, 2, 64, True, 32768),
    Model("Qwen/Qwen3-0.6B", "qwen3", 151936, 1024, 3072, 28, 16, 8, 128, True, 40960),
    Model("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama", 32000, 2048, 5632, 22, 32, 4, 64, False, 2048),
    Model("meta-llama/Llama-3.2-1B-Instruct", "llama", 128256, 2048, 8192, 16, 32, 8, 64, True, 131072),
    Model("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 151936, 1536, 8960, 28, 12, 2, 128, True, 32768),
    Model("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 49152, 2048, 8192, 24, 32, 32, 64, True, 8192),
    Model("Qwen/Qwen3-1.7B", "qwen3", 151936, 2048, 6144, 28, 16, 8, 128, True, 40960),
    Model("Qwen/Qwen2.5-3B-Instruct", "qwen2", 151936, 2048, 11008, 36, 16, 2, 128, True, 32768),
    Model("meta-llama/Llama-3.2-3B-Instruct", "llama", 128256, 3072, 8192, 28, 24, 8, 128, True, 131072),
    Model("Qwen/Qwen3-4B", "qwen3", 151936, 2560, 9728, 36, 32, 8, 128, True, 40960),
    Model("Qwen/Qwen2.5-7B-Instruct", "qwen2", 152064, 3584, 18944, 28, 28, 4, 128, False, 32768),
)


class _Config(msgspec.Struct, frozen=True):
    """The keys of a ``config.json`` that the plan needs, by Hugging Face's names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False


def find_model(name: str) -> Model:
    """A model by ``"demo"``, by its folder, or by its hub id or the last part of one.

    Raises:
        UserError: no such folder, and no id that is known here; the nearest one is named.
        DataError: as :func:`read_model`.
    """
    folder = paths.demo_model() if name == "demo" else Path(name).expanduser()
    if folder.is_dir():
        return read_model(folder, name)
    for model in MODELS:
        if name.lower() in (model.id.lower(), model.id.split("/")[1].lower()):
            return model
    near = difflib.get_close_matches(
        name, [i for m in MODELS for i in (m.id, m.id.split("/")[1])], 1, cutoff=0.5
    )
    raise UserError(
        f"no model {name}", why="it is no folder, and its size is not among those known here",
        hint=f"did you mean {near[0]}?" if near else "see `rlhf-lite models`, or name a downloaded model's folder",
    )  # fmt: skip


def read_model(folder: Path, name: str) -> Model:
    """A model by its folder's ``config.json``.

    Raises:
        DataError: the file is missing, damaged, or of another kind of model.
    """
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    except OSError as error:
        raise DataError(
            f"{folder} holds no model", why="its config.json cannot be read", hint="name another folder"
        ) from error
    except msgspec.DecodeError as error:
        raise DataError(
            f"{folder / 'config.json'} cannot be planned with", why=str(error),
            hint="it wants a decoder-only model in Hugging Face format",
        ) from error  # fmt: skip
    heads = config.num_attention_heads
    return Model(
        id=name, architecture=config.model_type, vocab_size=config.vocab_size, hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size, layers=config.num_hidden_layers, heads=heads,
        kv_heads=config.num_key_value_heads or heads, head_dim=config.head_dim or config.hidden_size // heads,
        tied=config.tie_word_embeddings, context=config.max_position_embeddings,
    )  # fmt: skip


class StagePlan(msgspec.Struct, frozen=True):
    """One stage's need in bytes; ``bytes`` is the sum of ``items``."""

    bytes: int
    items: dict[str, int]


class Plan(msgspec.Struct, frozen=True):
    """What each stage needs of a GPU's memory. ``fits`` is None where no size was given; ``hint`` is the nearest
    change that fits."""

    model: str
    stages: dict[str, StagePlan]
    fits: bool | None
    hint: str = ""


def plan(model: Model, preset: Preset, quantization: Quantization, vram: int | None = None) -> Plan:
    """The memory plan of a model under a preset, held against ``vram`` bytes."""
    stages = _stages(model, preset, quantization)
    if vram is None:
        return Plan(model.id, stages, None)
    fits = not _too_large(model, preset, quantization, vram)
    return Plan(model.id, stages, fits, "" if fits else _nearest_that_fits(model, preset, quantization, vram))


def _stages(model: Model, preset: Preset, quantization: Quantization) -> dict[str, StagePlan]:
    compute = 4 if quantization == "32bit" else 2
    lora = model.lora_parameters(preset.lora.rank)
    base = {
        "linear_weights": round(model.linear_parameters * _WEIGHT_BYTES[quantization]),
        "embeddings": model.other_parameters * compute,
        "cuda_context": _CUDA_CONTEXT,
    }
    sampling = _sampling(model, preset.sampling, compute)
    sft = _tokens_at_once(preset.sft.batch_size, min(preset.sft.max_tokens, model.context))
    reward = _tokens_at_once(preset.reward.batch_size, 2 * min(preset.reward.max_tokens, model.context))
    dpo = _tokens_at_once(preset.dpo.batch_size, 2 * min(preset.dpo.max_tokens, model.context))
    items = {
        "generate": {"adapters": lora * _FROZEN, **sampling},
        "sft": {
            "adapters": lora * _TRAINED,
            "activations": _activations(model, sft, compute),
            "logits": _tile(model, sft),
        },
        "reward": {"adapters": lora * _TRAINED, "activations": _activations(model, reward, compute)},
        "ppo": {
            "adapters": lora * (2 * _TRAINED + 2 * _FROZEN),  # policy and value; reward and reference
            **_ppo(model, preset, compute),
            **sampling,
        },
        "dpo": {
            "adapters": lora * (_TRAINED + _FROZEN),  # policy; reference
            "activations": _activations(model, dpo, compute),
            "logits": _tile(model, dpo),
        },
        # Merging goes matrix by matrix in fp32; the parity check runs one prompt at a time.
        "export": {"adapters": lora * _FROZEN, "merging": 3 * max(i * o for i, o in model.linears) * 4},
    }
    return {k: StagePlan(sum({**base, **v}.values()), {**base, **v}) for k, v in items.items()}


def _sampling(model: Model, sampling: Sampling, compute: int) -> dict[str, int]:
    rows, length = (
        sampling.batch_size,
        min(sampling.max_prompt_tokens + sampling.max_new_tokens, model.context),
    )
    token = 2 * model.layers * model.kv_heads * model.head_dim * compute  # keys and values
    last = model.vocab_size * (compute + 12)  # the last token's logits, log-probs and probabilities
    return {"kv_cache": rows * length * token, "sampling": rows * last}


def _ppo(model: Model, preset: Preset, compute: int) -> dict[str, int]:
    rows, sampling = preset.ppo.micro_batch, preset.sampling
    length = min(sampling.max_prompt_tokens + sampling.max_new_tokens, model.context)
    completion = min(sampling.max_new_tokens, model.context)
    logits = (
        rows * completion * model.vocab_size * 8
    )  # of completions only: fp32 log-probs and their gradient
    return {"activations": _activations(model, rows * length, compute), "logits": logits}


def _tile(model: Model, tokens: int) -> int:
    return min(tokens, _TILE_TOKENS) * min(model.vocab_size, _TILE_VOCABULARY) * 4


def _tokens_at_once(batch_size: int, longest: int) -> int:
    """Tokens of the largest divisor of the batch size whose rows stay within :data:`TOKENS_AT_ONCE`."""
    fitting = (n for n in range(batch_size, 0, -1) if batch_size % n == 0 and n * longest <= TOKENS_AT_ONCE)
    return next(fitting, 1) * longest


def _activations(model: Model, tokens: int, compute: int) -> int:
    """Training with checkpointing: every block's input, and one block in full while it is recomputed.

    In a block each linear layer's fp32 adapter keeps an fp32 copy of its input (six of the hidden size, one of the
    intermediate size); beside them about ten tensors of the hidden size and four of the intermediate size.
    """
    d, f = model.hidden_size, model.intermediate_size
    block = compute * (10 * d + 4 * f) + 4 * (6 * d + f)
    return tokens * (model.layers * d * compute + block)


def _too_large(model: Model, preset: Preset, quantization: Quantization, vram: int) -> dict[str, StagePlan]:
    return {k: s for k, s in _stages(model, preset, quantization).items() if s.bytes > vram}


def _nearest_that_fits(model: Model, preset: Preset, quantization: Quantization, vram: int) -> str:
    """4-bit weights first, then batches halved where it hurts, then the largest known model that fits as it is."""
    changes: dict[str, int] = {}
    advice = [] if quantization == "nf4" else ['quantization = "nf4" in project.toml']
    changed = preset
    while too_large := _too_large(model, changed, "nf4", vram):
        stage, need = next(iter(too_large.items()))
        knob = _KNOBS.get(stage, "")
        if stage == "ppo" and need.items["kv_cache"] > need.items["activations"] + need.items["logits"]:
            knob = _KNOBS["generate"]
        section, _, key = knob.partition(".")
        size = getattr(getattr(changed, section), key) // 2 if knob else 0
        if size == 0:
            return _smaller_model(preset, vram)
        changes[knob] = size
        changed = override(changed, [f"{knob}={size}"])
    return " and ".join([*advice, *(f"--set {knob}={size}" for knob, size in changes.items())])


def _smaller_model(preset: Preset, vram: int) -> str:
    fitting = [m for m in MODELS if not _too_large(m, preset, "nf4", vram)]
    best = max(fitting, key=lambda m: m.parameters, default=None)
    return (
        f"a smaller model: {best.id}" if best else "no known model fits; the demo model does (--model demo)"
    )
