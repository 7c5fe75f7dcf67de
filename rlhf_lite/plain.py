"""Labelling and chatting line by line: no screen, no cursor control; works over a pipe, a serial line and Braille."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_lite import chats, config, conversation, jobs
from rlhf_lite.conversation import Conversation
from rlhf_lite.errors import BadRow, JobDied, RlhfLiteError
from rlhf_lite.labels import LabelStore, Message, Question
from rlhf_lite.overview import ChatTarget
from rlhf_lite.project import Project
from rlhf_lite.report import printable
from rlhf_lite.sitting import Choice, Sitting

ASK = "a/b better, A/B much better, t tie, x both bad, s skip, e write a better one, u undo, q quit> "
ASK_BETTER = "the better answer, on one line (empty: back)> "
CHOICES: dict[str, Choice] = {
    "a": "left",
    "A": "left",
    "b": "right",
    "B": "right",
    "t": "tie",
    "x": "both_bad",
    "s": "skip",
}

Say = Callable[[str], None]


def sayer(*, on_stdout: bool) -> Say:
    """Prints a text as it is, at once; on stderr where stdout is kept for JSON."""
    stream = sys.stdout if on_stdout else sys.stderr

    def say(text: str) -> None:
        stream.write(printable(text))
        stream.flush()

    return say


def _ask(say: Say, question: str) -> str | None:
    """A line from stdin, None at its end."""
    say(question)
    line = sys.stdin.readline()
    if not line:
        say("\n")
    return line.strip() if line else None


def label(store: LabelStore, say: Say, limit: int | None) -> dict[str, int]:
    """Ask about each pair that nobody has labelled; each answer is on disk before the next question.

    Returns:
        ``labelled`` (a + b + tie + both_bad), each verdict's number and ``skipped``, of this sitting.
    """
    sitting = Sitting(store, f"person:{config.labeller()}", store.seed, limit=limit)
    offered: int | None = None
    while question := sitting.current:
        figures = sitting.figures()
        place = figures.answered + 1
        _show(say, question, f"pair {place} of {max(place, figures.answered + figures.waiting)}")
        while (key := _ask(say, ASK)) not in (*CHOICES, "e", "u", "q", None):
            say(f"{key!r} is none of the keys\n")
        if key in ("q", None):
            break
        if key == "u":
            if not sitting.undo():
                say("nothing to undo\n")
        elif key == "e":
            _improve(sitting, say)
        else:
            sitting.choose(CHOICES[key], strong=key in ("A", "B"))
        if sitting.milestone not in (None, offered):
            offered = sitting.milestone
            say(f"{offered} pairs are decided: train the reward model and see how well it does\n")
    for warning in sitting.figures().warnings:
        say(f"{warning}\n")
    said = {name: sitting.given[name] for name in ("a", "b", "tie", "both_bad")}
    return {"labelled": sum(said.values()), **said, "skipped": sitting.given["skip"]}


def _improve(sitting: Sitting, say: Say) -> None:
    """Ask for a better answer until there is one, or none is to be given."""
    while text := _ask(say, ASK_BETTER):
        try:
            return sitting.improve(text)
        except BadRow as error:
            say(f"{error.message}: {error.hint}\n")


def _show(say: Say, question: Question, place: str) -> None:
    turns = "\n".join(f"{m['role']}: {m['content']}" for m in question.pair.prompt.messages)
    say(f"\n-- {place} --\n{turns}\n\nA) {question.left}\n\nB) {question.right}\n\n")


def chat(
    target: ChatTarget, say: Say, project: Project | None, *, prompt: str | None, system: str
) -> dict[str, Any]:
    """One answer to ``prompt``, or a conversation on stdin until its end or ``/bye``, saved in ``project``'s chats.

    Returns:
        The last answer as ``answer``, ``reason``, ``tokens`` and ``seconds``, and all ``messages``.
    """
    talk = Conversation()
    talk.system = system
    last: dict[str, Any] = {"answer": ""}
    told = 0  # turns that were said to be left out
    with jobs.Session(target.verb, *target.arguments) as session:
        ready = session.receive()
        if prompt is not None:
            last = _turn(session, say, talk, prompt)
            return {"model": target.name, **last, "messages": talk.messages}
        saving = ", /save NAME names this conversation, /load [NAME] goes on with one" if project else ""
        say(
            f"{ready['name']}: /reset begins anew{saving}, /bye or Ctrl-D ends, Ctrl-C cuts an answer short\n"
        )
        while (line := _ask(say, "\n> ")) is not None and line != "/bye":
            word, _, rest = line.partition(" ")
            try:
                if word == "/reset":
                    talk.reset()
                    told = 0
                elif word in ("/save", "/load") and project is None:
                    say("conversations are saved in a project; this is a file alone\n")
                elif project and word == "/save":
                    say(f"saved as {chats.save(project, talk, rest.strip())}\n")
                elif project and word == "/load":
                    talk, told = _load(project, say, rest.strip()) or talk, 0
                elif line:
                    last = _turn(session, say, talk, line, told)
                    told = int(last["dropped"])
                    if project:
                        chats.keep(project, talk)
            except RlhfLiteError as error:  # the conversation goes on, unless its process is gone
                if isinstance(error, JobDied):
                    raise
                say(f"{error.message}. {error.hint}\n")
    return {"model": target.name, **last, "messages": talk.messages}


def _load(project: Project, say: Say, name: str) -> Conversation | None:
    """The saved conversation of that name, or number, shown to its end; without a name, which there are."""
    names = chats.saved(project)
    if not name:
        listed = [f"{number} {name}\n" for number, name in enumerate(names, 1)]
        say("".join(listed) or "none is saved yet\n")
        return None
    if name.isdigit() and 0 < int(name) <= len(names):
        name = names[int(name) - 1]
    talk = chats.load(project, name)
    if talk.answer is None:
        talk.take_question()  # nobody answered it
    say("".join(f"{m['role']}: {m['content']}\n" for m in talk.messages))
    return talk


def likeliest(file: Path, prompt: str) -> str:
    """The greedy answer to one prompt."""
    with jobs.Session("chat", str(file)) as session:
        session.receive()
        return str(_turn(session, lambda _: None, Conversation(), prompt, temperature=0.0)["answer"])


def _turn(
    session: jobs.Session, say: Say, talk: Conversation, text: str, told: int = 0, **options: float
) -> dict[str, Any]:
    """Ask, print the answer as it comes, and add both to the conversation; Ctrl-C keeps what has come so far. Turns
    left out are told of where they are more than ``told``."""
    asked: list[Message] = [*talk.messages, {"role": "user", "content": text}]
    session.send(type="chat", messages=asked, **options)
    answer = ""
    while True:
        try:
            reply = session.receive()
        except KeyboardInterrupt:
            session.send(type="stop")
            continue
        if reply["type"] == "done":
            break
        answer += reply["text"]
        say(reply["text"])
    say("\n")
    if reply["dropped"] > told:
        say(f"{conversation.dropped_words(reply['dropped'])}\n")
    talk.say(text)
    talk.reply(answer)
    return {"answer": answer, **{k: v for k, v in reply.items() if k != "type"}}


def serve(file: Path, ready: Callable[[str], None], host: str, port: int, api_key: str) -> None:
    """Serve a GGUF file; ``ready`` is told the address. Ends by Ctrl-C, or by JobDied."""
    with jobs.Session("serve", str(file), "--host", host, "--port", str(port)) as session:
        session.send(api_key=api_key)
        ready(session.receive()["url"])
        session.receive()  # it says no more: this waits for its end


def curl(url: str, *, with_key: bool) -> str:
    """A line for a shell that asks the server something."""
    key = ' -H "Authorization: Bearer $RLHF_LITE_API_KEY"' if with_key else ""
    body = '{"messages": [{"role": "user", "content": "Hello"}]}'
    return f"curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
