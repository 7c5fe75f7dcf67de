"""A project's saved conversations: lines of JSON, one message each, a file a conversation, in its ``chats/``.

A name is a name, never a path. Until a conversation is given one, it goes by the time at which it began.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

import msgspec

from rlhf_lite.conversation import Conversation
from rlhf_lite.errors import BadRow, UserError
from rlhf_lite.labels import Message
from rlhf_lite.project import Project

ROLES = ("system", "user", "assistant")
_BY_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d( \d+)?")
_NAME = re.compile(r"[^\W_](?:[\w .-]{0,62}[\w-])?")


def folder(project: Project) -> Path:
    return project.root / "chats"


def saved(project: Project) -> list[str]:
    """The names of the saved conversations, the latest first."""
    found = sorted(folder(project).glob("*.jsonl"), key=lambda p: p.stat().st_mtime, reverse=True)
    return [p.stem for p in found]


def _path(project: Project, name: str) -> tuple[str, Path]:
    name = name.removesuffix(".jsonl")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name or 'an empty name'} is no name for a conversation", why="it becomes the name of a file",
            hint="letters, digits, spaces, dots, _ and -, 64 at most",
        )  # fmt: skip
    return name, folder(project) / f"{name}.jsonl"


def save(project: Project, chat: Conversation, name: str) -> Path:
    """Write a conversation, whole or not at all; it goes by that name from then on, and no longer by the time.

    Raises:
        UserError: no name, nothing to save, a name that another conversation has, or a folder that takes no file.
    """
    if not chat.turns:
        raise UserError("there is nothing to save yet", hint="say something first")
    name, path = _path(project, name)
    if path.exists() and chat.name != name:
        raise UserError(
            f"there is a conversation {name} already",
            hint=f"/save under another name, or /load {name} to go on with it",
        )
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_bytes(b"".join(msgspec.json.encode(m) + b"\n" for m in chat.messages))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}", why=error.strerror or str(error)) from error
    if chat.name != name and _BY_TIME.fullmatch(chat.name):
        (folder(project) / f"{chat.name}.jsonl").unlink(missing_ok=True)
    chat.name = name
    return path


def keep(project: Project, chat: Conversation) -> None:
    """Save what was said so far, if anything was. Raises UserError where the folder takes no file."""
    if chat.turns:
        save(project, chat, chat.name or free_name(project))


def free_name(project: Project) -> str:
    """The time, and a number where another conversation began in the same second."""
    began, taken, number = datetime.now().strftime("%Y-%m-%d %H.%M.%S"), saved(project), 1
    name = began
    while name in taken:
        number += 1
        name = f"{began} {number}"
    return name


def load(project: Project, name: str) -> Conversation:
    """A saved conversation; a last question without an answer is the caller's to ask again.

    Raises:
        UserError: no such name.
        BadRow: the file is damaged; says in which line.
    """
    name, path = _path(project, name)
    if not path.is_file():
        known = ", ".join(saved(project)[:8])
        raise UserError(
            f"there is no conversation {name}", hint=f"there are: {known}" if known else "none is saved yet"
        )
    messages: list[Message] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            message = msgspec.json.decode(line, type=Message)
        except msgspec.MsgspecError as error:
            raise BadRow(f"line {number} of {path.name} cannot be read", why=str(error)) from error
        if message.keys() != {"role", "content"} or message["role"] not in ROLES:
            raise BadRow(f"line {number} of {path.name} is no message", why='it wants "role" and "content"')
        messages.append(message)
    return Conversation(messages, name)
