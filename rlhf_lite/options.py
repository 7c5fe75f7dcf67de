"""The arguments and options of the commands, each described once, and how a command gives its answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rlhf_lite import overview, report
from rlhf_lite.catalog import QUANTS
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.exports import FORMATS
from rlhf_lite.project import Project
from rlhf_lite.report import Output


def _option(name: str, text: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(name, help=text, metavar=metavar, **more)


def _argument(metavar: str, text: str | None = None) -> Any:
    return typer.Argument(metavar=metavar, help=text)


# What a command works on
Folder = Annotated[Path, _argument("DIR", "the project's folder")]
Target = Annotated[Path, _argument("TARGET", "a project's folder, or a .gguf file")]
DemoFolder = Annotated[Path, _argument("DIR", "where to make the project")]
Stage = Annotated[str, _argument("sft|reward|ppo|dpo")]
PromptAction = Annotated[Literal["add", "list"], _argument("add|list")]
ConfigAction = Annotated[Literal["path", "show", "edit"], _argument("path|show|edit")]
PromptFiles = Annotated[list[Path] | None, _argument("FILE...", ".txt, one a line, or .jsonl")]
DataFiles = Annotated[list[Path], _argument("FILE...")]
OutFile = Annotated[Path, _argument("OUT", "a .jsonl file")]
PresetName = Annotated[str, _argument("NAME")]

# How it answers
Json = Annotated[bool, _option("--json", "one JSON object on stdout, and nothing else")]
Events = Annotated[bool, _option("--events", "the run's events on stdout, a JSON line each")]

# A project
Quantization = Literal["nf4", "16bit", "32bit"]
Model = Annotated[
    str, _option("--model", "the built-in model, a folder, or a hub's org/name", "demo|PATH|HF_ID")
]
Preset = Annotated[str, _option("--preset", "a shipped preset, or a .toml file", "NAME")]
Seed = Annotated[int, _option("--seed", "of everything random", "N")]
DemoSeed = Annotated[int | None, _option("--seed", "of everything random; 0 unless given", "N")]
Held = Annotated[
    Quantization | None, _option("--quantization", "how the base is held in memory, else what suits the GPU")
]
PlainTemplate = Annotated[bool, _option("--plain-template", "ChatML, for a model without a chat template")]
RemoteCode = Annotated[bool, _option("--trust-remote-code", "run Python that came with the model")]
Vram = Annotated[
    float | None, _option("--vram", "a GPU's memory in GiB, else what is free here", "GB", min=0)
]
Deep = Annotated[bool, _option("--deep", "also try torch, 4-bit and llama.cpp on something small")]

# A stage
Set = Annotated[list[str] | None, _option("--set", "change a setting; repeatable", "SECTION.KEY=VALUE")]
Pairs = Annotated[int | None, _option("--pairs", "how many, else the preset's", "N", min=1)]
DemoPairs = Annotated[int, _option("--pairs", "pairs to label", "N", min=1)]
Steps = Annotated[int | None, _option("--steps", "PPO steps, else the preset's", "N", min=1)]
Judge = Annotated[str, _option("--judge", 'prefer(prompt, a, b) -> "a", "b" or "tie"', "FILE.py:FUNC")]
Plain = Annotated[bool, _option("--plain", "ask line by line, as it does without a terminal")]
Limit = Annotated[int | None, _option("--limit", "stop after so many pairs", "N", min=1)]
Resume = Annotated[bool, _option("--resume", "go on with the newest unfinished run")]
Reward = Annotated[str, _option("--reward", "score(prompts, completions) -> list[float]", "FILE.py:FUNC")]
Processes = Annotated[int, _option("--processes", "PPO in so many processes, a GPU each", "N", min=1)]
ReportTo = Annotated[
    str, _option("--report-to", "PPO's metrics to a tracker as well", "tensorboard|wandb|trackio")
]
Runs = Annotated[
    list[str] | None, _option("--run", "compare this, else the newest policy; repeatable", "NAME")
]
Run = Annotated[str, _option("--run", "which run, else the newest policy", "NAME")]
Gguf = Annotated[Path | None, _option("--model", "compare an exported file", "FILE.gguf")]
Samples = Annotated[int | None, _option("--samples", "answers to a prompt, else the preset's", "N", min=1)]
Quants = Annotated[
    list[str] | None, _option("--quant", f"{', '.join(QUANTS)}; else q8_0; repeatable", "NAME")
]
Format = Annotated[str, _option("--format", "what to make", "|".join(FORMATS))]
OutFolder = Annotated[Path | None, _option("--output", "else DIR/exports", "FOLDER")]
Columns = Annotated[
    Literal["explicit", "conversational", "implicit", "kto"], _option("--format", "the columns")
]

# A conversation
Question = Annotated[str | None, _option("--prompt", "one question; its answer goes to stdout", "TEXT")]
System = Annotated[str, _option("--system", "a system message", "TEXT")]
Host = Annotated[str, _option("--host", "another address than this machine's own; wants a key", "ADDRESS")]
ApiKey = Annotated[
    str, _option("--api-key", "what every request must bring", "KEY", envvar="RLHF_LITE_API_KEY")
]
Port = Annotated[int, _option("--port", "0 picks a free one", "N", min=0, max=65535)]


def output_of(json: bool, events: bool = False) -> Output:
    """What stdout carries. Raises UserError where two things were asked for."""
    if json and events:
        raise UserError("--json and --events both want stdout", hint="choose one")
    return Output.JSON if json else Output.EVENTS if events else Output.TEXT


def answer(
    values: Any, output: Output, show: Callable[[Any], object], following: Project | None = None
) -> None:
    """Answer in the way that was asked for; people are also told the next command, on stderr."""
    if output is Output.JSON:
        report.emit_json(values)
    elif output is Output.TEXT:
        show(values)
        if following:
            report.aside(f"next: {overview.project(following)['next']['command']}")


def taken_in(values: dict[str, Any], key: str, what: str, output: Output, project: Project) -> None:
    """Answer with what came in from files; where every row was refused, that is an error as well."""
    refused = values["refused"]
    if values[key] or values["duplicates"] or not refused:
        answer(values, output, lambda v: report.taken_in(v, key, what), project)
        return
    if output is Output.TEXT:
        report.taken_in(values, key, what)
    error = DataError(
        f"nothing was {key}: all {len(refused)} {what} were refused",
        why=f"{refused[0].file}:{refused[0].line}: {refused[0].why}",
        hint="mend the file, or check that it is the right one, and run this again",
    )
    report.fail(error, output, values)
    raise typer.Exit(error.exit_code)
