from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_lite import catalog, paths
from rlhf_lite.errors import DataError, UserError
from rlhf_lite.settings import Preset, load_preset, override

GIB = 2**30
README = (Path(__file__).parents[2] / "README.md").read_text()

# Parameters as the models' publishers count them.
PUBLISHED = {
    "SmolLM2-135M-Instruct": 134_515_008,
    "SmolLM2-360M-Instruct": 361_821_120,
    "SmolLM2-1.7B-Instruct": 1_711_376_384,
    "Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "Llama-3.2-1B-Instruct": 1_235_814_400,
    "Llama-3.2-3B-Instruct": 3_212_749_824,
}

# A floor worked out by hand: micro-batch 4, 256 + 128 tokens, 16 rows sampled, rank 16, a policy, a value and a reward
# adapter; in GiB: 4-bit linear layers, 16-bit embeddings, three LoRAs, logits of completions, sum with KV cache.
FLOOR = {
    "Qwen2.5-0.5B-Instruct": (0.17, 0.25, 0.29, 0.58, 1.4),
    "Llama-3.2-1B-Instruct": (0.47, 0.49, 0.38, 0.49, 2.1),
    "Qwen2.5-1.5B-Instruct": (0.63, 0.43, 0.63, 0.58, 2.6),
    "Qwen2.5-3B-Instruct": (1.33, 0.58, 1.01, 0.58, 3.9),
    "Qwen2.5-7B-Instruct": (3.14, 2.03, 1.35, 0.58, 7.7),
}


def test_every_known_model_has_the_published_number_of_parameters() -> None:
    assert {m.id.split("/")[1]: m.parameters for m in catalog.MODELS} == PUBLISHED


@pytest.mark.parametrize("name", FLOOR)
def test_the_plan_agrees_with_the_floor_worked_out_by_hand(name: str) -> None:
    preset = override(
        Preset(),
        [
            "sampling.max_prompt_tokens=256",
            "sampling.max_new_tokens=128",
            "sampling.batch_size=16",
            "ppo.micro_batch=4",
        ],
    )
    model = catalog.find_model(name)
    items = catalog.plan(model, preset, "nf4").stages["ppo"].items
    linear, embeddings, loras, logits, total = FLOOR[name]
    assert items["linear_weights"] / GIB == pytest.approx(linear, abs=0.01)
    assert items["embeddings"] / GIB == pytest.approx(embeddings, abs=0.01)
    assert items["logits"] / GIB == pytest.approx(logits, abs=0.01)
    # The plan counts a frozen SFT adapter too: 40 bytes a parameter where the floor has 36.
    assert items["adapters"] / GIB * 36 / 40 == pytest.approx(loras, rel=0.02)
    # What the floor leaves out: the context, the block that is being recomputed, the logits while sampling.
    checkpoints = 4 * 384 * model.layers * model.hidden_size * 2
    left = (
        sum(v for k, v in items.items() if k not in ("cuda_context", "activations", "sampling")) + checkpoints
    )
    assert left / GIB == pytest.approx(total, rel=0.1)


def test_nf4_with_double_quantization_takes_4_127_bits_a_weight() -> None:
    model = catalog.find_model("Qwen2.5-7B-Instruct")
    items = catalog.plan(model, Preset(), "nf4").stages["generate"].items
    assert items["linear_weights"] * 8 / model.linear_parameters == pytest.approx(4.127, abs=0.001)


def test_a_stage_is_the_sum_of_its_items() -> None:
    stages = catalog.plan(catalog.MODELS[0], Preset(), "nf4").stages
    assert set(stages) == {"generate", "sft", "reward", "ppo", "dpo", "export"}
    assert all(s.bytes == sum(s.items.values()) for s in stages.values())


def test_wider_weights_need_more() -> None:
    plans = [catalog.plan(catalog.MODELS[0], Preset(), q) for q in ("nf4", "16bit", "32bit")]
    need = [p.stages["ppo"].bytes for p in plans]
    assert need == sorted(need)
    assert len(set(need)) == 3


def test_without_a_size_nothing_is_said_about_fitting() -> None:
    plan = catalog.plan(catalog.MODELS[0], Preset(), "nf4")
    assert plan.fits is None
    assert plan.hint == ""


@pytest.mark.parametrize("model", catalog.MODELS, ids=lambda m: m.id)
@pytest.mark.parametrize("gigabytes", [4, 8, 24])
def test_the_nearest_change_makes_it_fit(model: catalog.Model, gigabytes: int) -> None:
    preset = load_preset("default")
    plan = catalog.plan(model, preset, "16bit", gigabytes * GIB)
    assert bool(plan.hint) is not plan.fits
    if plan.fits:
        return
    if plan.hint.startswith("a smaller model: "):
        smaller = catalog.find_model(plan.hint.removeprefix("a smaller model: "))
        assert smaller.parameters < model.parameters
        assert catalog.plan(smaller, preset, "nf4", gigabytes * GIB).fits
    else:
        changed = override(preset, re.findall(r"--set (\S+)", plan.hint))
        assert catalog.plan(model, changed, "nf4", gigabytes * GIB).fits


def test_where_nothing_fits_the_demo_model_is_named() -> None:
    assert "demo" in catalog.plan(catalog.MODELS[0], Preset(), "nf4", GIB // 2).hint


def test_the_demo_model_is_read_from_its_own_config() -> None:
    model = catalog.find_model("demo")
    config = json.loads((paths.demo_model() / "config.json").read_text())
    assert (model.vocab_size, model.hidden_size) == (config["vocab_size"], config["hidden_size"])
    assert model.parameters < 4_000_000
    assert catalog.plan(model, load_preset("demo"), "nf4", 4 * GIB).fits


def test_a_known_model_is_found_by_the_last_part_of_its_id_in_any_case() -> None:
    assert catalog.find_model("qwen2.5-0.5b-instruct").id == "Qwen/Qwen2.5-0.5B-Instruct"


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        catalog.find_model("Qwen2.5-0.5B-Instrukt")
    assert "Qwen2.5-0.5B-Instruct" in caught.value.hint


@pytest.mark.parametrize(
    "config", [None, "{", '{"model_type": "t5", "d_model": 512}'], ids=["none", "torn", "t5"]
)
def test_a_folder_that_holds_no_plannable_model_is_refused(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(DataError) as caught:
        catalog.find_model(str(tmp_path))
    assert caught.value.why
    assert caught.value.hint


def test_a_config_that_leaves_out_what_follows_from_the_rest(tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024,
              "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 2048}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = catalog.find_model(str(tmp_path))
    assert (model.kv_heads, model.head_dim, model.tied) == (8, 64, False)


@pytest.mark.parametrize(("name", "gigabytes"), re.findall(r"^\| (\S+) \| (\d+) \|$", README, re.MULTILINE))
def test_what_the_readme_says_fits_fits(name: str, gigabytes: str) -> None:
    size = int(gigabytes) * GIB
    preset = load_preset("default")
    assert catalog.plan(catalog.find_model(name), preset, "nf4", size).fits
    assert not catalog.plan(catalog.find_model(name), preset, "nf4", size * 2 // 3).fits
