"""The app's own settings: a small TOML file of the user, each value with where it comes from.

An environment variable ``RLHF_LITE_<NAME>`` wins over the file. One value is changed by editing its line alone, so
that comments and order stay the user's; where that cannot be done safely it is refused. Beside the settings, in the
state folder, stands which projects were opened last: a convenience, whose loss is no fault.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from rlhf_lite import paths, settings, toml_edit
from rlhf_lite.errors import SettingsError, ToolMissing

_TEMPLATE = """\
# Settings of rlhf-lite. Remove the # to set a value; `rlhf-lite config show` says what is in force.

# name = ""            # who labels; kept beside each label (else your login name)
# default_preset = ""  # preset of new projects (else "default", and "demo" on the demo model)
# projects = ""        # folder where the app puts new projects
# theme = ""           # colours of the app; ctrl+t tries them
# key_set = "default"  # or "vim", or "left-hand"
# ascii = false        # no line drawing and no Braille, for fonts and readers without them
# notify = true        # bell and desktop notification when a job ends

# [keys]               # keys of the app by action; its help lists the actions
# "label.left" = "1,h"
"""
RECENT = 20
_HINT = "mend it: rlhf-lite config edit"


class AppConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``config.toml``; an empty string means that the built-in default holds."""

    name: str = ""
    default_preset: str = ""
    projects: str = ""
    theme: str = ""
    key_set: Literal["default", "vim", "left-hand"] = "default"
    ascii: bool = False
    notify: bool = True
    keys: dict[str, str] = {}
    """Action → keys, comma between alternatives."""


def load() -> AppConfig:
    """The user's settings with what the environment sets on top, or the defaults where there is neither.

    Raises:
        SettingsError: the file is damaged, or a variable's value is wrong; says where.
    """
    values: dict[str, Any] = msgspec.structs.asdict(_in_file())
    for name, text in _in_environment().items():
        values[name] = _convert(
            name, _switch(text) if isinstance(values[name], bool) else text, _variable(name)
        )
    return AppConfig(**values)


def labeller() -> str:
    """Whose labels these are: the configured name, else the login name."""
    try:
        return load().name or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "me"


def preset_for(model: str) -> str:
    """The preset of a new project on a model, where none is named."""
    return "demo" if model == "demo" else load().default_preset or "default"


def projects_folder() -> Path:
    """Where new projects go; need not exist."""
    named = load().projects
    return Path(named).expanduser() if named else paths.projects()


def described() -> dict[str, dict[str, str]]:
    """Every value in force and its origin: ``{name: {"value", "from"}}``; origin is a file, a variable or a default."""
    path, config = paths.config_file(), load()
    file = str(path)
    in_file: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    in_environment = _in_environment()

    def entry(name: str, value: str, default: str = "default") -> dict[str, str]:
        set_in_file = in_file.get(name, "") not in ("", {})
        origin = _variable(name) if name in in_environment else file if set_in_file else default
        return {"value": value, "from": origin}

    def place(value: Path, variable: str) -> dict[str, str]:
        return {"value": str(value), "from": variable if os.environ.get(variable) else "default"}

    return {
        "name": entry("name", labeller(), "login name"),
        "default_preset": entry("default_preset", config.default_preset or "default"),
        "projects": entry("projects", str(projects_folder())),
        "theme": entry("theme", config.theme or "the app's own"),
        "key_set": entry("key_set", config.key_set),
        "ascii": entry("ascii", str(config.ascii).lower()),
        "notify": entry("notify", str(config.notify).lower()),
        "keys": entry("keys", "  ".join(f"{k} = {v}" for k, v in config.keys.items()) or "as they come"),
        "config file": place(path, "RLHF_LITE_CONFIG"),
        "state folder": place(paths.state(), "RLHF_LITE_STATE"),
        "presets folder": {"value": str(paths.presets()), "from": "installed"},
    }


