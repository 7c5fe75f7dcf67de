"""A model fetched from a hub (a small one on 127.0.0.1), as a job: whole, stopped, gone on with, refused."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command
from fake_hub import COMMIT, MODEL, FakeHub, serving

from rlhf_lite import events, hub, jobs, stages
from rlhf_lite.errors import UserError
from rlhf_lite.project import Project, ProjectFile, Run

WEIGHTS = random.Random(0).randbytes(3 * 2**20)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "README.md": b"# A model",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
    "original/params.json": b"{}",
}


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that a job asks, and an empty cache of its own."""
    with serving() as found:
        found.files = dict(FILES)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield found


@pytest.fixture
def far(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "far", ProjectFile(name="far", model=MODEL, preset="demo"))


def start(project: Project) -> tuple[Run, subprocess.Popen[bytes]]:
    run = stages.download(project).run
    return run, jobs.spawn(run)


def download(project: Project) -> tuple[Run, list[events.AnyEvent]]:
    run, process = start(project)
    return run, list(jobs.watch(run, process))


def failure(project: Project) -> events.Failed:
    _, said = download(project)
    assert isinstance(said[-1], events.Failed)
    return said[-1]


def test_a_download_tells_its_bytes_and_brings_what_a_stage_reads(remote: FakeHub, far: Project) -> None:
    assert not hub.on_disk(MODEL)
    run, said = download(far)
    assert isinstance(said[-1], events.Finished), run.status().failure
    told = [e for e in said if isinstance(e, events.Progress)]
    wanted = sum(len(content) for content in list(FILES.values())[:5])
    assert {e.what for e in told} == {"bytes"}
    assert [e.done for e in told] == sorted(e.done for e in told)
    assert (told[-1].done, told[-1].total) == (wanted, wanted)
    assert run.status().result["fetched"] == wanted
    folder = hub.find(MODEL)
    assert folder is not None
    assert folder.name == COMMIT
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {p.name for p in folder.iterdir()} == set(list(FILES)[:5]), "no pickles, no other folders"
    assert str(folder) == run.status().result["folder"]


def test_a_model_that_is_there_is_found_without_asking_anybody(remote: FakeHub, far: Project) -> None:
    download(far)
    remote.asked.clear()
    run, said = download(far)
    assert isinstance(said[-1], events.Finished)
    assert run.status().result["fetched"] == 0
    assert remote.asked == []


def test_a_stop_keeps_what_came_and_the_next_download_goes_on_behind_it(
    remote: FakeHub, far: Project
) -> None:
    remote.pause = 0.1
    run, process = start(far)
    until = time.monotonic() + 20
    while run.status().progress.get("bytes", (0, 0))[0] < 2**19:
        assert time.monotonic() < until, run.log_path.read_text()
        time.sleep(0.02)
    jobs.stop(run)
    assert isinstance(list(jobs.watch(run, process))[-1], events.Stopped)
    assert not hub.on_disk(MODEL)
    remote.pause = 0.0
    remote.asked.clear()
    again, said = download(far)
    assert isinstance(said[-1], events.Finished), again.status().failure
    ranges = [r for method, path, r in remote.asked if method == "GET" and path.endswith("model.safetensors")]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 2**18
    folder = hub.find(MODEL)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    fetched = again.status().result["fetched"]
    assert isinstance(fetched, int)
    assert fetched < len(WEIGHTS), "told as less to fetch, so that the time left is right"


def test_a_lost_line_is_taken_up_again(remote: FakeHub, far: Project) -> None:
    remote.hang_up_after = 2**20
    run, said = download(far)
    assert isinstance(said[-1], events.Finished), run.status().failure
    folder = hub.find(MODEL)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_model_in_parts_is_on_disk_only_with_the_last_of_them(remote: FakeHub, far: Project) -> None:
    parts = {"model-1.safetensors": WEIGHTS[:1000], "model-2.safetensors": WEIGHTS[1000:]}
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    remote.files = {**FILES, **parts, "model.safetensors.index.json": index}
    del remote.files["model.safetensors"]
    download(far)
    folder = hub.find(MODEL)
    assert folder is not None
    (folder / "model-2.safetensors").unlink()
    assert not hub.on_disk(MODEL)


