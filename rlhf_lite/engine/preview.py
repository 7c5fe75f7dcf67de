"""Prompts as training and generation see them, over pipes: ``python -m rlhf_lite.engine preview PROJECT_DIR``.

Requests: {"type": "render", "messages": [...]}. Replies: "ready" once, then {"type": "rendered", "text", "tokens"},
the text up to where the answer begins and how many tokens it has, or one "error". Loads the tokenizer and no weights.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_lite import hub
from rlhf_lite.engine import session
from rlhf_lite.project import Project


def main(argv: list[str]) -> int:
    """``preview PROJECT_DIR``"""
    project = Project.open(Path(argv[0]))
    file = project.file
    folder = hub.require(file.model, shlex.join(["rlhf-lite", "download", str(project.root)]))

    from rlhf_lite.engine import text  # torch, which takes seconds: what is refused above is refused at once

    tokenizer = text.load_tokenizer(
        str(folder), trust_remote_code=file.trust_remote_code, plain_template=file.plain_template
    )

    def answer(request: dict[str, Any], stop: threading.Event) -> Iterator[session.Reply]:
        rendered = text.render(tokenizer, session.messages_of(request, "render"))
        yield {"type": "rendered", "text": rendered, "tokens": len(text.encode(tokenizer, rendered))}

    session.send(sys.stdout.buffer, {"type": "ready", "name": file.name})
    session.converse(sys.stdin.buffer, sys.stdout.buffer, answer)
    return 0
