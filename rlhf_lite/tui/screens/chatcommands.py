"""What the slash commands of the chat page do. Their names and words are :data:`rlhf_lite.conversation.COMMANDS`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rich.text import Text

from rlhf_lite import chats, conversation
from rlhf_lite.conversation import COMMANDS
from rlhf_lite.errors import BadRow, UserError
from rlhf_lite.project import Project

if TYPE_CHECKING:
    from rlhf_lite.tui.screens.chat import ChatPage

LISTED = 9  # saved conversations
WHILE_SPEAKING = ("help", "stats", "bye")


async def run(page: ChatPage, name: str, rest: str) -> None:
    """Run one command. Raises RlhfLiteError where it cannot be done."""
    if page.saying and name not in WHILE_SPEAKING:
        raise UserError("an answer is being said", hint="esc stops it")
    await _ALL[name](page, rest)


async def _help(page: ChatPage, _: str) -> None:
    text = Text()
    for name, (arguments, words) in COMMANDS.items():
        text.append(f"/{name} {arguments}".ljust(25), "bold").append(f"{words}\n")
    text.append("Enter sends; a backslash before it, or ctrl+o, begins a new line. esc stops an answer.")
    page.said.note(text)


async def _system(page: ChatPage, rest: str) -> None:
    if rest:
        page.chat.system = "" if rest == "none" else rest
    system = page.chat.system
    page.said.note(f"The system prompt is: {system}" if system else "There is no system prompt.")


async def _set(page: ChatPage, rest: str) -> None:
    if rest:
        name, _, value = rest.partition(" ")
        page.sampling = page.sampling.changed(name, value.strip())
    page.said.note(page.sampling.words)


async def _reset(page: ChatPage, _: str) -> None:
    before = page.chat.name
    page.chat.reset()
    page.begin(page.chat)
    await page.said.clear()
    stays = " The system prompt stays." if page.chat.system else ""
    page.said.note(
        f"A new conversation.{stays}" + (f" /load {before} brings the last one back." if before else "")
    )


async def _retry(page: ChatPage, _: str) -> None:
    if not page.chat.question:
        raise UserError("there is nothing to answer again", hint="say something first")
    await page.answer()


async def _edit(page: ChatPage, _: str) -> None:
    if not page.chat.question:
        raise UserError("there is nothing to edit", hint="say something first")
    page.edit()


async def _save(page: ChatPage, rest: str) -> None:
    name = rest or page.chat.name or chats.free_name(page.project)
    path = chats.save(page.project, page.chat, name)
    page.said.note(f"Saved: {path}. /load {path.stem} brings it back.")


async def _load(page: ChatPage, rest: str) -> None:
    names = chats.saved(page.project)
    if not rest:
        page.said.note(_saved_words(page.project, names))
        return
    if rest.isdecimal() and rest not in names and 0 < int(rest) <= len(names):
        rest = names[int(rest) - 1]
    chat = chats.load(page.project, rest)
    unanswered = chat.take_question() if chat.answer is None else ""
    page.begin(chat)
    await page.said.clear()
    await page.show_all()
    if unanswered:
        page.unanswered(unanswered)


def _saved_words(project: Project, names: list[str]) -> str:
    """The latest of them, by the numbers that /load takes."""
    if not names:
        return "No conversation is saved yet."
    rows = list[str]()
    for number, name in enumerate(names[:LISTED], 1):
        try:
            asked = chats.load(project, name).first
        except BadRow:  # told by whoever loads it
            asked = ""
        rows.append(f"{number:>2}  {name}  {asked}")
    more = f"and {len(names) - LISTED} older ones; " if len(names) > LISTED else ""
    return "\n".join([*rows, f"{more}/load 1 goes on with the first of these."])


async def _model(page: ChatPage, rest: str) -> None:
    if page.voices is None:
        raise UserError("the project's models are still being looked for", hint="try again in a moment")
    if rest:
        page.voice, page.beside = page.voices.named(rest), False
        page.load()
        page.said.note(f"From here on {page.voices.words(page.voice)} answers.")
        return
    lines = [f"{'>' if v == page.voice else ' '} {v:<6} {page.voices.words(v)}" for v in page.voices.names]
    page.said.note("\n".join([*lines, "/model NAME changes it."]))


async def _side(page: ChatPage, _: str) -> None:
    if page.beside:
        page.beside = False
        page.said.note(f"Only {page.voice} answers again.")
        return
    if page.voices is None or not page.voices.policy:
        raise UserError(
            "there is nothing to stand next to the base", why="nothing is trained yet",
            hint="train a reward model and then PPO, or DPO",
        )  # fmt: skip
    page.beside = True
    if page.voice == "gguf":
        page.voice = "tuned"
    page.load()
    page.said.note(
        f"Base and tuned answer next to each other; the conversation goes on with {page.voice}. /side ends it."
    )
    if page.chat.answer is not None:
        await page.answer()


async def _better(page: ChatPage, _: str) -> None:
    if page.chat.answer is None:
        raise UserError("there is no answer to better", hint="say something first")
    await page.second()


async def _stats(page: ChatPage, _: str) -> None:
    totals, turns = page.totals, len(page.chat.turns)
    rate = f", {totals.tokens / totals.seconds:.0f} tokens/s with the reading" if totals.seconds else ""
    who = page.voices.words(page.voice) if page.voices else page.voice
    limit = page.ready.context if page.ready else 0
    page.said.note(
        f"{who}\n{turns} messages; heard here: {totals.answers} answers, {totals.tokens} tokens in "
        f"{totals.seconds:.1f} s{rate}\n{conversation.used_words(page.used, limit)}\n{page.sampling.words}"
    )


async def _bye(page: ChatPage, _: str) -> None:
    page.action_leave()


_ALL: dict[str, Callable[[ChatPage, str], Awaitable[None]]] = {
    "help": _help, "system": _system, "set": _set, "reset": _reset, "retry": _retry, "edit": _edit, "save": _save,
    "load": _load, "model": _model, "side": _side, "better": _better, "stats": _stats, "bye": _bye,
}  # fmt: skip
