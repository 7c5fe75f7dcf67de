"""Who can answer in a project's chat: its base, the newest policy on that base, the newest export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf_lite import overview
from rlhf_lite.errors import UserError
from rlhf_lite.project import Project, Run

Voice = Literal["base", "tuned", "gguf"]
VOICES: tuple[Voice, ...] = ("base", "tuned", "gguf")


@dataclass(frozen=True)
class Voices:
    """``first`` answers unless another is asked for: an export that is newer than the policy, else the policy on its
    base, else the bare base."""

    project: Project
    policy: Run | None
    gguf: Path | None
    first: Voice

    @property
    def names(self) -> tuple[Voice, ...]:
        there = {"base": True, "tuned": self.policy is not None, "gguf": self.gguf is not None}
        return tuple(name for name in VOICES if there[name])

    def named(self, name: str) -> Voice:
        """Raises UserError where there is nobody of that name."""
        for voice in self.names:
            if voice == name:
                return voice
        why = {"tuned": "nothing is trained yet", "gguf": "nothing is exported yet"}.get(name, "")
        raise UserError(
            f"there is no model {name} to talk to", why=why, hint=f"there is: {', '.join(self.names)}"
        )

    def session(self, voice: Voice) -> tuple[str, tuple[str, ...]]:
        """The session that speaks with this voice: its verb and arguments. Base and tuned share one."""
        if voice == "gguf":
            return "chat", (str(self.gguf),)
        return "talk", (str(self.project.root), *([self.policy.name] if self.policy else []))

    def words(self, voice: Voice) -> str:
        """What people call it."""
        if voice == "gguf" and self.gguf:
            return f"the export {self.gguf.name}"
        if voice == "tuned" and self.policy:
            return f"{self.policy.name} on its base"
        return f"the bare base, {self.project.file.model}"


def of(project: Project) -> Voices:
    """Reads the runs' logs, so not for a thread that draws."""
    policy = project.latest_policy()
    gguf, exported = overview.exported(project), overview.gguf_export(project)
    if gguf and exported and (policy is None or exported.number > policy.number):
        return Voices(project, policy, gguf, "gguf")
    return Voices(project, policy, gguf, "tuned" if policy else "base")
