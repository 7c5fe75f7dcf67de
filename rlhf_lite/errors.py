"""Every error a user can meet, and the exit code each ends with.

    RlhfLiteError(message, why, hint)
    ├── UserError     exit 2   fixable from where the user sits
    │   ├── SettingsError          an unknown or impossible setting
    │   ├── NotEnoughLabels        too few, or too one-sided, to train on
    │   └── DeviceBusy             another job holds the device
    ├── MachineError  exit 3   this machine cannot
    │   ├── NoGpu · OutOfMemory · DiskFull · ToolMissing
    ├── DataError     exit 4   something on disk is not what it says
    │   ├── CorruptStore · BadRow · CheckpointMismatch
    └── JobError      exit 5   the job failed
        ├── JobDied                it ended without a word
        └── Diverged               NaN, twice rolled back, still NaN

An error is three short parts: what happened, why, what to do next. They cross the process line as a
``Failed`` event and are rebuilt on the other side by :func:`from_parts`.
"""

from __future__ import annotations


class RlhfLiteError(Exception):
    """Base of all. ``message`` says what happened, ``why`` the reason, ``hint`` the next step."""

    exit_code = 5

    def __init__(self, message: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.hint = hint


class UserError(RlhfLiteError):
    exit_code = 2


class SettingsError(UserError):
    pass


class NotEnoughLabels(UserError):
    pass


class DeviceBusy(UserError):
    pass


class MachineError(RlhfLiteError):
    exit_code = 3


class NoGpu(MachineError):
    pass


class OutOfMemory(MachineError):
    pass


class DiskFull(MachineError):
    pass


class ToolMissing(MachineError):
    pass


class DataError(RlhfLiteError):
    exit_code = 4


class CorruptStore(DataError):
    pass


class BadRow(DataError):
    pass


class CheckpointMismatch(DataError):
    pass


class JobError(RlhfLiteError):
    exit_code = 5


class JobDied(JobError):
    pass


class Diverged(JobError):
    pass


def _tree(root: type[RlhfLiteError]) -> list[type[RlhfLiteError]]:
    return [root, *(c for sub in root.__subclasses__() for c in _tree(sub))]


def from_parts(kind: str, message: str, why: str, hint: str) -> RlhfLiteError:
    """Rebuild an error from its class name and parts; an unknown kind becomes a :class:`JobError`."""
    by_name = {c.__name__: c for c in _tree(RlhfLiteError)}
    return by_name.get(kind, JobError)(message, why=why, hint=hint)
