"""Prompts as the model reads them, asked of a session that loads the tokenizer and no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from rlhf_lite import jobs, report
from rlhf_lite.labels import Message, Prompt

EXAMPLES = 4
LINES = 8  # of one example; a chat template with a long system message would fill the page
Rendered = tuple[str, int]
"""The text up to where the answer begins, and how many tokens that is."""


def examples(prompts: Sequence[Prompt]) -> list[list[Message]]:
    """The newest and the oldest prompts."""
    half = EXAMPLES // 2
    chosen = list(prompts) if len(prompts) <= EXAMPLES else [*prompts[-half:], *prompts[:half]]
    return [p.messages for p in chosen]


def rendered(project: Path, wanted: Sequence[list[Message]]) -> list[Rendered]:
    """Takes seconds, most of them for loading; belongs into a thread.

    Raises:
        RlhfLiteError: the model is not here, or its chat template fails; in the session's own words.
    """
    with jobs.Session("preview", str(project)) as session:
        session.receive()  # "ready"
        found: list[Rendered] = []
        for messages in wanted:
            session.send(type="render", messages=messages)
            reply = session.receive()
            found.append((str(reply["text"]), int(reply["tokens"])))
    return found


def drawn(found: Sequence[Rendered]) -> Text:
    """The examples, one below the other; template marks and the text of a stranger are shown as they are."""
    text = Text("How the model reads them, its chat template applied:\n", "bold")
    for number, (content, tokens) in enumerate(found, 1):
        lines = report.printable(content).splitlines()
        text.append(f"{number}  {tokens} tokens\n", "not bold dim")
        for line in lines[:LINES]:
            text.append(f"   {line}\n", "not bold")
        if len(lines) > LINES:
            text.append(f"   and {len(lines) - LINES} more lines\n", "not bold dim")
    return text