def edit() -> None:
    """Open the file in the user's editor, made with explaining comments where there is none, and check it after.

    Raises:
        ToolMissing: no editor is set or found.
        SettingsError: what was saved cannot be used; the file stays as it was saved.
    """
    path = paths.config_file()
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    editor = shlex.split(named) if named else [e for e in ("nano", "vi") if shutil.which(e)][:1]
    if not editor or not shutil.which(editor[0]):
        raise ToolMissing(
            "no editor found",
            why="EDITOR names none",
            hint=f"EDITOR=nano rlhf-lite config edit, or edit {path}",
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings.write_whole(path, _TEMPLATE.encode())
    subprocess.run([*editor, str(path)], check=False)
    preset = load().default_preset
    if preset:
        settings.load_preset(preset)


def set_value(name: str, value: str | bool | None) -> None:
    """Change one value in the file and nothing else of it; None goes back to the default.

    ``name`` is a setting, or ``keys.ACTION`` for the keys of one action. A variable that sets the same name still
    wins: :func:`described` tells.

    Raises:
        SettingsError: no such setting, a wrong value, a damaged file, or one that is written in a way which cannot be
            edited by machine; nothing is changed then.
        OSError: the file cannot be written.
    """
    _in_file()  # a damaged file is refused before anything else
    path = paths.config_file().resolve()  # a link into a folder of dotfiles stays one
    text = path.read_bytes().decode() if path.exists() else _TEMPLATE
    table, key = ("keys", name.removeprefix("keys.")) if name.startswith("keys.") else ("", name)
    wanted = toml_edit.changed(tomllib.loads(text), table, key, value)
    setting = table or key
    _convert(setting, wanted.get(setting), str(path))
    edited = toml_edit.with_value(text, table, key, value)
    if edited is None:
        why = "it is written there in a way that only a person can change"
        raise SettingsError(f"cannot change {name} in {path}", why=why, hint=_HINT)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings.write_whole(path, edited.encode())


def recent() -> list[Path]:
    """Projects that were opened, the last one first; those that are gone are left out."""
    try:
        found = json.loads(_recent_file().read_bytes())
    except (OSError, ValueError):
        return []
    names: list[Any] = found if isinstance(found, list) else []  # pyright: ignore[reportUnknownVariableType]
    return [Path(n) for n in names if isinstance(n, str) and os.path.isfile(os.path.join(n, "project.toml"))][
        :RECENT
    ]


def remember(path: Path) -> None:
    """Put a project on top of :func:`recent`."""
    path = path.resolve()
    names = [str(path), *(str(p) for p in recent() if p != path)][:RECENT]
    try:
        _recent_file().parent.mkdir(parents=True, exist_ok=True)
        settings.write_whole(_recent_file(), json.dumps(names, indent=0).encode())
    except OSError:
        pass  # a home that cannot be written to keeps nobody from opening a project


def _recent_file() -> Path:
    return paths.state() / "recent.json"


def _in_file() -> AppConfig:
    path = paths.config_file()
    if not path.exists():
        return AppConfig()
    try:
        return settings.read_toml(path, AppConfig)
    except SettingsError as error:
        raise SettingsError(error.message, why=error.why, hint=_hint_for(error)) from error


def _hint_for(error: SettingsError) -> str:
    """The nearest name where one is offered; presets, of which a wrong value usually speaks, are no help here."""
    return error.hint if error.message.startswith("unknown") else _HINT


def _variable(name: str) -> str:
    return f"RLHF_LITE_{name.upper()}"


def _in_environment() -> dict[str, str]:
    """Settings by variable; an empty one sets nothing, and keys, being a table, have none."""
    names = [n for n in AppConfig.__struct_fields__ if n != "keys"]
    return {n: os.environ[_variable(n)] for n in names if os.environ.get(_variable(n))}


def _switch(text: str) -> bool | str:
    return {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }.get(text.strip().lower(), text)


def _convert(name: str, value: Any, source: str) -> Any:
    """The value as the setting's own type.

    Raises:
        SettingsError: no such setting, or a value that it cannot have.
    """
    values = {} if value is None else {name: value}
    if name not in AppConfig.__struct_fields__:
        known = ", ".join(AppConfig.__struct_fields__)
        raise SettingsError(f"unknown setting {name} in {source}", hint=f"known: {known}")
    try:
        return getattr(msgspec.convert(values, AppConfig, strict=True), name)
    except msgspec.ValidationError as error:
        raise SettingsError(f"wrong value in {source}", why=str(error), hint="set another value") from error
