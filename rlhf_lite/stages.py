"""What each stage starts from: the inputs of a run, and what is refused before a process is spawned for it.

The commands and the screens both start runs here, so that both refuse the same things in the same words.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lite import accelerated, base_model, catalog, exports, hub, jobs, memory
from rlhf_lite.errors import DeviceBusy, NotEnoughLabels, UserError
from rlhf_lite.functions import hash_file, split_function
from rlhf_lite.paths import shown
from rlhf_lite.project import POLICY_STAGES, Project, Run
from rlhf_lite.settings import Inputs, Preset, load_preset, override

TRAINED = ("sft", "reward", "dpo", "ppo")
DEFAULT_QUANT = "q8_0"
OF_PPO = {"--reward": "asks a reward function", "--processes": "runs in several processes",
          "--report-to": "reports to a tracker"}  # fmt: skip
ONE_SIDED = 20  # that many decided labels all on one side: by chance once in 2^19, the sides being randomised


@dataclass(frozen=True)
class NamedFunction:
    """A judge or reward function that the person at the keyboard named just now; the file's content is pinned."""

    spec: str
    sha256: str

    @classmethod
    def find(cls, spec: str) -> NamedFunction:
        """From ``FILE.py:FUNC``. Raises SettingsError where that is no such thing."""
        path, name = split_function(spec)
        return cls(f"{path.resolve()}:{name}", hash_file(path))


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start."""

    run: Run
    trusted_function: str = ""
    warnings: tuple[str, ...] = ()


def command(verb: str, project: Project, *rest: str) -> str:
    """A command line to try next, quoted for the shell."""
    return shlex.join(["rlhf-lite", verb, shown(project.root), *rest])


def preset_of(project: Project, assignments: list[str]) -> Preset:
    """The project's preset with ``--set section.key=value`` applied."""
    return override(load_preset(project.file.preset), assignments)


def generate(project: Project, preset: Preset, pairs: int | None) -> Prepared:
    """Sample pairs from the current policy."""
    _require_prompts(project)
    policy = project.latest_policy()
    policies = (str(policy.adapter),) if policy else ()
    return _new_run(project, preset, "generate", policies=policies, limit=pairs or preset.generate.pairs)


def label(project: Project, preset: Preset, judge: NamedFunction, limit: int | None) -> Prepared:
    """Have a function label what nobody has labelled."""
    require_unlabelled(project)
    return _new_run(project, preset, "label", function=judge, limit=limit or 0)


def train(
    project: Project, preset: Preset, stage: str, reward: NamedFunction | None, processes: int = 1, report_to: str = ""
) -> Prepared:  # fmt: skip
    """Train one of :data:`TRAINED`.

    Raises:
        NotEnoughLabels: too few decided labels, or all on one side.
        UserError: no such stage, or something it stands on is missing, or this machine has not what was asked for.
    """
    _require_known("stage", stage, TRAINED)
    given = {"--reward": reward, "--processes": processes > 1, "--report-to": report_to}
    for option, wanted in given.items():
        if wanted and stage != "ppo":
            raise UserError(
                f"{option} has no meaning for {stage}", why=f"only ppo {OF_PPO[option]}", hint="leave it out"
            )
    if stage == "sft":
        _require_demonstrations(project)
    if stage in ("reward", "dpo"):
        _require_labels(project, preset)
    if stage in ("sft", "reward"):
        return _new_run(project, preset, stage)
    warm = project.latest("sft")
    start = str(warm.adapter) if warm else ""
    if stage == "dpo":
        return _new_run(project, preset, stage, start=start)
    _require_prompts(project)
    accelerated.check(processes, report_to, preset)
    model = None if reward else _reward_model(project)
    return _new_run(
        project, preset, stage, start=start, function=reward, reward=str(model.adapter) if model else "",
        warnings=_doubts(model, preset) if model else (), processes=processes, report_to=report_to,
    )  # fmt: skip


