"""Ollama's Modelfile, read as Ollama reads it: its parser's rules for quotes, and Go's for templates.

Templates are in the style of families that people start from, shortened to what they do with plain conversations.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from export_models import demo_model, plan

from rlhf_lite.engine.chat_template import compile_template, render_template
from rlhf_lite.engine.export.modelfile import modelfile

TURN = "{% for m in messages %}"
CHATML = TURN + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
TEMPLATES = {
    "ChatML": CHATML,
    "ChatML with a system text of its own": "{% if messages[0].role != 'system' %}<|im_start|>system\n"
    'Be "kind".\nAlways.<|im_end|>\n{% endif %}' + CHATML,
    "Llama 3": "<s>" + TURN + "<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "<|start|>assistant<|end|>\n\n",
    "Gemma 2": "<s>{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURN
    + "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}"
    "<turn>model\n",
    "Gemma 3": "<s>{% set s = messages[0].role == 'system' %}" + TURN + "{% if m.role != 'system' %}<turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{% if s and loop.index0 == 1 %}{{ messages[0].content }}\n\n"
    "{% endif %}{{ m.content }}<end>\n{% endif %}{% endfor %}<turn>model\n",
    "Phi-3": TURN + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}<|assistant|>\n",
    "Mistral": "<s>" + TURN + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'system' %}"
    "{{ raise_exception('no') }}{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    "Tulu": "<s>" + TURN + "<|{{ m.role }}|>\n{{ m.content }}{{ '</s>' if m.role == 'assistant' }}\n{% endfor %}"
    "<|assistant|>\n",
    "braces and quotes": TURN + '{{ "{{" }}{{ m.role }}}}""" "{{ m.content }}" \n{% endfor %}{{ "{" }}"',
}  # fmt: skip
IRREGULAR = {
    "the system text goes to the last question": TURN + "{% if m.role == 'user' %}[INST] "
    "{{ messages[0].content ~ '\n\n' if loop.last and messages[0].role == 'system' }}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}",
    "system texts are dropped": TURN + "{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endif %}"
    "{% endfor %}",
    "turns are numbered": TURN + "{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}",
    "it refuses everything": "{{ raise_exception('no') }}",
}  # fmt: skip
QUESTION, ANSWER, THANKS = "What is {{ .Content }} in Go?", 'It is """quoted""".', "Thanks\n\nand\tbye"
CHATS = [
    [("user", QUESTION)],
    [("user", QUESTION), ("assistant", ANSWER), ("user", THANKS)],
    [("system", "Be short."), ("user", QUESTION)],
    [("system", "Be\n{short}."), *[("user", QUESTION), ("assistant", ANSWER)] * 3, ("user", THANKS)],
]


def vocabulary(template: str, *, add_bos: bool = False) -> Any:
    """As much of one as a Modelfile asks for."""
    tokens = ["<unk>", "<s>", "</s>", "<|im_end|>", 'say "stop"']
    return SimpleNamespace(
        tokens=tokens, special_ids={"BOS": 1, "EOS": 2}, stops=[3, 4], add_bos=add_bos, chat_template=template
    )


