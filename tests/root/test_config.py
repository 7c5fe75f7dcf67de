from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from command_line import Command, refused

from rlhf_lite import config, paths, toml_edit
from rlhf_lite.errors import SettingsError
from rlhf_lite.project import Project, ProjectFile


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file and a state folder of the test's own."""
    monkeypatch.setenv("RLHF_LITE_CONFIG", str(tmp_path / "config" / "config.toml"))
    monkeypatch.setenv("RLHF_LITE_STATE", str(tmp_path / "state"))
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "config.toml"


MINE = """\
# My settings.
theme = "nord"   # easy on the eyes
ascii = true

[keys]  # Dvorak
"label.left" = "1,h"
'label.right' = 'l'
"""


def test_without_a_file_everything_is_a_default(file: Path) -> None:
    assert config.load() == config.AppConfig()
    assert config.load().notify
    assert config.projects_folder() == paths.projects()
    assert not file.exists()
    assert not paths.projects().exists() or paths.projects().is_dir()


def test_the_file_is_read_and_the_environment_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(MINE)
    assert config.load().keys == {"label.left": "1,h", "label.right": "l"}
    monkeypatch.setenv("RLHF_LITE_THEME", "gruvbox")
    monkeypatch.setenv("RLHF_LITE_ASCII", "0")
    monkeypatch.setenv("RLHF_LITE_NOTIFY", "No")
    monkeypatch.setenv("RLHF_LITE_PROJECTS", "~/models")
    monkeypatch.setenv("RLHF_LITE_KEY_SET", "")
    found = config.load()
    assert (found.theme, found.ascii, found.notify, found.key_set) == ("gruvbox", False, False, "default")
    assert config.projects_folder() == Path.home() / "models"


def test_every_value_is_shown_with_its_origin(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(MINE + "\n")
    monkeypatch.setenv("RLHF_LITE_ASCII", "off")
    found = config.described()
    assert set(config.AppConfig.__struct_fields__) < set(found)
    assert found["theme"] == {"value": "nord", "from": str(file)}
    assert found["ascii"] == {"value": "false", "from": "RLHF_LITE_ASCII"}
    assert found["notify"] == {"value": "true", "from": "default"}
    assert found["keys"] == {"value": "label.left = 1,h  label.right = l", "from": str(file)}
    assert found["projects"] == {"value": str(paths.projects()), "from": "default"}
    file.write_text("notify = true\n")
    assert config.described()["notify"]["from"] == str(file)


def test_the_command_shows_every_setting(command: Command, file: Path) -> None:
    file.write_text('key_set = "vim"\n')
    assert command("config", "show", "--json").json["key_set"] == {"value": "vim", "from": str(file)}
    text = command("config", "show")
    assert text.code == 0
    assert all(name in text.out for name in config.AppConfig.__struct_fields__)


@pytest.mark.parametrize("line", ['key_set = "emacs"', 'ascii = "yes"', "theme = 3", "keys = 3"])
def test_a_wrong_value_is_refused_with_the_file(command: Command, file: Path, line: str) -> None:
    file.write_text(line)
    refused(command("config", "show"), 2, str(file), "rlhf-lite config edit")


@pytest.mark.parametrize(
    ("variable", "value"), [("RLHF_LITE_ASCII", "maybe"), ("RLHF_LITE_KEY_SET", "emacs")]
)
def test_a_wrong_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        config.load()


def test_setting_a_value_keeps_every_other_line(file: Path) -> None:
    file.write_text(MINE)
    config.set_value("theme", 'a "b" \\ c')
    config.set_value("ascii", False)
    config.set_value("keys.label.right", "2,l")
    config.set_value("keys.label.tie", "t")
    config.set_value("notify", False)
    assert (
        file.read_text()
        == """\
# My settings.
theme = "a \\"b\\" \\\\ c"   # easy on the eyes
ascii = false
notify = false

[keys]  # Dvorak
"label.left" = "1,h"
'label.right' = "2,l"
"label.tie" = "t"
"""
    )
    assert config.load().theme == 'a "b" \\ c'
    for name in ("theme", "ascii", "notify", "keys.label.left", "keys.label.right", "keys.label.tie"):
        config.set_value(name, None)
    assert config.load() == config.AppConfig()
    assert "# My settings." in file.read_text()


def test_the_first_value_makes_the_file_with_its_explanations(file: Path) -> None:
    file.parent.rmdir()
    config.set_value("key_set", "vim")
    config.set_value("keys.label.left", "1,h")
    lines = file.read_text().splitlines()
    assert lines[lines.index('key_set = "vim"') - 1].startswith("# key_set")
    assert config.load() == config.AppConfig(key_set="vim", keys={"label.left": "1,h"})


@pytest.mark.parametrize(
    "text",
    [
        'theme = """\nnord"""\n',
        'keys = {"label.tie" = "t"}\n',
        'keys."label.tie" = "t"\n',
        'name = """\n[keys]\n"""\n',
    ],
    ids=["lines", "inline", "dotted", "header in a text"],
)
def test_what_only_a_person_can_edit_is_refused_and_left_alone(file: Path, text: str) -> None:
    file.write_text(text)
    name = "theme" if text.startswith("theme") else "keys.label.left"
    with pytest.raises(SettingsError) as caught:
        config.set_value(name, "x")
    assert "config edit" in caught.value.hint
    assert file.read_text() == text


def test_a_quoted_line_that_looks_like_a_setting_is_none(file: Path) -> None:
    text = "name = '''\ntheme = \"a\"\n'''\n"
    file.write_text(text)
    with pytest.raises(SettingsError):
        config.set_value("theme", "b")
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("name", "value"), [("thme", "x"), ("key_set", "emacs"), ("ascii", "yes"), ("keys", "x"), ("theme", True)]
)
def test_a_wrong_change_changes_nothing(file: Path, name: str, value: str | bool) -> None:
    file.write_text(MINE)
    with pytest.raises(SettingsError):
        config.set_value(name, value)
    assert file.read_text() == MINE