def evaluate(
    project: Project, preset: Preset, names: list[str], judge: NamedFunction | None, gguf: Path | None
) -> Prepared:
    """Base against the named policy runs (the newest where none is named), or against a GGUF file.

    Where there is neither a judge nor a reward model the answers get no score: blind votes compare them.
    """
    _require_prompts(project)
    if gguf:
        base_model.check_gguf(gguf)
    policies = [_policy(project, name) for name in names] or ([] if gguf else [_policy(project, "")])
    model = project.latest("reward")
    return _new_run(
        project, preset, "eval", policies=tuple(str(p.adapter) for p in policies),
        reward=str(model.adapter) if model else "", function=judge, gguf=str(gguf.resolve()) if gguf else "",
    )  # fmt: skip


def export(
    project: Project, preset: Preset, name: str, quants: Sequence[str], output: Path | None, format: str = "gguf"
) -> Prepared:  # fmt: skip
    """Merge one policy (the newest where none is named) into GGUF files of these types, or export another format."""
    wanted = tuple(dict.fromkeys(quant.lower() for quant in quants))
    for quant in wanted:
        _require_known("quantization", quant, catalog.QUANTS)
    _require_known("format", format, exports.FORMATS)
    if wanted and format != "gguf":
        raise UserError(
            f"--quant has no meaning for {format}", why="only GGUF is quantized", hint="leave it out"
        )
    folder = (output or project.root / "exports").resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", why="the export makes several files", hint="name a folder")
    policy = _policy(project, name)
    return _new_run(
        project, preset, "export", policies=(str(policy.adapter),), output=str(folder), format=format,
        quants=(wanted or (DEFAULT_QUANT,)) if format == "gguf" else (),
    )  # fmt: skip


def download(project: Project) -> Prepared:
    """Fetch the project's model from the hub. A model that is there already is found, and nothing is fetched.

    Raises:
        UserError: the model is a folder that is gone.
    """
    model = project.file.model
    if not hub.on_disk(model) and not base_model.is_hub_id(model):
        raise UserError(
            f"the model's folder {model} is gone", why="it is no hub id, so nothing can be downloaded",
            hint="put it back, or name another in project.toml",
        )  # fmt: skip
    return _new_run(project, load_preset(project.file.preset), "download")


def resume(project: Project, stage: str, function: NamedFunction | None) -> Prepared:
    """The newest unfinished run of a stage, to go on in its own folder with its frozen settings.

    Raises:
        UserError: there is none, or it uses a function that was not named again, or that has changed.
        DeviceBusy: it is running now.
    """
    _require_known("stage", stage, TRAINED)
    unfinished = [r for r in project.runs() if r.stage == stage and r.status().ended != "finished"]
    if not unfinished:
        raise UserError(
            f"no unfinished {stage} run to go on with", hint=f"start one: {command('train', project, stage)}"
        )
    run = unfinished[-1]
    if jobs.alive(run):
        raise DeviceBusy(f"{run.name} is running now", hint=f"watch it: {command('status', project)}")
    frozen = run.settings()
    inputs = frozen.inputs
    if inputs.function and not function:
        raise UserError(
            f"{run.name} uses a reward file, which runs only when named again", why=inputs.function,
            hint=f"add --reward {shlex.quote(inputs.function)}",
        )  # fmt: skip
    if function and (function.spec, function.sha256) != (inputs.function, inputs.function_sha256):
        raise UserError(
            f"{run.name} was started with another reward file, or that file has changed since",
            why=inputs.function or "none",
            hint=f"start a new run: {command('train', project, stage)}",
        )  # fmt: skip
    accelerated.check(inputs.processes, inputs.report_to, frozen.preset)
    jobs.require_free_device()
    return Prepared(run, inputs.function)


def require_unlabelled(project: Project) -> None:
    """Raise UserError where no pair waits for a label."""
    with project.labels() as store:
        waiting, counts = store.unlabelled(1), store.counts()
    if not waiting:
        done = "every pair is labelled" if counts.pairs else "there are no pairs yet"
        raise UserError("nothing to label", why=done, hint=f"make pairs: {command('generate', project)}")


