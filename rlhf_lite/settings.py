"""What a run is told: a preset, changed by ``--set``, frozen into the run's ``settings.toml``.

Every field is read by some stage (a test holds that) and every preset file is checked strictly: an unknown key is
refused with the file, the key and the nearest known name. Defaults are for 0.5 to 3 B models; their reasons stand
beside them.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import tomli_w

from rlhf_lite import paths
from rlhf_lite.errors import SettingsError

Count = Annotated[int, msgspec.Meta(gt=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Quantization = Literal["nf4", "16bit", "32bit"]
S = TypeVar("S", bound=msgspec.Struct)
RETIRED = {
    "preset.ppo": ("value_learning_rate", "value_warmup", "value_clip"),
    "inputs": ("quant",),
}  # in runs of earlier versions, by section


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Lora(_Section, frozen=True):
    """LoRA on every linear layer of the base; no dropout, which would break ratio = 1 in PPO."""

    rank: Count = 16
    alpha: Count = 32


class Sampling(_Section, frozen=True):
    """Temperature is 1 and nothing is truncated: any truncation makes the KL wrong, even negative."""

    max_prompt_tokens: Count = 512
    max_new_tokens: Count = 256
    batch_size: Count = 32


class Generate(_Section, frozen=True):
    """``max_similarity``: two answers whose word sequences match more than this are not worth a person's time."""

    pairs: Count = 100
    max_similarity: Share = 0.9


class Sft(_Section, frozen=True):
    learning_rate: Positive = 2e-4
    epochs: Count = 3
    batch_size: Count = 8
    max_tokens: Count = 1024


class Reward(_Section, frozen=True):
    """``centering`` pulls the mean reward to 0 (Eisenstein et al. 2312.09244); ``min_pairs`` refuses noise. Few pairs
    are gone through more than ``epochs`` times: until ``min_steps`` steps are made.
    """

    learning_rate: Positive = 1e-4
    epochs: Count = 3
    batch_size: Count = 8
    max_tokens: Count = 1024
    min_steps: Count = 100
    centering: NotNegative = 0.01
    min_pairs: Count = 20


class Dpo(_Section, frozen=True):
    """It ends where its KL exceeds ``ppo.kl_target``; ``min_steps`` as of the reward model."""

    learning_rate: Positive = 5e-5
    epochs: Count = 3
    batch_size: Count = 8
    max_tokens: Count = 1024
    min_steps: Count = 100
    beta: Positive = 0.1


class Ppo(_Section, frozen=True):
    """Names follow Schulman et al. 2017 and TRL; the KL ones are in nats a sequence.

    ``kl_coef`` weighs the k1 penalty inside the reward and adapts towards ``kl_target`` (Ziegler et al. 2019);
    ``kl_budget`` is the hard stop, and what "within budget" means everywhere. ``score_clip`` is in running
    standard deviations; ``no_eos_penalty`` in standard deviations of the reward model.
    """

    steps: Count = 100
    episodes: Count = 64
    micro_batch: Count = 8
    minibatch: Count = 32
    epochs: Count = 2
    learning_rate: Positive = 1e-5
    kl_coef: NotNegative = 0.3
    kl_target: Positive = 5.0
    kl_budget: Positive = 10.0
    clip: Positive = 0.2
    gamma: Share = 1.0
    lam: Share = 0.95
    max_approx_kl: Positive = 0.02
    score_clip: Positive = 5.0
    no_eos_penalty: NotNegative = 1.0
    evaluate_every: Count = 5
    validation_samples: Count = 64


class Eval(_Section, frozen=True):
    """``samples`` answers to each held-out prompt from each side, at temperature 1."""

    samples: Count = 4


class Inputs(_Section, frozen=True):
    """What one run starts from; paths are absolute, an empty string means none."""

    stage: str
    project: str
    model: str
    quantization: Quantization
    seed: int
    trust_remote_code: bool = False
    start: str = ""
    """Frozen adapter where the policy starts and what the reference is; empty: adapters off."""
    policies: tuple[str, ...] = ()
    """Adapters to sample, judge or export."""
    reward: str = ""
    """Folder of the reward adapter."""
    function: str = ""
    """``FILE.py:FUNC`` of a judge or a programmable reward."""
    function_sha256: str = ""
    gguf: str = ""
    quants: tuple[str, ...] = ()
    """Types of GGUF files to export."""
    format: Literal["gguf", "safetensors", "adapter"] = "gguf"
    """What an export is to be."""
    output: str = ""
    limit: int = 0
    checkpointing: bool = False
    """Layers are computed again for their gradients, which saves memory and costs a third more time; decided by the
    memory plan when the run was made, so that a resume does the same."""
    processes: Count = 1
    """PPO's, a GPU each."""
    report_to: Literal["", "tensorboard", "wandb", "trackio"] = ""
    """A tracker that PPO's metrics go to as well."""


