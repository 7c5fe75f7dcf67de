"""What every test gets: a state folder and settings of its own, and threads that do not spin."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from rlhf_lite import jobs

os.environ.update(jobs.child_environment())  # before torch loads its thread pool


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Device locks and settings of the person who runs the tests stay out of them, and the other way round."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_LITE_STATE", str(folder))
        patch.setenv("RLHF_LITE_CONFIG", str(folder / "config.toml"))
        yield