def _new_run(
    project: Project, preset: Preset, stage: str, *, function: NamedFunction | None = None,
    warnings: tuple[str, ...] = (), **more: Any,
) -> Prepared:  # fmt: skip
    file = project.file
    if stage not in jobs.WITHOUT_DEVICE:
        jobs.require_free_device()
    start = memory.start(stage, hub.shape(file.model), preset, file.quantization)
    inputs = Inputs(
        stage=stage, project=str(project.root), model=base_model.location(file.model), quantization=file.quantization,
        seed=file.seed, trust_remote_code=file.trust_remote_code, function=function.spec if function else "",
        function_sha256=function.sha256 if function else "", checkpointing=start.checkpointing, **more,
    )  # fmt: skip
    return Prepared(project.new_run(inputs, preset), inputs.function, (*warnings, *start.warnings))


def _require_known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"no {what} named {name}", hint=hint)


def _require_prompts(project: Project) -> None:
    with project.labels() as store:
        known = store.counts().prompts
    if not known:
        raise UserError(
            "the project has no prompts yet", hint=f"add some: {command('prompts', project, 'add', 'FILE')}"
        )


def _require_demonstrations(project: Project) -> None:
    with project.labels() as store:
        found = bool(store.demonstrations() or store.preferences())
    if not found:
        raise NotEnoughLabels(
            "nothing to imitate yet", why="SFT learns from chosen answers or given demonstrations",
            hint=f"{command('label', project)}, or {command('import', project, 'FILE')}",
        )  # fmt: skip


def _require_labels(project: Project, preset: Preset) -> None:
    with project.labels() as store:
        counts = store.counts()
    decided, wanted = counts.a + counts.b, preset.reward.min_pairs
    if decided < wanted:
        undecided = counts.tie + counts.both_bad + counts.skipped
        raise NotEnoughLabels(
            f"{decided} decided labels, and training wants {wanted}",
            why=f"{undecided} undecided ones teach nothing" if undecided else "fewer would teach noise",
            hint=f"{command('label', project)}, or {command('import', project, 'FILE')}",
        )  # fmt: skip
    if decided >= ONE_SIDED and 0 in (counts.a, counts.b):
        side = "A" if counts.a else "B"
        raise NotEnoughLabels(
            f"all {decided} labels say {side}",
            why="sides are shuffled, so whoever labelled did not look at the answers",
            hint=f"label again by reading: {command('generate', project)}, then {command('label', project)}",
        )  # fmt: skip


def _reward_model(project: Project) -> Run:
    found = project.latest("reward")
    if not found:
        raise UserError(
            "no reward model yet", why="PPO needs something that scores answers",
            hint=f"{command('train', project, 'reward')}, or add --reward FILE.py:FUNC",
        )  # fmt: skip
    return found


def _doubts(model: Run, preset: Preset) -> tuple[str, ...]:
    """Warnings: the reward model may be guessing (its accuracy's interval holds one half), or was trained in haste."""
    found: list[str] = []
    match model.status().result.get("accuracy_interval"):
        case [float(low), float(high)] if low <= 0.5 <= high:
            found.append(
                f"{model.name} may be guessing: held-out accuracy {low:.0%} to {high:.0%}; label more first"
            )
        case _:
            pass
    made, wanted = model.settings().preset.reward, preset.reward
    if made.epochs < wanted.epochs:
        haste = f"{made.epochs} epochs where the preset has {wanted.epochs}"
        found.append(f"{model.name} was fitted quickly, in {haste}; train it again")
    return tuple(found)


def _policy(project: Project, name: str) -> Run:
    run = project.run(name) if name else project.latest_policy()
    if run is None:
        raise UserError(
            "nothing is trained yet", why="there is no finished sft, dpo or ppo run",
            hint=f"{command('train', project, 'reward')}, then {command('train', project, 'ppo')}; or, without a "
            f"reward model, {command('train', project, 'dpo')}",
        )  # fmt: skip
    if run.stage not in POLICY_STAGES or not run.adapter.is_dir():
        raise UserError(f"{run.name} is no trained policy", hint=f"see {command('runs', project)}")
    return run
