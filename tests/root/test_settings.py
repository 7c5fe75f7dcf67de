"""Presets and ``--set``: strict, and an error names the place, the key and the nearest known one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lite import settings
from rlhf_lite.errors import SettingsError
from rlhf_lite.settings import Preset, load_preset, override, preset_names, read_toml, write_toml


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_and_says_what_it_is_for(name: str) -> None:
    assert load_preset(name).about


def test_the_presets_that_new_projects_get_are_shipped() -> None:
    assert {"default", "demo"} <= set(preset_names())


def test_a_preset_names_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[ppo]\nsteps = 7\n")
    mine = load_preset(str(path))
    assert mine.ppo.steps == 7
    assert mine.ppo.clip == Preset().ppo.clip
    assert mine.sampling == Preset().sampling


def test_an_unknown_preset_is_answered_by_the_nearest() -> None:
    with pytest.raises(SettingsError) as caught:
        load_preset("dmeo")
    assert "demo" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [("[ppo]\nstepz = 3\n", "ppo.stepz", "steps"), ("[poo]\nsteps = 3\n", "poo", "ppo")],
)
def test_an_unknown_key_is_refused_with_its_file_and_the_nearest_name(
    tmp_path: Path, text: str, key: str, nearest: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_preset(str(path))
    assert key in caught.value.message
    assert str(path) in caught.value.message
    assert nearest in caught.value.hint


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[ppo]\nsteps = = 3\n")
    with pytest.raises(SettingsError) as caught:
        load_preset(str(path))
    assert "line 2" in caught.value.why


def test_set_changes_what_it_names_and_nothing_else() -> None:
    before = Preset()
    after = override(before, ["ppo.steps=40", "sft.learning_rate=1e-3", "ppo.steps=41"])
    assert (after.ppo.steps, after.sft.learning_rate) == (41, 1e-3)
    assert override(after, ["ppo.steps=100", "sft.learning_rate=2e-4"]) == before


@pytest.mark.parametrize(
    ("assignment", "part", "expected"),
    [
        ("ppo.stepz=1", "hint", "steps"),
        ("poo.steps=1", "hint", "ppo"),
        ("steps=1", "hint", "--set ppo.steps"),
        ("ppo.steps", "why", "section.key=value"),
        ("ppo.steps=0", "why", "ppo.steps"),
        ("ppo.steps=many", "why", "ppo.steps"),
        ("ppo.clip=-1", "why", "ppo.clip"),
        ("ppo.gamma=1.5", "why", "ppo.gamma"),
        ("about.steps=1", "hint", "ppo"),
    ],
)
def test_a_wrong_set_is_refused_with_what_would_be_right(assignment: str, part: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        override(Preset(), [assignment])
    assert expected in getattr(caught.value, part)


def test_frozen_settings_are_complete_and_read_back_the_same(tmp_path: Path) -> None:
    inputs = settings.Inputs(
        stage="ppo", project="/p", model="/m", quantization="nf4", seed=3, policies=("a", "b")
    )
    run = settings.RunSettings(inputs=inputs, preset=override(Preset(), ["ppo.steps=5"]))
    write_toml(tmp_path / "settings.toml", run)
    assert read_toml(tmp_path / "settings.toml", settings.RunSettings) == run
    assert "kl_budget" in (tmp_path / "settings.toml").read_text()  # defaults are written out too


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "project.toml"
    settings.write_whole(path, b"old")

    def no_rename(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", no_rename)
    with pytest.raises(OSError, match="No space"):
        settings.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_of_an_earlier_version_is_read_and_a_wrong_setting_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    inputs = settings.Inputs(stage="ppo", project="", model="", quantization="nf4", seed=0)
    settings.write_toml(path, settings.RunSettings(inputs=inputs, preset=settings.Preset()))
    written = path.read_text()
    path.write_text(written.replace("[preset.ppo]\n", "[preset.ppo]\nvalue_clip = 0.2\nvalue_warmup = 20\n"))
    assert settings.read_run(path) == settings.RunSettings(inputs=inputs, preset=settings.Preset())
    path.write_text(written.replace("[preset.ppo]\n", "[preset.ppo]\nvalue_cilp = 0.2\n"))
    with pytest.raises(SettingsError, match="value_cilp"):
        settings.read_run(path)
