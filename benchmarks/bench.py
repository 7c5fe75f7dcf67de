"""Runs the benchmarks one after another, each from where it was stopped, and writes the page of their tables.

    python benchmarks/bench.py [NAME...]      all, or these; `make bench` sets up what they need first
    python benchmarks/bench.py --page         the page alone

Figures go to ``results/`` and the page beside this file. Where what is there was made on another machine or with other
versions, both go to ``bench-results/`` in the repository's root; ``BENCH_RESULTS`` names another folder. A piece that
fails does not stop the others; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page
import record

HERE = Path(__file__).resolve().parent
ELSEWHERE = HERE.parent / "bench-results"
TRL = "build/trl"  # TRL's own environment, by `make bench`


@dataclass(frozen=True)
class Piece:
    """One benchmark. ``name`` is that of its file of results, too; in ``command`` {results} stands for their folder;
    ``minutes`` are those of two cores.
    """

    name: str
    title: str
    command: str
    minutes: int
    shows: str


PIECES = (
    Piece(
        "rollout", "Sampling", "rollout.py", 15,
        "Tokens a second that sampling gives, beside `transformers.generate` and llama.cpp on the same weights: "
        "temperature 1, nothing truncated, by turns. Ours includes the log-probabilities that PPO needs; `generate` is "
        "measured without and with them, llama.cpp (F16, its own sampler) without. A ratio above 1 means ours is "
        "faster: median of the pairs, least and most.",
    ),
    Piece(
        "ppo_against_trl", "Is our PPO the PPO of TRL?", f"peers/ppo.py {TRL} {{results}}/ppo_against_trl.json", 2,
        "Is our PPO that of TRL 1.12.0? One batch through both: the largest difference of each quantity, relative to "
        "its largest number, as it is and after TRL's choices have been made by our own code too.",
    ),
    Piece(
        "ppo_against_trl_speed", "PPO beside TRL's: time and memory", f"ppo_speed.py {TRL}", 15,
        "Time and memory of a PPO step, ours and TRL 1.12.0's by turns on the same prompts in the same order: 32 "
        "answers of at most 96 tokens, two epochs. Above 1 ours is faster: the pairs' median, least, most. Memory is "
        "a process's peak above a bare Python with torch. The benchmark's first lines say what one side does that the "
        "other does not.",
    ),
    Piece(
        "growth", "How cost grows", "growth.py", 15,
        "How the cost of a PPO step grows with its batch, the answers' length, the model and its vocabulary. Each "
        "point is a process of its own; the exponent is the slope of log seconds over log x, so 1 is proportional. "
        "Below that, whether a step costs more the longer a run has gone on.",
    ),
    Piece(
        "limit", "Distance from the machine's limit", "limit.py", 5,
        "How far from what this machine can do: the time of each part of a PPO step over the time that its bytes "
        "need at the measured memory bandwidth, or its operations at the measured fp32 rate, whichever is longer.",
    ),
    Piece(
        "choices", "What each choice in PPO is worth", "choices.py", 120,
        "What each choice in our PPO is worth: the same training with it and without.",
    ),
    Piece(
        "frontier", "What a wish costs", "frontier.py", 240,
        "What a wish costs: how often answers fulfil it against the KL spent, beside the least that is possible, "
        "best-of-n and DPO.",
    ),
    Piece(
        "overoptimisation", "Overoptimisation", "overoptimisation.py", 120,
        "What the true judge says while the reward model's score rises, far beyond the budget: PPO without a leash, "
        "and best-of-n by the same reward model. The score is in the reward model's standard deviations; the true rate "
        "is the share of answers that fulfil the wish, for `prefer` the share that beat one of the base to the same "
        "prompt, ties half. First Gao et al.'s (2022) forms of the gain over the base, d·(a − b·log d) of PPO and "
        "d·(a − b·d) of best-of-n at d = √KL, and where the rate, smoothed over 5 steps, is highest.",
    ),
    Piece(
        "learning", "Learning by label and by minute", "learning.py", 90,
        "How often an answer beats the base's, to held-out prompts, by the judge that labelled: by the number of "
        "labels, and by the seconds that training was given (320 labels). The rate is of decided comparisons with "
        "Wilson's 95 % interval over all seeds together; best-of-n costs n times the sampling for every answer.",
    ),
    Piece(
        "export", "Export beside llama.cpp's converter", "export.py", 15,
        "Our GGUF files beside those of llama.cpp's own converter: for a tiny random model of each architecture "
        "whether tensors and settings are the same, and which file says what transformers says; for 494 M parameters, "
        "seconds and memory.",
    ),
    Piece(
        "chatting", "Chat beside bare llama-cpp-python", "chatting.py", 10,
        "Time to the first token and tokens a second of a chat, beside bare llama-cpp-python on the same file, by "
        "turns; and how much sooner the second turn of a long conversation begins.",
    ),
    Piece(
        "gpu", "On a GPU", f"gpu.py --peer {TRL}", 30,
        "On a GPU, with the shapes of published models and random weights in NF4: PPO's peak of memory beside the "
        "plan's, episodes a second beside TRL's, decoding beside what reading the weights takes. Needs one.",
    ),
)  # fmt: skip


def made_elsewhere(folder: Path, pieces: Sequence[Piece], made_with: dict[str, Any]) -> list[str]:
    """Names of the pieces whose results there were made on another machine or with other versions."""
    found: list[str] = []
    for piece in pieces:
        path = folder / f"{piece.name}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if any(kept.get(k, v) != v for k, v in made_with.items()):
            found.append(piece.name)
    return found


def page_of(folder: Path) -> Path:
    """Where the page of these results goes: the one beside this file is of ``results/`` alone."""
    return (HERE if folder == HERE / "results" else folder) / "README.md"


def run(pieces: Sequence[Piece], folder: Path) -> list[str]:
    """Run each; returns the names of those that failed."""
    failed: list[str] = []
    environment = {**os.environ, "BENCH_RESULTS": str(folder)}
    for piece in pieces:
        print(f"== {piece.name}, about {piece.minutes} minutes where nothing is measured yet", flush=True)
        began = time.monotonic()
        script, *arguments = piece.command.format(results=folder).split()
        command = [sys.executable, str(HERE / script), *arguments]
        code = subprocess.run(command, cwd=HERE.parent, env=environment, check=False).returncode
        print(f"== {piece.name} took {time.monotonic() - began:.0f} s, exit status {code}", flush=True)
        if code:
            failed.append(piece.name)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(p.name for p in PIECES))
    parser.add_argument("--page", action="store_true", help="write the page alone")
    given = parser.parse_args()
    if unknown := set(given.names) - {p.name for p in PIECES}:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are "
                     f"{', '.join(p.name for p in PIECES)}")  # fmt: skip
    pieces = [p for p in PIECES if p.name in given.names or not given.names]
    folder = record.RESULTS
    if given.page:
        page.write(PIECES, folder, page_of(folder))
        return 0
    if others := made_elsewhere(folder, pieces, record.made_with()):
        print(
            f"{', '.join(others)}: made on another machine or with other versions. Yours go to {ELSEWHERE}."
        )
        folder = ELSEWHERE
    failed = run(pieces, folder)
    page.write(PIECES, folder, page_of(folder))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
