"""Prompts as the model will see them, shown before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlhf_lite import paths
from rlhf_lite.engine import text
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.jobs import Session
from rlhf_lite.project import Project, ProjectFile

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "A cup of tea, café?"}]


def make(folder: Path, template: str | None) -> Project:
    """A project on a copy of the built-in model, without weights and with another template."""
    model = folder / "model"
    shutil.copytree(paths.demo_model(), model, ignore=shutil.ignore_patterns("*.safetensors"))
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    return Project.create(folder / "mine", ProjectFile(name="mine", model=str(model), preset="demo"))


def test_a_prompt_is_shown_as_generation_sees_it_and_no_weights_are_needed(tmp_path: Path) -> None:
    project = make(tmp_path, None)
    tokenizer = text.load_tokenizer(project.file.model, trust_remote_code=False, plain_template=False)
    ids = text.prompt_ids(tokenizer, MESSAGES)
    with Session("preview", str(project.root)) as session:
        assert session.receive()["type"] == "ready"
        session.send(type="render", messages=MESSAGES)
        rendered = session.receive()
        assert rendered["text"] == tokenizer.decode(ids)
        assert rendered["tokens"] == len(ids)
        assert rendered["text"].endswith("<|im_start|>assistant\n"), "up to where the answer begins"
        session.send(type="render", messages=[{"role": "user"}])
        with pytest.raises(UserError, match="role"):
            session.receive()
        session.send(type="render", messages=MESSAGES[1:])
        assert session.receive()["tokens"] < len(ids)


@pytest.mark.parametrize(
    ("template", "kind", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}", DataError, "does not compile"),
        ("{{ raise_exception('only a user may speak') }}", UserError, "refuses"),
        ("{{ messages[7].content + 'x' }}", UserError, "refuses"),
    ],
)
def test_a_bad_template_is_an_error_and_the_session_goes_on(
    tmp_path: Path, template: str, kind: type[Exception], expected: str
) -> None:
    with Session("preview", str(make(tmp_path, template).root)) as session:
        session.receive()
        for _ in range(2):
            session.send(type="render", messages=MESSAGES)
            with pytest.raises(kind, match=expected):
                session.receive()


def test_a_model_without_a_tokenizer_is_said_at_once(tmp_path: Path) -> None:
    project = make(tmp_path, None)
    (Path(project.file.model) / "tokenizer.json").write_text(json.dumps({"not": "one"}))
    with Session("preview", str(project.root)) as session, pytest.raises(DataError, match="tokenizer"):
        session.receive()
