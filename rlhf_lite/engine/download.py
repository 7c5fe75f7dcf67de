"""``download``: fetch a model from the hub into the ordinary Hugging Face cache, where every stage finds it.

Only what a stage reads is fetched: configs, tokenizer, template and safetensors of the repository's top folder, the
large ones last. The hub's own client (2.4) throws a partial file away; a stop or a lost line at 2.9 of 3 GB should
not cost 2.9 GB. So files are fetched here, into ``blobs/<hash>.rlhf-lite.part`` of the cache, and a later job goes on
behind the last byte. A finished file is checked against its SHA-256 and takes the name that the client looks for;
links and refs are left to the client. Takes no device.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from rlhf_lite import hub, jobs, paths
from rlhf_lite.engine.job import Job
from rlhf_lite.errors import DataError, DeviceBusy, DiskFull, MachineError, RlhfLiteError, UserError

WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md")
_CHUNK = 2**18  # bytes between two looks at whether to stop
_TIMEOUT = 10  # seconds without a byte
_TRIES = 5  # in a row without a byte
_SPARE = 2**27  # bytes left free


@dataclass(frozen=True)
class Remote:
    """A file on the hub. ``etag`` is its name in the cache: SHA-256 of a large file, the git hash of a small one."""

    name: str
    size: int
    etag: str


def run(job: Job) -> None:
    """The stage ``download``."""
    began, model = time.monotonic(), job.inputs.model
    fetched = 0
    if not hub.on_disk(model):
        with _explained(model), _only_one(job):
            fetched = _fetch_all(job, model)
    folder = hub.find(model)
    if folder is None:
        raise DataError(
            f"{model} is no whole model", why="its repository lacks config.json, a tokenizer or a part of the weights",
            hint="pick another model: rlhf-lite models",
        )  # fmt: skip
    size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    job.progress("bytes", size, size)
    seconds = round(time.monotonic() - began, 1)
    job.result({"model": model, "folder": str(folder), "bytes": size, "fetched": fetched, "seconds": seconds})


def _fetch_all(job: Job, model: str) -> int:
    """Fetch what is missing; returns how many bytes that were."""
    info = huggingface_hub.HfApi().model_info(model, files_metadata=True, timeout=_TIMEOUT)
    wanted = (*WANTED, "*.py") if job.inputs.trust_remote_code else WANTED
    files = [
        Remote(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else s.blob_id or "")
        for s in info.siblings or []
        if "/" not in s.rfilename and any(fnmatch(s.rfilename, pattern) for pattern in wanted)
    ]
    if not any(f.name.endswith(".safetensors") for f in files):
        raise DataError(
            f"{model} holds no safetensors", why="loading pickled weights would run whatever code is inside",
            hint="pick another model: rlhf-lite models",
        )  # fmt: skip
    files.sort(key=lambda f: (f.name.endswith(".safetensors"), f.name))
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    total, there = sum(f.size for f in files), sum(_there(blobs, f) for f in files)
    _require_space(model, blobs, total - there)
    done = 0
    for file in files:
        if file.etag and not (blobs / file.etag).exists():
            url = hf_hub_url(model, file.name, revision=info.sha)
            _fetch(job, url, file, blobs, done, total)
        hf_hub_download(model, file.name)
        done += file.size
        job.progress("bytes", done, total)
    return total - there


def _there(blobs: Path, file: Remote) -> int:
    """How many bytes of a file are on disk."""
    for path in (blobs / file.etag, _part(blobs, file)):
        if file.etag and path.exists():
            return min(path.stat().st_size, file.size)
    return 0


def _part(blobs: Path, file: Remote) -> Path:
    return blobs / f"{file.etag}.rlhf-lite.part"


def _require_space(model: str, folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE > free:
        raise DiskFull(
            f"{model} does not fit on the disk", why=f"{wanted / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free",
            hint="free some space, or move the cache to another disk: HF_HOME=/path/with/space",
        )  # fmt: skip


def _fetch(job: Job, url: str, file: Remote, blobs: Path, done: int, total: int) -> None:
    """Fetch one file, on from what is there of it; lost lines are taken up again."""
    part, tries = _part(blobs, file), 0
    with part.open("ab", buffering=0) as out:
        while (have := out.seek(0, os.SEEK_END)) < file.size:
            try:
                _append(job, url, out.fileno(), have, done, total)
            except HfHubHTTPError:
                raise
            except HTTPError:  # the line, not an answer
                tries = 0 if out.seek(0, os.SEEK_END) > have else tries + 1
                if tries == _TRIES:
                    raise
                job.check_stop()
                time.sleep(1)
    _check(part, file)
    os.replace(part, blobs / file.etag)


def _append(job: Job, url: str, out: int, have: int, done: int, total: int) -> None:
    """Append what the hub sends from byte ``have`` on; a stop leaves it there."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream(
        "GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True
    ) as response:
        if response.status_code != 200:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
        elif have:  # the whole file, whatever was asked for
            os.ftruncate(out, 0)
            have = 0
        for chunk in response.iter_bytes(_CHUNK):
            os.write(out, chunk)
            have += len(chunk)
            job.progress("bytes", done + have, total)
            job.check_stop()


