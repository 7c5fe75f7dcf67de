"""Chat templates as jinja2 runs them: sandboxed, with the functions that Hugging Face templates may call.

A GGUF carries its template as text, so whoever chats with the file needs this and no transformers. It is a stranger's
program: it reaches nothing but the conversation, may raise anything, and gets so much memory and processor time. One
that goes on all the same ends the process, by the kernel's hand: nothing else stops a single step of Python's own C.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_lite.errors import DataError, UserError

MEMORY = 2**28  # bytes that a template may take; a long conversation takes one
SECONDS = 2  # of the processor; SIGPROF ends the process then
LENGTH = 2**20  # characters that it may write of its own; what is said may come up to four times


@contextmanager
def _bounded() -> Generator[None]:
    """Nobody else in this process may be at work meanwhile: the limits are the whole process's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template. Raises DataError where it is not valid jinja, or cannot be compiled in bounds."""

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
        with _bounded():
            return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            "the chat template does not compile", why=f"line {error.lineno}: {error.message}"
        ) from error
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, ValueError) as error:
        raise DataError("the chat template does not compile", why=_words(error)) from error


def render_template(
    template: jinja2.Template, messages: Sequence[dict[str, str]], special: dict[str, str]
) -> str:
    """``messages`` ({"role", "content"}), followed by the start of an answer. ``special``: bos_token, eos_token.

    Raises UserError where the template refuses them (roles out of order, say), fails, or goes out of bounds.
    """
    try:
        with _bounded():
            text = template.render(
                messages=list(messages), tools=None, documents=None, add_generation_prompt=True, **special
            )
    except Exception as error:  # see the module's docstring
        raise UserError("the chat template refuses this conversation", why=_words(error)) from error
    if len(text) > LENGTH + 4 * sum(len(message["content"]) for message in messages):
        raise UserError("the chat template refuses this conversation", why="it writes without end")
    return text


def _words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"it takes more than {MEMORY // 2**20} MB"
    return str(error)[:300] or type(error).__name__
