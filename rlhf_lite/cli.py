"""The commands. Each reads what was asked, calls the function behind it, and answers on stdout."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from rlhf_lite import (
    __version__,
    formats,
    looking,
    options,
    overview,
    paths,
    plain,
    report,
    stages,
    starting,
)
from rlhf_lite.errors import DiskFull, RlhfLiteError, UserError
from rlhf_lite.options import Events, Folder, Json, Set, answer, output_of, taken_in
from rlhf_lite.project import Project
from rlhf_lite.report import Output

STOPPED = 130
app = typer.Typer(
    help="Shape a small language model by your own taste: label, train, chat. Without a command: the app.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _run(prepared: stages.Prepared, output: Output, show: Callable[[Any], object], project: Project) -> None:
    from rlhf_lite import narrate  # rich's bars: not for --help

    answer(narrate.run(prepared, output), output, show, project)


def _function(spec: str) -> stages.NamedFunction | None:
    return stages.NamedFunction.find(spec) if spec else None


def _on_terminal() -> bool:
    return all(s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr))  # Textual draws on stderr


def _version(wanted: bool) -> None:
    if wanted:
        report.line(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _bare(
    context: typer.Context,
    project: Annotated[
        Path | None, typer.Option("--project", metavar="DIR", help="the project that the app opens")
    ] = None,
    ascii: Annotated[bool, typer.Option("--ascii", help="no box or braille characters in the app")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if not _on_terminal():
        report.line(context.get_help())
        return
    from rlhf_lite.tui.app import run  # Textual: not for --help

    run(project, ascii=ascii)


@app.command()
def demo(
    folder: options.DemoFolder = Path("demo-project"), seed: options.DemoSeed = None, pairs: options.DemoPairs = 160,
    steps: options.Steps = None, json: Json = False, events: Events = False,
) -> None:  # fmt: skip
    """The whole pipeline on the built-in model.

    A script labels, not a person. Called again, it goes on where it stopped.
    """
    from rlhf_lite import demo as tour

    output = output_of(json, events)
    answer(tour.run(folder, seed, pairs, steps, output), output, tour.show)


@app.command()
def new(
    folder: Folder, model: options.Model, preset: options.Preset = "", seed: options.Seed = 0,
    quantization: options.Held = None, plain_template: options.PlainTemplate = False,
    trust_remote_code: options.RemoteCode = False, json: Json = False,
) -> None:  # fmt: skip
    """Make a project folder."""
    weights = starting.Weights(quantization) if quantization else starting.weights(model, preset)
    project = starting.new_project(
        folder, model, preset=preset, seed=seed, quantization=weights.quantization, plain_template=plain_template,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    if weights.why:
        report.aside(weights.why)
    file = project.file
    values = {"project": str(project.root), **msgspec.to_builtins(file)}
    told = f"{paths.shown(project.root)}: a project on {file.model}, preset {file.preset}"
    answer(values, output_of(json), lambda _: report.line(told), project)


@app.command()
def download(folder: Folder, json: Json = False, events: Events = False) -> None:
    """Fetch the project's model from its hub; what is here already is not fetched again."""
    project = Project.open(folder)
    _run(stages.download(project), output_of(json, events), report.downloaded, project)


@app.command()
def prompts(
    folder: Folder, action: options.PromptAction, files: options.PromptFiles = None, json: Json = False
) -> None:
    """Add prompts, or list them."""
    project, output = Project.open(folder), output_of(json)
    if action == "list":
        with project.labels() as store:
            found = [{"messages": p.messages, "text": p.text, "split": p.split} for p in store.prompts()]
        answer({"prompts": found}, output, lambda _: [report.line(str(p["text"])) for p in found])
        return
    if not files:
        raise UserError("no file to add from", hint=stages.command("prompts", project, "add", "FILE"))
    read = [formats.read_prompts(file) for file in files]
    offered = [prompt for good, _ in read for prompt in good]
    with project.labels() as store:
        added = store.add_prompts(offered)
    refused = [row for _, bad in read for row in bad]
    values = {"added": added, "duplicates": len(offered) - added, "refused": refused}
    taken_in(values, "added", "prompts", output, project)


@app.command()
def generate(
    folder: Folder, pairs: options.Pairs = None, sets: Set = None, json: Json = False, events: Events = False
) -> None:
    """Sample pairs of answers to be labelled."""
    project, output = Project.open(folder), output_of(json, events)
    prepared = stages.generate(project, stages.preset_of(project, sets or []), pairs)
    _run(prepared, output, report.generated, project)


@app.command()
def label(
    folder: Folder, judge: options.Judge = "", line_by_line: options.Plain = False, limit: options.Limit = None,
    json: Json = False, events: Events = False,
) -> None:  # fmt: skip
    """Say which answer of each pair is better.

    Opens the app at its label page; with --plain, or where there is no terminal, asks line by line. A judge file says
    it for you.
    """
    project, output, function = Project.open(folder), output_of(json, events), _function(judge)
    if function:
        prepared = stages.label(project, stages.preset_of(project, []), function, limit)
        _run(prepared, output, report.labelled, project)
        return
    if not line_by_line and limit is None and output is Output.TEXT and _on_terminal():
        from rlhf_lite.tui.app import run  # Textual: not for --help

        run(project.root, page="label")
        return
    stages.require_unlabelled(project)
    with project.labels() as store:
        values = plain.label(store, plain.sayer(on_stdout=output is Output.TEXT), limit)
    answer(values, output, report.labelled, project)