class Preset(_Section, frozen=True):
    """All tunable sections; a preset file names only what differs."""

    about: str = ""
    lora: Lora = Lora()
    sampling: Sampling = Sampling()
    generate: Generate = Generate()
    sft: Sft = Sft()
    reward: Reward = Reward()
    dpo: Dpo = Dpo()
    ppo: Ppo = Ppo()
    eval: Eval = Eval()


class RunSettings(_Section, frozen=True):
    """The whole of what a job reads: its inputs and every tunable value."""

    inputs: Inputs
    preset: Preset


def preset_names() -> list[str]:
    """The shipped presets."""
    return sorted(p.stem for p in paths.presets().glob("*.toml"))


def load_preset(name: str) -> Preset:
    """Read a shipped preset by name or a preset file by path.

    Raises:
        SettingsError: no such preset, or a key or value in it is wrong.
    """
    path = Path(name) if name.endswith(".toml") else paths.presets() / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, preset_names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(preset_names())}"
        raise SettingsError(f"no preset named {name}", why=f"{path} does not exist", hint=hint)
    return read_toml(path, Preset)


def override(preset: Preset, assignments: list[str]) -> Preset:
    """Apply ``section.key=value`` assignments, each value in TOML's spelling.

    Raises:
        SettingsError: unknown section or key (the nearest known one is named), or a value out of range.
    """
    raw: dict[str, Any] = msgspec.to_builtins(preset)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise SettingsError(
                f"cannot read --set {assignment}",
                why="it wants section.key=value",
                hint="for example --set ppo.steps=40",
            )
        if not isinstance(raw.get(section), dict):
            sections = [k for k, v in raw.items() if isinstance(v, dict)]
            raise SettingsError(
                f"unknown section {section} in --set {assignment}", hint=_nearest(section, sections)
            )
        raw[section][key] = _toml_value(text.strip())
    return _convert(raw, Preset, "--set")


def read_toml(path: Path, kind: type[S]) -> S:
    """Read a TOML file strictly into a struct.

    Raises:
        SettingsError: not TOML, an unknown key, or a wrong value; says the file and the key.
    """
    return _convert(_read(path), kind, str(path))


def read_run(path: Path) -> RunSettings:
    """Read what a run was told, perhaps by an earlier version: settings that are no more are left out.

    Raises:
        SettingsError: as :func:`read_toml`.
    """
    raw = _read(path)
    for section, names in RETIRED.items():
        told: Any = raw
        for part in section.split("."):
            told = told.get(part) if isinstance(told, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        for name in names:
            if isinstance(told, dict):
                told.pop(name, None)  # pyright: ignore[reportUnknownMemberType]
    return _convert(raw, RunSettings, str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} is not TOML", why=str(error), hint="mend the line named above"
        ) from error
    except OSError as error:
        raise SettingsError(f"cannot read {path}", why=error.strerror or str(error)) from error


def write_toml(path: Path, value: msgspec.Struct) -> None:
    """Write a struct as TOML, whole or not at all."""
    write_whole(path, tomli_w.dumps(msgspec.to_builtins(value)).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` atomically: temporary file in the same folder, fsync, rename."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(raw: Any, kind: type[S], source: str) -> S:
    unknown = _unknown_key(raw, kind, "")
    if unknown:
        key, known = unknown
        name = key.rsplit(".", 1)[-1]
        raise SettingsError(f"unknown setting {key} in {source}", hint=_nearest(name, known))
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"wrong value in {source}", why=str(error), hint="see `rlhf-lite presets`"
        ) from error


def _unknown_key(raw: Any, kind: type[msgspec.Struct], prefix: str) -> tuple[str, list[str]] | None:
    if not isinstance(raw, dict):
        return None
    fields = {f.name: f.type for f in msgspec.structs.fields(kind)}
    for key, value in raw.items():  # pyright: ignore[reportUnknownVariableType]
        if key not in fields:
            return f"{prefix}{key}", list(fields)
        inner = fields[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            found = _unknown_key(value, inner, f"{prefix}{key}.")
            if found:
                return found
    return None


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
