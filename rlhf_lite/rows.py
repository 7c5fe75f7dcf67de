"""What one row of preference data means. A row is known by its columns, whatever file it stands in:

========================================  =============================================================
prompt, chosen, rejected                  TRL explicit (text), conversational (messages), UltraFeedback
chosen, rejected                          TRL implicit (the prompt is how both begin), Anthropic HH
prompt, response_0/1, better_response_id  PKU-SafeRLHF; ``safer_response_id`` where the better is missing
prompt, response, is_safe                 BeaverTails
prompt, completion, label                 unpaired (KTO); without a label it is an example to imitate
========================================  =============================================================

In an HH dialogue, turns of one speaker in a row are one turn, and an empty answer is an answer (it can be the
preferred one). A text prompt that is such a dialogue, up to a last ``Assistant:``, is read as its turns.
"""

from __future__ import annotations

import math
import re
from typing import Any, cast

from rlhf_lite.errors import BadRow
from rlhf_lite.labels import Message, Preference, Rating

_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")


def parse(record: object) -> Preference | Rating:
    """Raises BadRow, its message the reason."""
    row = columns(record)
    has = row.keys()
    if has >= {"prompt", "response_0", "response_1"}:
        return _preference(prompt_of(row["prompt"]), *_two_responses(row))
    if has >= {"chosen", "rejected"}:
        return _preference(*_chosen_rejected(row), _margin(row))
    if has >= {"prompt", "response", "is_safe"}:
        return _rating(row["prompt"], row["response"], _flag(row, "is_safe"))
    if has >= {"prompt", "completion"}:
        return _rating(row["prompt"], row["completion"], _flag(row, "label") if "label" in has else None)
    raise BadRow(f"no known format has just these columns: {', '.join(sorted(has)) or 'none'}")


def columns(record: object) -> dict[str, Any]:
    """The columns that hold something: in a table of several sources, those of the others are null."""
    if isinstance(record, BadRow):
        raise record
    if not isinstance(record, dict):
        raise BadRow("not a JSON object")
    return {k: v for k, v in cast("dict[str, Any]", record).items() if v is not None}


def _preference(prompt: list[Message], chosen: str, rejected: str, margin: float = 0.0) -> Preference:
    if _text(chosen, "chosen").strip() == _text(rejected, "rejected").strip():
        raise BadRow("chosen and rejected are the same text")
    return Preference(prompt, chosen, rejected, margin)


def _rating(prompt: object, completion: object, good: bool | None) -> Rating:
    if not isinstance(completion, str):
        completion = _answer(_messages(completion, "completion")[:1], "completion")
    if not _text(completion, "completion").strip() and good is None:
        raise BadRow("empty completion")
    return Rating(prompt_of(prompt), _spoken(prompt, completion), good)


def _two_responses(row: dict[str, Any]) -> tuple[Any, Any]:
    name = "better_response_id" if "better_response_id" in row else "safer_response_id"
    better = row.get(name)
    if better not in (0, 1):
        raise BadRow(f"{name} is {better!r}, neither 0 nor 1")
    responses = row["response_0"], row["response_1"]
    return responses[int(better)], responses[1 - int(better)]


def _chosen_rejected(row: dict[str, Any]) -> tuple[list[Message], Any, Any]:
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is not None:
            return prompt_of(prompt), _spoken(prompt, chosen), _spoken(prompt, rejected)
        if not (_TURN.search(chosen) and _TURN.search(rejected)):
            return _shared_text(chosen, rejected)
        good, bad = _turns(chosen), _turns(rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        good, bad = _messages(row["chosen"], "chosen"), _messages(row["rejected"], "rejected")
        if prompt is not None and len(good) == len(bad) == 1:
            return prompt_of(prompt), _answer(good, "chosen"), _answer(bad, "rejected")
    else:
        raise BadRow("chosen and rejected must both be text or both be lists of messages")
    answers = _answer(good, "chosen"), _answer(bad, "rejected")
    if good[:-1] != bad[:-1]:
        raise BadRow("prompts differ between chosen and rejected")
    shared = prompt_of(good[:-1])
    # UltraFeedback repeats the first question as its prompt.
    if prompt is not None and prompt != shared and prompt not in [m["content"] for m in shared]:
        raise BadRow("the prompt is not what chosen and rejected begin with")
    return shared, *answers


def _shared_text(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    differ = next((i for i, (x, y) in enumerate(zip(chosen, rejected, strict=False)) if x != y), None)
    start = chosen[:differ] if differ is not None else min(chosen, rejected, key=len)
    cut = max(start.rfind(" "), start.rfind("\n")) + 1  # not within a word that both begin alike
    if not start[:cut].strip():
        raise BadRow("chosen and rejected have no start in common to be the prompt")
    return prompt_of(start[:cut].rstrip()), chosen[cut:], rejected[cut:]


def _turns(dialogue: str) -> list[Message]:
    """``\\n\\nHuman: ... \\n\\nAssistant: ...`` as messages; text before the first turn is the system's."""
    before, *rest = _TURN.split("\n\n" + _text(dialogue, "the dialogue").lstrip())
    messages = [{"role": "system", "content": before.strip()}] if before.strip() else []
    for speaker, text in zip(rest[::2], rest[1::2], strict=True):
        role = _SPEAKERS[speaker]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{text.strip()}".strip()
        else:
            messages.append({"role": role, "content": text.strip()})
    return messages


def prompt_of(value: object) -> list[Message]:
    """A prompt from text or messages. Raises BadRow."""
    if not isinstance(value, str):
        messages = _messages(value, "prompt")
    elif is_dialogue(value):
        messages = _turns(value)[:-1]
    else:
        messages = [{"role": "user", "content": _text(value, "prompt")}]
    if not any(m["content"].strip() for m in messages):
        raise BadRow("empty prompt")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise BadRow("the prompt does not end with a question by the user")
    return messages


def is_dialogue(prompt: object) -> bool:
    return isinstance(prompt, str) and prompt.rstrip().endswith("\n\nAssistant:")


def _spoken(prompt: object, answer: str) -> str:
    """The answer without the space that parts it from ``Assistant:``, where that is how the prompt ends."""
    return answer.removeprefix(" ") if is_dialogue(prompt) else answer


def _messages(value: object, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise BadRow(
            f"{name} is missing" if value is None else f"{name} is neither text nor a list of messages"
        )
    messages = list[Message]()
    for message in cast("list[Any]", value):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise BadRow(f"{name} has a message without role and content")
        role, content = cast("dict[str, Any]", message)["role"], cast("dict[str, Any]", message)["content"]
        if role not in ("system", "user", "assistant"):
            raise BadRow(f"{name} has the role {role!r}; known are system, user, assistant")
        messages.append({"role": role, "content": _text(content, name)})
    return messages


def _answer(messages: list[Message], name: str) -> str:
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow(f"{name} does not end with an answer by the assistant")
    return messages[-1]["content"]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{name} is {type(value).__name__}, not text")
    if "\0" in value:
        raise BadRow(f"{name} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} is not valid Unicode: half of a surrogate pair") from None
    return value


def _flag(row: dict[str, Any], name: str) -> bool:
    if not isinstance(row[name], int) or row[name] not in (0, 1):
        raise BadRow(f"{name} is {row[name]!r}, neither true nor false")
    return bool(row[name])


def _margin(row: dict[str, Any]) -> float:
    margin = row.get("margin", 0.0)
    if not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise BadRow(f"margin is {margin!r}, not a number from 0 up")
    return float(margin)
