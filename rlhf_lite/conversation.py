"""A conversation with a model: its turns, the settings of its answers, and what is typed as a command.

* A turn is taken back as a whole: a conversation never ends in a question that nobody will answer.
* How it is kept is :mod:`rlhf_lite.chats`'s.
* What no longer fits the model's context is left out by the session, oldest turns first; here it is put into words.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from rlhf_lite import config
from rlhf_lite.errors import UserError
from rlhf_lite.labels import Message, Verdict
from rlhf_lite.project import Project

ORIGIN = "chat"  # of the pairs that come from a conversation
NEARLY_FULL = 0.9
BETTER_TEMPERATURE = 0.8  # below it, a second answer is too often the first one again
Choice = Literal["left", "right", "tie", "both_bad"]
COMMANDS = {
    "help": ("", "this list"),
    "system": ("[TEXT]", "show or set the system prompt; /system none removes it"),
    "set": ("[NAME VALUE]", "temperature, top_p, max_tokens or seed: /set temperature 0.7"),
    "reset": ("", "begin anew; the system prompt stays"),
    "retry": ("", "answer the last message again"),
    "edit": ("", "change your last message and send it again"),
    "save": ("[NAME]", "give this conversation a name; it is saved as it grows"),
    "load": ("[NAME|NUMBER]", "go on with a saved one; alone: which there are"),
    "model": ("[base|tuned|gguf]", "who answers"),
    "side": ("", "base and tuned next to each other, on or off"),
    "better": ("", "a second answer; the one you choose becomes a label"),
    "stats": ("", "what was said so far, and how fast"),
    "bye": ("", "leave"),
}


class Sampling(msgspec.Struct, frozen=True):
    """How answers are drawn; temperature 0 takes the likeliest token."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None

    def changed(self, name: str, text: str) -> Sampling:
        """With one value changed. Raises UserError where there is no such setting, or the value is out of bounds."""
        names = self.__struct_fields__
        if name not in names:
            raise UserError(
                f"there is no setting {name or 'without a name'}", why=_nearest(name, names),
                hint=f"/set temperature 0.7; the settings are {', '.join(names)}",
            )  # fmt: skip
        if name == "seed" and text in ("none", ""):
            return msgspec.structs.replace(self, seed=None)
        low, high = {"temperature": (0, 5), "top_p": (0.01, 1), "max_tokens": (1, 100_000)}.get(
            name, (0, 2**31)
        )
        try:
            value = float(text) if name in ("temperature", "top_p") else int(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            raise UserError(f"{name} cannot be {text or 'nothing'}", hint=f"{low} to {high}")
        return msgspec.structs.replace(self, **{name: value})

    @property
    def words(self) -> str:
        return " · ".join(
            f"{name} {'random' if value is None else value}"
            for name, value in msgspec.structs.asdict(self).items()
        )


@dataclass
class Conversation:
    """``messages`` end with an answer, except while one is being said. ``name`` is its file's, once it has one."""

    messages: list[Message] = field(default_factory=list[Message])
    name: str = ""

    @property
    def system(self) -> str:
        return next((m["content"] for m in self.messages if m["role"] == "system"), "")

    @system.setter
    def system(self, text: str) -> None:
        turns = [m for m in self.messages if m["role"] != "system"]
        self.messages = [*([{"role": "system", "content": text}] if text else []), *turns]

    @property
    def turns(self) -> list[Message]:
        """Everything but the system prompt."""
        return [m for m in self.messages if m["role"] != "system"]

    @property
    def question(self) -> str:
        """What was asked last; empty where nothing was."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")

    @property
    def first(self) -> str:
        """What was asked first, in one short line; empty where nothing was."""
        asked = next((m["content"] for m in self.messages if m["role"] == "user"), "")
        return textwrap.shorten(asked, 40, placeholder="…")

    @property
    def answer(self) -> str | None:
        """The answer that it ends with."""
        last = self.messages[-1:]
        return last[0]["content"] if last and last[0]["role"] == "assistant" else None

    def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def reply(self, text: str) -> None:
        """End with this answer, in place of one that is there."""
        self.take_answer()
        self.messages.append({"role": "assistant", "content": text})

    def take_answer(self) -> str | None:
        """Take the last answer back, if it ends with one."""
        return self.messages.pop()["content"] if self.answer is not None else None

    def take_question(self) -> str:
        """Take the last question back, with its answer; returns it."""
        asked = self.question
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place]["role"] == "user":
                del self.messages[place:]
                break
        return asked

    def prompt(self) -> list[Message]:
        """What the last answer answers: all up to the last question."""
        return list(self.messages[:-1] if self.answer is not None else self.messages)

    def reset(self) -> None:
        """Begin anew, under the same system prompt."""
        self.messages = [m for m in self.messages if m["role"] == "system"]
        self.name = ""


def command(line: str) -> tuple[str, str] | None:
    """A typed command and what follows it, None for a message; one that begins with a space is a message.

    Raises:
        UserError: a slash, and no command that we know.
    """
    if not line.startswith("/"):
        return None
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        hint = "/help lists them; with a space before the slash it is a message"
        raise UserError(f"there is no command /{name}", why=_nearest(name, tuple(COMMANDS), "/"), hint=hint)
    return name, rest.strip()


def _nearest(name: str, known: tuple[str, ...], mark: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {mark}{near[0]}?" if near else ""


def used_words(used: int, limit: int) -> str:
    return f"context {used}/{limit}" + (f" ({used / limit:.0%})" if limit else "")


def context_warning(used: int, limit: int, max_tokens: int) -> str:
    """What to say where the next turns may not fit; empty where they do. The session keeps some of the context for
    the answer: what it may take, at most a quarter."""
    kept = min(max_tokens, limit // 4)
    if not limit or used < NEARLY_FULL * (limit - kept):
        return ""
    return (
        f"The context is nearly full: {used} of {limit} tokens, and {kept} are kept for the next answer. The oldest "
        "turns will be left out; /reset begins anew."
    )


def dropped_words(turns: int) -> str:
    were = "turn no longer fits and was" if turns == 1 else f"{turns} turns no longer fit and were"
    return f"The oldest {were} left out of what the model reads."


def keep_choice(
    project: Project, prompt: list[Message], left: str, right: str, choice: Choice, seconds: float
) -> int | None:
    """Keep a choice between two answers, as they were shown, as the user's label; returns how many labels there are
    now, None where these very answers had one already, which stays.

    Raises what the store raises.
    """
    with project.labels() as store, store.transaction():
        store.add_prompts([prompt])
        asked = next(p for p in store.prompts() if p.messages == prompt)
        new = store.add_pair(asked.id, left, right, origin=ORIGIN)
        waiting = [store.pair(new)] if new is not None else store.unlabelled()
        for pair in waiting:
            if pair.prompt.id == asked.id and {pair.a, pair.b} == {left, right}:
                swapped = pair.a == right
                sides: tuple[Verdict, Verdict] = ("b", "a") if swapped else ("a", "b")
                verdict = sides[choice == "right"] if choice in ("left", "right") else choice
                judge = f"person:{config.labeller()}"
                store.label(pair.id, verdict, judge=judge, seconds=seconds, swapped=swapped)
                return store.counts().labelled
    return None
