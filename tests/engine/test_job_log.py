"""What a run's process writes beside its events: nothing while all is well, everything that somebody can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from training_projects import make_project, new_run, preferences

from rlhf_lite import jobs

ADVICE = """
import logging, warnings
from rlhf_lite.engine.job import keep_log_clean
keep_log_clean()
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("the driver is too old")
logging.getLogger("transformers").warning("no chat template")
warnings.warn("another name will be removed", FutureWarning)
"""


def test_a_healthy_run_leaves_an_empty_log(tmp_path: Path) -> None:
    run = new_run(make_project(tmp_path / "p", preferences(40)), "dpo", "dpo.epochs=1")
    assert jobs.spawn(run).wait() == 0
    assert run.log_path.read_text() == ""


def test_other_warnings_still_reach_the_log() -> None:
    told = subprocess.run([sys.executable, "-c", ADVICE], capture_output=True, text=True, check=True).stderr
    assert all(words in told for words in ("driver is too old", "no chat template", "another name"))