def _check(part: Path, file: Remote) -> None:
    """Refuse a file that is not what the hub says it is. A git hash (of a small file) is left unchecked."""
    wrong = part.stat().st_size != file.size
    if len(file.etag) == 64 and not wrong:
        with part.open("rb") as stream:
            wrong = hashlib.file_digest(stream, "sha256").hexdigest() != file.etag
    if wrong:
        part.unlink()
        raise DataError(
            f"{file.name} arrived damaged", why="its size or SHA-256 is not the hub's",
            hint="download again: the file begins anew",
        )  # fmt: skip


@contextmanager
def _only_one(job: Job) -> Iterator[None]:
    """Two downloads of one model would write into the same files."""
    lock = paths.state() / f"download-{job.inputs.model.replace('/', '--')}.lock"
    try:
        with jobs.hold_lock(lock, str(job.run.folder)):
            yield
    except BlockingIOError as error:
        raise DeviceBusy(
            f"{job.inputs.model} is being downloaded already", why=lock.read_text(encoding="utf-8"),
            hint="wait for it to end",
        ) from error  # fmt: skip


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """What the hub's client raises, in our words."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        raise _translate(model, error) from error


def _translate(model: str, error: Exception) -> RlhfLiteError:
    page, why = f"{constants.ENDPOINT}/{model}", (str(error).strip() or type(error).__name__).splitlines()[0]
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError) or status == 403:
        return UserError(
            f"{model} is not given to you yet", why="its owner wants a licence accepted, or the token may not read it",
            hint=f"accept it at {page}, then: hf auth login",
        )  # fmt: skip
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return UserError(
            f"the hub has no model {model} for you", why="there is none of that name, or it is private or gated",
            hint=f"look at {page}; for a private or gated one: hf auth login",
        )  # fmt: skip
    if status == 401:
        return UserError("the hub refuses your token", why=why, hint="get a new one: hf auth login")
    if status:
        return MachineError(f"the hub answers {status}", why=why, hint=_AGAIN)
    if isinstance(error, OfflineModeIsEnabled):
        return UserError(
            "the hub is switched off here", why="HF_HUB_OFFLINE is set", hint="unset it, and try again"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full", why=why, hint=f"free some space; {_AGAIN}")
    if isinstance(error, HTTPError | ConnectionError | huggingface_hub.errors.LocalEntryNotFoundError):
        return MachineError(
            "the hub cannot be reached",
            why=why,
            hint=f"check the network (behind a proxy: HTTPS_PROXY); {_AGAIN}",
        )
    return MachineError(f"cannot download {model}", why=why, hint=_AGAIN)


_AGAIN = "start it again later: it goes on where it was"
