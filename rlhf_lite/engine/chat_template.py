"""Chat templates as jinja2 runs them: sandboxed, with the functions that Hugging Face templates may call.

A GGUF carries its template as text, so whoever chats with the file needs this and no transformers.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_lite.errors import DataError, UserError


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template. Raises DataError where it is not valid jinja."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    # jinja's own tojson escapes <, > and & for HTML, which a model was never trained on.
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            "the chat template does not compile", why=f"line {error.lineno}: {error.message}"
        ) from error


def render_template(
    template: jinja2.Template, messages: Sequence[dict[str, str]], special: dict[str, str]
) -> str:
    """``messages`` ({"role", "content"}), followed by the start of an answer. ``special``: bos_token, eos_token.

    Raises UserError where the template refuses them (roles out of order, say).
    """
    try:
        return template.render(
            messages=list(messages), tools=None, documents=None, add_generation_prompt=True, **special
        )
    except (jinja2.TemplateError, OverflowError) as error:
        raise UserError("the chat template refuses this conversation", why=str(error)) from error
