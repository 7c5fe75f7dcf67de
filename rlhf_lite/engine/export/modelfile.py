"""Ollama's Modelfile: which file, how a conversation is written, what ends an answer, how to sample.

Ollama does not read the template that a GGUF carries: it has Go templates of its own, and takes the one that looks
most alike where TEMPLATE is missing. So TEMPLATE is made from what the model's own template *does*: conversations of
words that are looked for again show what it writes before a system text, before a question, before and after an
answer. What was found is then held against the model's own template on other conversations. Where one differs (a
system text that moves to the last question, say), TEMPLATE is left out. No family has to be known by name.

Not expressible in Ollama, and so not kept: white space that some templates cut off at the ends of a message. A
template that writes today's date gets that of the export, which is about what the model was tuned with. Where a
template refuses system texts, one stands before the first question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_lite.engine.chat_template import compile_template, render_template
from rlhf_lite.engine.export.vocab import Vocabulary
from rlhf_lite.errors import UserError

Messages = Sequence[dict[str, str]]
Render = Callable[[Messages], str]
"""A conversation as the model reads it, ready for an answer. Raises UserError where the template refuses it."""

_SYSTEM, _FIRST, _ANSWER, _SECOND = "systemtext", "firstquestion", "firstanswer", "secondquestion"
_TRIALS = (
    ("user", "Why is the sky blue?"), ("assistant", "Light is\n\nscattered."), ("user", "1 < 2, isn't it?"),
    ("assistant", "Yes: {1} \"and\" [2]."), ("user", "Go on"),
)  # fmt: skip
_SAMPLING = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}  # fmt: skip
_QUOTES = '"""'  # Ollama knows no escape for them


@dataclass(frozen=True)
class Turns:
    """What a template writes around the messages of a conversation."""

    before_system: str
    after_system: str
    before_first: str
    """Before a first question that no system text precedes."""
    before_answer: str
    after_answer: str
    end: str

    def render(self, messages: Messages) -> str:
        """The same as the Go template of :meth:`go`."""
        parts: list[str] = []
        for i, message in enumerate(messages):
            before, after = {
                "system": (self.before_system, self.after_system),
                "user": ("" if i else self.before_first, ""),
                "assistant": (self.before_answer, self.after_answer),
            }[message["role"]]
            parts += [before, message["content"], after]
        return "".join(parts) + self.end

    def go(self) -> str:
        """As Ollama's Go template."""
        first = f"{{{{ if eq $i 0 }}}}{_literal(self.before_first)}{{{{ end }}}}"
        turns = {
            'if eq .Role "system"': (_literal(self.before_system), _literal(self.after_system)),
            'else if eq .Role "user"': (first, ""),
            "else": (_literal(self.before_answer), _literal(self.after_answer)),
        }
        body = "".join(f"{{{{ {when} }}}}{a}{{{{ .Content }}}}{b}" for when, (a, b) in turns.items())
        return f"{{{{ range $i, $_ := .Messages }}}}{body}{{{{ end }}}}{{{{ end }}}}{_literal(self.end)}"

    @property
    def own_system(self) -> str:
        """The system text that the template puts in by itself."""
        if len(self.before_first) <= len(self.before_system) + len(self.after_system):
            return ""
        around = self.before_first.startswith(self.before_system) and self.before_first.endswith(
            self.after_system
        )
        return self.before_first[len(self.before_system) : -len(self.after_system) or None] if around else ""


def find_turns(render: Render) -> Turns | None:
    """What a template writes around messages; None where it does not do so regularly."""
    try:
        plain = _between(render(_talk(("user", _FIRST))), _FIRST)
        more = _between(
            render(_talk(("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND))),
            _FIRST,
            _ANSWER,
            _SECOND,
        )
        trials = [_talk(*_TRIALS[:n]) for n in (1, 3, 5)]
        if len(plain) != 2 or len(more) != 4:
            return None
        found = Turns(plain[0], "\n\n", plain[0], more[1], more[2], plain[1])
        asked = _talk(("system", _SYSTEM), ("user", _FIRST))
        try:
            system = _between(render(asked), _SYSTEM, _FIRST)
        except UserError:
            return found if all(render(t) == found.render(t) for t in trials) else None
        if len(system) != 3:
            return None
        found = replace(found, before_system=system[0], after_system=system[1])
        trials += [_talk(("system", "Be short.\nBe kind."), *_TRIALS[:n]) for n in (1, 3, 5)]
        return found if all(render(t) == found.render(t) for t in trials) else None
    except UserError:
        return None


def modelfile(file_name: str, vocabulary: Vocabulary, generation: Mapping[str, Any], context: int) -> str:
    """The text of a Modelfile for a file of this vocabulary. ``generation``: the base's generation_config.json;
    ``context``: the longest conversation, in tokens.
    """
    own = find_turns(_renderer(vocabulary))
    lines = [f"FROM {_quoted(f'./{file_name}')}"]
    if "strftime_now" in vocabulary.chat_template and own:
        lines.append("# The model's own template writes today's date; here it is that of the export.")
    if own:
        bos = _token(vocabulary, "BOS") if vocabulary.add_bos else ""  # llama.cpp puts it in front by itself
        own = replace(
            own,
            before_system=own.before_system.removeprefix(bos),
            before_first=own.before_first.removeprefix(bos),
        )
        lines.append(f"TEMPLATE {_QUOTES}{own.go()}{_QUOTES}")
        if own.own_system and _QUOTES not in own.own_system:
            lines.append(f"SYSTEM {_QUOTES}{own.own_system}{_QUOTES}")
    ends = [vocabulary.tokens[token] for token in vocabulary.stops]
    lines += [f"PARAMETER stop {_parameter(end)}" for end in ends if _QUOTES not in end]
    for theirs, ollamas in _SAMPLING.items():
        value = generation.get(theirs)
        if isinstance(value, int | float) and not isinstance(value, bool):
            lines.append(f"PARAMETER {ollamas} {value}")
    return "\n".join([*lines, f"PARAMETER num_ctx {context}"]) + "\n"


def _renderer(vocabulary: Vocabulary) -> Render:
    """The template that the file carries, as llama.cpp would be asked to write with it."""
    template = compile_template(vocabulary.chat_template)
    special = {"bos_token": _token(vocabulary, "BOS"), "eos_token": _token(vocabulary, "EOS")}
    return lambda messages: render_template(template, messages, special)


def _token(vocabulary: Vocabulary, name: str) -> str:
    return vocabulary.tokens[vocabulary.special_ids[name]] if name in vocabulary.special_ids else ""


def _talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def _between(rendered: str, *words: str) -> list[str]:
    """What is written before, between and after these words; nothing where they are not there once each, in order."""
    return re.split("|".join(words), rendered) if re.findall("|".join(words), rendered) == list(words) else []


def _literal(words: str) -> str:
    """Text as it stands in a Go template inside of three quotes: braces would begin an action, three quotes end it."""
    return re.sub(r'[{]|"""', lambda found: '{{ "' + found[0].replace('"', r"\"") + '" }}', words)


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value


def _parameter(value: str) -> str:
    quotes = _QUOTES if '"' in value else '"'
    return f"{quotes}{value}{quotes}"