@app.command("import")
def import_(folder: Folder, files: options.DataFiles, json: Json = False) -> None:
    """Take in preference data made elsewhere.

    TRL explicit, conversational and implicit, Anthropic HH, UltraFeedback, BeaverTails, PKU-SafeRLHF and KTO, as
    .jsonl, .jsonl.gz, .json, .parquet or a folder of a data set.
    """
    project = Project.open(folder)
    with project.labels() as store:
        done = [formats.import_file(store, file) for file in files]
    values = {
        "imported": sum(d.imported for d in done),
        "duplicates": sum(d.duplicates for d in done),
        "refused": [row for d in done for row in d.refused],
    }
    taken_in(values, "imported", "rows", output_of(json), project)


@app.command("export-labels")
def export_labels(
    folder: Folder, out: options.OutFile, format: options.Columns = "conversational", json: Json = False
) -> None:
    """Write the labels as TRL and datasets read them."""
    with Project.open(folder).labels() as store:
        rows = formats.export_labels(store, out, format)
    values = {"path": str(out), "rows": rows, "format": format}
    answer(values, output_of(json), lambda _: report.line(f"{rows} rows in {out}"))


@app.command()
def train(
    folder: Folder, stage: options.Stage, sets: Set = None, resume: options.Resume = False, reward: options.Reward = "",
    processes: options.Processes = 1, report_to: options.ReportTo = "", json: Json = False, events: Events = False,
) -> None:  # fmt: skip
    """Run one stage of training."""
    project, output, function = Project.open(folder), output_of(json, events), _function(reward)
    given = {"--set": sets, "--processes": processes > 1, "--report-to": report_to}
    for option in [name for name, wanted in given.items() if resume and wanted]:
        raise UserError(
            f"{option} cannot change a run that goes on",
            why="its settings are frozen",
            hint=f"leave out {option}",
        )
    if resume:
        prepared = stages.resume(project, stage, function)
    else:
        preset = stages.preset_of(project, sets or [])
        prepared = stages.train(project, preset, stage, function, processes, report_to)
    _run(prepared, output, report.trained, project)


@app.command("eval")
def evaluate(
    folder: Folder, judge: options.Judge = "", run: options.Runs = None, model: options.Gguf = None,
    samples: options.Samples = None, sets: Set = None, json: Json = False, events: Events = False,
) -> None:  # fmt: skip
    """Compare base and tuned on held-out prompts."""
    project, output = Project.open(folder), output_of(json, events)
    preset = stages.preset_of(project, [*(sets or []), *([f"eval.samples={samples}"] if samples else [])])
    prepared = stages.evaluate(project, preset, run or [], _function(judge), model)
    _run(prepared, output, report.evaluation, project)


@app.command()
def export(
    folder: Folder, quant: options.Quants = None, format: options.Format = "gguf", output: options.OutFolder = None,
    run: options.Run = "", json: Json = False, events: Events = False,
) -> None:  # fmt: skip
    """Make files for other programs, proven equal to the tuned model.

    Formats: gguf (llama.cpp, Ollama), safetensors (merged, for transformers and vLLM), adapter (the LoRA alone, for
    PEFT and llama.cpp).
    """
    project, answered = Project.open(folder), output_of(json, events)
    prepared = stages.export(project, stages.preset_of(project, []), run, quant or [], output, format)
    _run(prepared, answered, report.exported, project)


@app.command()
def chat(
    target: options.Target, prompt: options.Question = None, system: options.System = "", json: Json = False
) -> None:
    """Talk to an exported model; before there is one, to the policy on its base.

    A project's conversations are saved as they grow; /load goes on with one.
    """
    say = plain.sayer(on_stdout=not json)
    project = None if target.is_file() else Project.open(target)
    values = plain.chat(overview.chat_target(target), say, project, prompt=prompt, system=system)
    answer(values, output_of(json), lambda _: None)


@app.command()
def serve(
    target: options.Target, port: options.Port = 8080, host: options.Host = "127.0.0.1",
    api_key: options.ApiKey = "", json: Json = False,
) -> None:  # fmt: skip
    """An OpenAI-compatible endpoint for this machine alone, until Ctrl-C."""

    def ready(url: str) -> None:
        example = plain.curl(url, with_key=bool(api_key))
        answer({"url": url}, output_of(json), lambda _: [report.line(url), report.line(example)])

    plain.serve(overview.chat_file(target), ready, host, port, api_key)


app.add_typer(looking.app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the contract's exit code. An error is told in three parts, never a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    output = (
        Output.JSON if "--json" in arguments else Output.TEXT
    )  # known even where the rest cannot be parsed
    try:
        code = app(args=arguments, prog_name="rlhf-lite", standalone_mode=False) or 0
        if code == STOPPED:  # Typer's for Ctrl-C where no job was running
            report.aside("stopped; what was done so far is kept")
        return code
    except RlhfLiteError as error:
        report.fail(error, output)
        return error.exit_code
    except typer.TyperException as error:  # Typer's own: an unknown option, a missing argument
        hint = f"see: {shlex.join(['rlhf-lite', *[a for a in arguments[:1] if not a.startswith('-')], '--help'])}"
        report.fail(UserError(error.format_message(), hint=hint), output)
        return UserError.exit_code
    except BrokenPipeError:  # the reader of our stdout has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        kind = DiskFull if error.errno == 28 else UserError
        told = kind(
            f"cannot use {error.filename or 'a file'}",
            why=error.strerror or str(error),
            hint="check its permissions",
        )
        report.fail(told, output)
        return told.exit_code
