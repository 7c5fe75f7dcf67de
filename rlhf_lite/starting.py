"""What a project starts from: the models that can be picked, what each would need here, and making the folder.

The commands and the screens both make projects here. What a model needs is the memory plan's word for it
(:mod:`rlhf_lite.planning`), held against what is free now; left out is any model whose size nobody can tell yet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite import base_model, catalog, config, hub, memory, paths, planning, settings, shapes
from rlhf_lite.base_model import DEMO
from rlhf_lite.errors import UserError
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import Preset, Quantization
from rlhf_lite.shapes import Model

_GATED = ("meta-llama/", "google/gemma")  # their owners want a licence accepted first
_CHAT_TOKENS = 4096
_OF_A_GPU = 0.8  # of its whole memory, for a project that will outlive what else is using it now
_Q8_0 = 34 / 32  # bytes a weight: 32 of one byte and a two-byte scale


def new_project(
    folder: Path, model: str, *, preset: str = "", seed: int = 0, quantization: Quantization = "nf4",
    plain_template: bool = False, trust_remote_code: bool = False,
) -> Project:  # fmt: skip
    """Make a project folder on a model that was looked at, with a preset that can be read.

    Raises:
        UserError: no such model, one that wants what was not allowed, or a folder that cannot be a new project.
        DataError: the model's folder cannot be used.
        SettingsError: no such preset.
    """
    kept = base_model.check(model, trust_remote_code=trust_remote_code, plain_template=plain_template)
    chosen = preset or config.preset_for(kept)
    settings.load_preset(chosen)
    file = ProjectFile(
        name=folder.resolve().name, model=kept, seed=seed, quantization=quantization,
        preset=str(Path(chosen).resolve()) if chosen.endswith(".toml") else chosen,
        plain_template=plain_template, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    return Project.create(folder, file)


def free_folder(name: str = "my-project") -> Path:
    """A folder for a new project that is not there yet, in the folder for projects."""
    place, number = config.projects_folder(), 1
    while (found := place / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return found


@dataclass(frozen=True)
class Choice:
    """A model that can be picked. ``model`` is None where its size is not known; sizes in bytes."""

    id: str
    model: Model | None
    on_disk: bool

    @property
    def gated(self) -> bool:
        """Whether its owner is known to want a licence accepted before a download."""
        return self.id.startswith(_GATED)

    @property
    def download(self) -> int:
        """What is fetched: weights in 16 bits, as most models are published."""
        return 2 * self.model.parameters if self.model else 0

    @property
    def chat(self) -> int:
        """What chatting with the exported Q8_0 file takes: weights, and keys and values of 4096 tokens."""
        if not self.model:
            return 0
        m = self.model
        token = 2 * m.layers * m.kv_heads * m.head_dim * 2
        return round(m.parameters * _Q8_0) + min(_CHAT_TOKENS, m.context) * token


def choices(pasted: Iterable[str] = ()) -> list[Choice]:
    """The built-in model, those known to work, what lies in the Hugging Face cache, and what was pasted; by size."""
    named = dict.fromkeys([DEMO, *(m.id for m in catalog.MODELS), *_cached(), *pasted])
    found = [choice(name) for name in named]
    return sorted(found, key=lambda c: c.model.parameters if c.model else float("inf"))


def choice(name: str) -> Choice:
    """One model by ``"demo"``, a folder or a hub id."""
    return Choice(name, hub.shape(name), hub.on_disk(name))


def _cached() -> list[str]:
    """Hub ids in the Hugging Face cache that are whole and can be planned with."""
    from huggingface_hub import constants  # a tenth of a second: not for --help

    names = [p.name for p in Path(constants.HF_HUB_CACHE).glob("models--*--*")]
    ids = [name.removeprefix("models--").replace("--", "/", 1) for name in names]
    return [i for i in sorted(ids) if base_model.is_hub_id(i) and choice(i).on_disk and choice(i).model]


def look_up(name: str) -> Choice:
    """A hub id with its size, of which its ``config.json`` is fetched where it is not known yet.

    Raises:
        UserError: the hub cannot be reached, or does not give this model's config.
        DataError: it is another kind of model.
    """
    found = choice(name)
    if found.model or not base_model.is_hub_id(name):
        return found
    return Choice(name, _fetched(name), on_disk=False)


def sized(name: str) -> Model:
    """A model by what it is called, by a request to the hub where its size is not known yet.

    Raises:
        UserError: no such model, or the hub does not give its config; the nearest known name is told.
        DataError: it is another kind of model.
    """
    try:
        return catalog.find_model(name)
    except UserError as unknown:
        if not base_model.is_hub_id(name):
            raise
        try:
            found = look_up(name).model
        except UserError as error:
            near = f"{unknown.hint} " if unknown.hint.endswith("?") else ""
            raise UserError(error.message, why=error.why, hint=near + error.hint) from error
    assert found is not None, "a hub id that is looked up has a size"
    return found


def _fetched(name: str) -> Model:
    """By one request: the client's own way to get a file tries for half a minute where there is no network."""
    from huggingface_hub import hf_hub_url, utils
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        url = hf_hub_url(name, "config.json")
        headers: dict[str, str] = utils.build_hf_headers()  # pyright: ignore[reportUnknownMemberType]
        response = utils.get_session().get(url, headers=headers, timeout=8, follow_redirects=True)
        utils.hf_raise_for_status(response)
    except (HTTPError, OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the size of {name} is not known", why=why,
            hint="check the name and the network; for a gated model accept its licence, then: hf auth login",
        ) from error  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(response.content)
        return shapes.read(Path(folder), name)