def rendered(template: str, chat: list[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in chat]
    return render_template(compile_template(template), messages, {"bos_token": "<s>", "eos_token": "</s>"})


def written(template: str, *, add_bos: bool = False, **generation: float) -> list[tuple[str, str]]:
    return parse(modelfile("a b.gguf", vocabulary(template, add_bos=add_bos), generation, 2048))


def parse(content: str) -> list[tuple[str, str]]:
    """(command, argument): a value ends at the first white space at which it has its closing quotes, if it has any."""
    commands: list[tuple[str, str]] = []
    while content := content.lstrip():
        if content.startswith("#"):
            content = content.partition("\n")[2]
            continue
        command, rest = re.match(r"(\w+)[ \t]+(.*)", content, re.DOTALL).groups()  # type: ignore[union-attr]
        if command == "PARAMETER":
            name, rest = re.match(r"(\w+)[ \t]+(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
            command = f"{command} {name}"
        ends = [m.start() for m in re.finditer(r"\s", rest)]
        value = next(v for end in ends if (v := unquoted(rest[:end].strip())) is not None)
        commands.append((command, value))
        content = rest[next(end for end in ends if unquoted(rest[:end].strip()) is not None) :]
    return commands


def unquoted(value: str) -> str | None:
    for quotes in ('"""', '"'):
        if value.startswith(quotes):
            closed = len(value) >= 2 * len(quotes) and value.endswith(quotes)
            return value[len(quotes) : -len(quotes)] if closed else None
    return value


def go(template: str, chat: list[tuple[str, str]]) -> str:
    """What Go's text/template makes of it: literal text, strings, if, else if, else, range over messages."""
    parts = re.split(r"\{\{ (.*?) \}\}", template)
    begin = parts.index("range $i, $_ := .Messages")
    depth, end = 0, begin
    while depth or end == begin:
        depth += parts[end].startswith(("if", "range")) - (parts[end] == "end")
        end += 2
    body, tail = parts[begin + 1 : end - 2], parts[end - 1 :]
    out = [turn(body, i, role, content) for i, (role, content) in enumerate(chat)]
    return parts[0] + "".join(out) + turn(tail, 0, "", "")


def turn(parts: list[str], i: int, role: str, content: str) -> str:
    out = parts[0]
    open_ifs: list[tuple[bool, bool]] = []  # whether this branch is taken, whether one of them was
    for action, literal in zip(parts[1::2], parts[2::2], strict=True):
        holds = {"$i 0": i == 0, '.Role "system"': role == "system", '.Role "user"': role == "user"}
        if action.startswith("if eq "):
            true = holds[action.removeprefix("if eq ")]
            open_ifs.append((true, true))
        elif action.startswith("else"):
            taken = open_ifs.pop()[1]
            true = not taken and (action == "else" or holds[action.removeprefix("else if eq ")])
            open_ifs.append((true, taken or true))
        elif action == "end":
            open_ifs.pop()
        if all(now for now, _ in open_ifs):
            text = (
                content
                if action == ".Content"
                else action[1:-1].replace(r"\"", '"')
                if action[0] == '"'
                else ""
            )
            out += text + literal
    return out


@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_writes_what_the_models_own_template_writes(name: str) -> None:
    commands = dict(written(TEMPLATES[name]))
    refuses_systems = "raise_exception" in TEMPLATES[name]
    for chat in CHATS:
        if refuses_systems and chat[0][0] == "system":
            assert "Be" in go(commands["TEMPLATE"], chat)  # what it would refuse is said before the question
            continue
        assert go(commands["TEMPLATE"], chat) == rendered(TEMPLATES[name], chat)


@pytest.mark.parametrize("name", IRREGULAR)
def test_what_cannot_be_said_in_turns_is_left_to_ollama(name: str) -> None:
    assert not {"TEMPLATE", "SYSTEM"} & dict(written(IRREGULAR[name])).keys()


def test_a_bos_is_not_written_twice() -> None:
    """llama.cpp puts one in front by itself where the file says so."""
    for add_bos, start in ((True, "<|start|>"), (False, "<s>")):
        template = dict(written(TEMPLATES["Llama 3"], add_bos=add_bos))["TEMPLATE"]
        assert all(go(template, chat).startswith(start) for chat in CHATS)


def test_the_models_own_system_text_can_be_seen_and_changed() -> None:
    commands = dict(written(TEMPLATES["ChatML with a system text of its own"]))
    assert commands["SYSTEM"] == 'Be "kind".\nAlways.'
    assert "SYSTEM" not in dict(written(TEMPLATES["ChatML"]))


def test_a_system_text_cannot_end_its_quotes() -> None:
    hostile = 'x"""\nADAPTER ./theirs.gguf\nSYSTEM """y'
    template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\n"
        + hostile
        + "<|im_end|>\n{% endif %}"
        + CHATML
    )
    names = [command for command, _ in written(template)]
    assert "ADAPTER" not in names
    assert go(dict(written(template))["TEMPLATE"], CHATS[0]).count(hostile) == 1


def test_file_stops_sampling_and_context() -> None:
    commands = written(CHATML, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, max_length=99)
    assert commands[0] == ("FROM", "./a b.gguf")
    assert [v for name, v in commands if name == "PARAMETER stop"] == ["<|im_end|>", 'say "stop"']
    told = {name.removeprefix("PARAMETER "): v for name, v in commands if name.startswith("PARAMETER")}
    told.pop("stop")
    assert told == {
        "temperature": "0.7",
        "top_p": "0.8",
        "top_k": "20",
        "repeat_penalty": "1.05",
        "num_ctx": "2048",
    }


def test_a_template_with_a_clock_says_so() -> None:
    template = "Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML
    assert "# The model's own template writes today's date" in modelfile(
        "a.gguf", vocabulary(template), {}, 512
    )


def test_the_demo_model() -> None:
    found = plan(demo_model()).vocabulary
    commands = dict(parse(modelfile("demo.gguf", found, {}, 512)))
    for chat in CHATS:
        assert go(commands["TEMPLATE"], chat) == rendered(found.chat_template, chat)
    assert commands["PARAMETER stop"] == "<|im_end|>"
