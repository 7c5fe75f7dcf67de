"""What a new project can be made of: models with what they need here, a free folder, packs of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fake_hub import MODEL, FakeHub, serving

from rlhf_lite import catalog, memory, paths, starting
from rlhf_lite.errors import RlhfLiteError, UserError
from rlhf_lite.formats import read_prompts
from rlhf_lite.memory import GIB, Memory

CONFIG = json.loads((paths.demo_model() / "config.json").read_text())


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


def gpu(free: float) -> Memory:
    return Memory("gpu", "card", int(48 * GIB), int((48 - free) * GIB), int(free * GIB))


def put_in_cache(folder: Path, *names: str) -> None:
    """One snapshot of a model as the hub's client lays it out."""
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for name in names:
        (snapshot / name).write_text(json.dumps(CONFIG) if name == "config.json" else "{}")


def test_a_free_folder_is_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_LITE_PROJECTS", str(tmp_path))
    assert starting.free_folder("x") == tmp_path / "x"
    (tmp_path / "x").mkdir()
    (tmp_path / "x-2").touch()
    assert starting.free_folder("x") == tmp_path / "x-3"


def test_every_known_model_can_be_picked_smallest_first_and_the_built_in_one_is_here() -> None:
    found = starting.choices()
    sizes = [c.model.parameters for c in found if c.model]
    assert sizes == sorted(sizes)
    assert {c.id for c in found} == {"demo", *(m.id for m in catalog.MODELS)}
    assert [c.id for c in found if c.on_disk] == ["demo"]


def test_what_lies_in_the_cache_is_offered_where_it_is_whole(tmp_path: Path) -> None:
    put_in_cache(
        tmp_path / "cache" / "models--some--whole", "config.json", "tokenizer.json", "model.safetensors"
    )
    put_in_cache(tmp_path / "cache" / "models--some--part", "config.json", "tokenizer.json")
    found = {c.id: c for c in starting.choices(["some/pasted"])}
    assert found["some/whole"].on_disk
    assert found["some/whole"].model == msgspec.structs.replace(catalog.find_model("demo"), id="some/whole")
    assert "some/part" not in found
    assert found["some/pasted"].model is None


def test_the_recommended_model_is_the_largest_that_fits_comfortably_and_needs_no_licence() -> None:
    found = starting.choices()
    for free in (4.0, 8.0, 12.0, 24.0):
        best = starting.recommended(found, gpu(free))
        need = {
            c.id: starting.peak(c.model, starting.preset_of(c.id), "nf4")[1].bytes for c in found if c.model
        }
        assert memory.fit(need[best], gpu(free)) == "fits"
        larger = [c for c in found[[c.id for c in found].index(best) + 1 :] if not c.gated]
        assert all(memory.fit(need[c.id], gpu(free)) != "fits" for c in larger)
    assert starting.recommended(found, gpu(0.1)) == "demo"
    assert starting.recommended(found, Memory("cpu", "RAM", 64 * GIB, 0, 64 * GIB)) == "demo"


def test_an_unknown_ids_size_is_asked_of_the_hub_and_nothing_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["config.json"] = json.dumps(CONFIG).encode()
    found = starting.look_up(MODEL)
    assert found.model is not None
    assert found.model.parameters == catalog.find_model("demo").parameters
    assert not found.on_disk
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_refuses_is_told_with_the_next_step(hub: FakeHub, status: int) -> None:
    hub.file_error = (status, "")
    with pytest.raises(UserError, match="size of someone/model is not known") as caught:
        starting.look_up(MODEL)
    assert "hf auth login" in caught.value.hint


def test_a_config_of_another_kind_is_refused_in_words(hub: FakeHub) -> None:
    hub.files["config.json"] = b'{"model_type": "vit"}'
    with pytest.raises(RlhfLiteError, match="cannot be planned with"):
        starting.look_up(MODEL)


def test_a_model_is_sized_by_its_name_its_folder_or_what_the_hub_says(hub: FakeHub) -> None:
    hub.files["config.json"] = json.dumps(CONFIG).encode()
    same = {starting.sized(n).parameters for n in ("demo", str(paths.demo_model()), MODEL)}
    assert same == {catalog.find_model("demo").parameters}
    hub.asked.clear()
    assert starting.sized("Qwen/Qwen3-4B").parameters > 4e9
    assert not hub.asked, "what is known is not asked for"


def test_a_misspelled_id_names_the_nearest_where_the_hub_knows_none(hub: FakeHub) -> None:
    hub.file_error = (404, "")
    with pytest.raises(UserError) as caught:
        starting.sized("Qwen/Qwen3-4C")
    assert caught.value.hint.startswith("did you mean Qwen/Qwen3-4B?")
    assert "the network" in caught.value.hint


def test_without_a_network_the_answer_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(UserError, match="not known"):
        starting.look_up(MODEL)


def test_the_packs_are_text_and_what_the_built_in_model_knows_comes_first() -> None:
    packs = starting.packs()
    assert next(iter(packs)) == "examples"
    for path in packs.values():
        good, bad = read_prompts(path)
        assert len(good) >= 30
        assert not bad


def whole(total: float) -> Memory:
    """A GPU on which something else runs just now."""
    return Memory("gpu", "card", int(total * GIB), int((total - 1) * GIB), GIB)


def test_a_new_project_has_16_bit_weights_where_every_stage_then_fits_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, preset = "Qwen/Qwen2.5-1.5B-Instruct", starting.preset_of("x")
    need = starting.peak(catalog.find_model(model), preset, "16bit")[1].bytes / GIB
    monkeypatch.setattr(memory, "read", lambda: whole(need / 0.79))
    found = starting.weights(model)
    assert found.quantization == "16bit"
    assert f"takes {need:.1f} of the GPU's {need / 0.79:.1f} GiB" in found.why
    assert "unpacked" in found.why
    monkeypatch.setattr(memory, "read", lambda: whole(need / 0.81))
    found = starting.weights(model)
    assert found.quantization == "nf4"
    assert (
        found.why == f"4-bit weights: in 16 bits training takes {need:.1f} of the GPU's {need / 0.81:.1f} GiB"
    )


def test_where_there_is_nothing_to_choose_it_is_4_bits_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = starting.Weights("nf4")
    monkeypatch.setattr(memory, "read", lambda: whole(80))
    assert [starting.weights(name) for name in ("demo", "no/body-knows-it")] == [plain, plain]
    monkeypatch.setattr(memory, "read", lambda: Memory("cpu", "RAM", 64 * GIB, 0, 64 * GIB))
    assert starting.weights("Qwen/Qwen2.5-0.5B-Instruct") == plain