@dataclass(frozen=True)
class Weights:
    """How a new project's base is held, and why, in a sentence for people; none where there was nothing to choose."""

    quantization: Quantization
    why: str = ""


def weights(name: str, preset: str = "") -> Weights:
    """What suits this machine, as :func:`weights_on` says; 4 bits where the model's size is not known yet."""
    model = hub.shape(name)
    return weights_on(memory.read(), model, preset_of(name, preset)) if model else Weights("nf4")


def weights_on(now: memory.Memory, model: Model, preset: Preset) -> Weights:
    """16 bits where every stage fits the GPU with them, since 4-bit weights are unpacked anew at every pass; else 4,
    as it is without a GPU and for the built-in model."""
    if now.kind == "cpu" or model.id == DEMO:
        return Weights("nf4")
    need = peak(model, preset, "16bit")[1].bytes
    takes = f"training takes {need / memory.GIB:.1f} of the GPU's {now.total / memory.GIB:.1f} GiB"
    if need <= now.total * _OF_A_GPU:
        return Weights("16bit", f"16-bit weights: {takes}, and 4-bit ones would be unpacked at every pass")
    return Weights("nf4", f"4-bit weights: in 16 bits {takes}")


def preset_of(name: str, preset: str = "") -> Preset:
    """The named preset, else the one that a new project on this model has."""
    return settings.load_preset(preset or config.preset_for(name))


def peak(
    model: Model, preset: Preset, quantization: Quantization, device: planning.Device = "gpu"
) -> tuple[str, planning.StagePlan]:
    """The stage that needs most memory, and the least that it needs."""
    stages = planning.plan(model, preset, quantization, device=device).stages
    return max(stages.items(), key=lambda item: item[1].bytes)


def recommended(
    found: Sequence[Choice], now: memory.Memory, preset: str = "", quantization: Quantization = "nf4"
) -> str:
    """The largest model that fits comfortably into a GPU; the built-in one where there is none."""
    if now.kind == "cpu":
        return DEMO
    fitting = [
        c for c in found
        if c.model and not c.gated
        and memory.fit(peak(c.model, preset_of(c.id, preset), quantization)[1].bytes, now) == "fits"
    ]  # fmt: skip
    return fitting[-1].id if fitting else DEMO


def packs() -> dict[str, Path]:
    """Files of prompts that come along, by name: what the built-in model knows about, then questions for real ones."""
    shipped = {p.stem: p for p in sorted((paths.presets() / "prompts").glob("*.txt"))}
    known = paths.examples() / "prompts.txt"
    return {"examples": known, **shipped} if known.exists() else shipped