def test_a_damaged_file_is_not_touched(file: Path) -> None:
    file.write_text("theme = \n")
    with pytest.raises(SettingsError):
        config.set_value("theme", "x")
    assert file.read_text() == "theme = \n"


def test_a_link_stays_a_link_and_windows_lines_stay_so(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfile.toml"
    real.write_bytes(b'# mine\r\ntheme = "a"\r\n')
    file.symlink_to(real)
    config.set_value("theme", "b")
    config.set_value("ascii", True)
    assert file.is_symlink()
    assert real.read_bytes() == b'# mine\r\ntheme = "b"\r\nascii = true\r\n'


@pytest.mark.parametrize(
    "text", ["", "# only words", 'a = "1"', "\n\n", "# words\n\n# [keys]\n# x = 1\n[keys]\n"]
)
@pytest.mark.parametrize("table", ["", "keys"])
def test_a_value_finds_its_place_in_any_text(text: str, table: str) -> None:
    made = toml_edit.with_value(text, table, "x", "é")
    assert made is not None
    assert tomllib.loads(made) == toml_edit.changed(tomllib.loads(text), table, "x", "é")
    assert [line for line in text.splitlines() if line not in made.splitlines()] == []
    gone = toml_edit.with_value(made, table, "x", None)
    assert gone is not None
    assert "é" not in gone


def opened(folder: Path) -> Path:
    return Project.create(folder, ProjectFile(name=folder.name, model="demo")).root


def test_recent_projects_are_those_opened_last(tmp_path: Path) -> None:
    assert config.recent() == []
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two ü")
    for path in (one, two, one):
        config.remember(path)
    assert config.recent() == [one, two]
    (two / "project.toml").unlink()
    assert config.recent() == [one]


def test_twenty_projects_are_remembered(tmp_path: Path) -> None:
    found = [opened(tmp_path / f"p{n}") for n in range(23)]
    for path in found:
        config.remember(path)
    assert config.recent() == found[:2:-1]


@pytest.mark.parametrize("text", ["", "{", "3", '{"a": 1}', '[1, null, "/gone", "\\u0000"]', "\xff"])
def test_a_damaged_list_of_projects_is_no_fault(tmp_path: Path, text: str) -> None:
    path = opened(tmp_path / "one")
    config.remember(path)
    (tmp_path / "state" / "recent.json").write_bytes(text.encode("latin-1"))
    assert config.recent() == []
    config.remember(path)
    assert config.recent() == [path]
    assert json.loads((tmp_path / "state" / "recent.json").read_text()) == [str(path)]


def test_a_state_folder_that_cannot_be_made_keeps_nobody_from_working(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    config.remember(opened(tmp_path / "one"))
    assert config.recent() == []