def test_a_damaged_file_is_refused_and_begins_anew(remote: FakeHub, far: Project) -> None:
    remote.wrong_bytes = True
    failed = failure(far)
    assert (failed.kind, "SHA-256" in failed.why) == ("DataError", True)
    assert not hub.on_disk(MODEL)
    remote.wrong_bytes = False
    download(far)
    assert hub.on_disk(MODEL)


def test_the_command_answers_with_where_the_model_lies(
    remote: FakeHub, far: Project, command: Command
) -> None:
    done = command("download", far.root, "--json")
    assert (done.code, done.json["folder"]) == (0, str(hub.find(MODEL)))
    assert "bytes" in done.err
    assert str(hub.find(MODEL)) in command("download", far.root).out


@pytest.mark.parametrize(
    ("where", "status", "code", "kind", "expected"),
    [
        ("file_error", 403, "GatedRepo", "UserError", "hf auth login"),
        ("file_error", 401, "GatedRepo", "UserError", f"/{MODEL}, then"),
        ("api_error", 403, "", "UserError", "hf auth login"),
        ("api_error", 404, "RepoNotFound", "UserError", f"/{MODEL}"),
        ("api_error", 401, "", "UserError", "hf auth login"),
        ("api_error", 503, "", "MachineError", "later"),
    ],
)
def test_what_the_hub_refuses_names_the_next_step(
    remote: FakeHub, far: Project, where: str, status: int, code: str, kind: str, expected: str
) -> None:
    setattr(remote, where, (status, code))
    failed = failure(far)
    assert (failed.kind, expected in failed.hint) == (kind, True), failed


def test_a_hub_that_cannot_be_reached_is_the_machines_fault(
    remote: FakeHub, far: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    failed = failure(far)
    assert (failed.kind, "network" in failed.hint) == ("MachineError", True), failed
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    failed = failure(far)
    assert (failed.kind, "HF_HUB_OFFLINE" in failed.why) == ("UserError", True), failed


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(remote: FakeHub, far: Project) -> None:
    remote.sizes["model.safetensors"] = 10**18
    failed = failure(far)
    assert (failed.kind, "HF_HOME" in failed.hint) == ("DiskFull", True)
    assert all(path.startswith("/api/") for _, path, _ in remote.asked)


def test_pickled_weights_are_not_fetched(remote: FakeHub, far: Project) -> None:
    del remote.files["model.safetensors"]
    failed = failure(far)
    assert (failed.kind, "safetensors" in failed.message) == ("DataError", True)


def test_a_download_leaves_the_device_to_others_and_is_the_only_one_of_its_model(
    remote: FakeHub, far: Project, tmp_path: Path
) -> None:
    remote.pause = 0.1
    with jobs.hold_device(jobs.device_name(), stages.download(far).run):
        run, process = start(far)
        until = time.monotonic() + 20
        while not run.status().progress:
            assert time.monotonic() < until, run.log_path.read_text()
            time.sleep(0.02)
        second = Project.create(tmp_path / "two", ProjectFile(name="two", model=MODEL, preset="demo"))
        failed = failure(second)
        assert (failed.kind, str(run.folder) in failed.why) == ("DeviceBusy", True), failed
        jobs.stop(run)
        list(jobs.watch(run, process))


def test_the_job_needs_no_torch() -> None:
    script = "import sys, rlhf_lite.engine.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_folder_that_is_gone_cannot_be_downloaded(tmp_path: Path, remote: FakeHub) -> None:
    gone = Project.create(
        tmp_path / "mine", ProjectFile(name="m", model=str(tmp_path / "gone"), preset="demo")
    )
    with pytest.raises(UserError, match="gone"):
        stages.download(gone)
    assert hub.on_disk("demo")
    assert not hub.on_disk(str(tmp_path / "gone"))
