"""What the memory plan says of stages, of fitting, and of the nearest change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf_lite import catalog, needs, planning
from rlhf_lite.settings import Preset, Quantization, load_preset, override
from rlhf_lite.shapes import Model

GIB = 2**30
README = (Path(__file__).parents[2] / "README.md").read_text()
SMALL = catalog.MODELS[0]

# A floor worked out by hand, in GiB: 4-bit linear layers, 16-bit embeddings, and three LoRAs of rank 16 of which two
# are trained: 36 bytes a parameter, Adam's moments and gradients of both included.
FLOOR = {
    "Qwen2.5-0.5B-Instruct": (0.17, 0.25, 0.29),
    "Llama-3.2-1B-Instruct": (0.47, 0.49, 0.38),
    "Qwen2.5-1.5B-Instruct": (0.63, 0.43, 0.63),
    "Qwen2.5-3B-Instruct": (1.33, 0.58, 1.01),
    "Qwen2.5-7B-Instruct": (3.14, 2.03, 1.35),
}


def items(
    model: Model, stage: str, preset: Preset | None = None, quantization: Quantization = "nf4"
) -> dict[str, int]:
    return planning.plan(model, preset or Preset(), quantization).stages[stage].items


@pytest.mark.parametrize("name", FLOOR)
def test_the_plan_agrees_with_the_floor_worked_out_by_hand(name: str) -> None:
    found = items(
        catalog.find_model(name), "ppo", override(Preset(), ["sampling.batch_size=1", "ppo.micro_batch=32"])
    )
    linear, embeddings, loras = FLOOR[name]
    assert found["linear_weights"] / GIB == pytest.approx(linear, abs=0.01)
    assert found["embeddings_and_norms"] / GIB == pytest.approx(embeddings, abs=0.01)
    # The floor is of three LoRAs, two of them trained, 36 bytes a parameter. Here one of three is: 24 bytes.
    held = found["adapters"] + found["optimizer"] + found["gradients"]
    assert held / GIB == pytest.approx(loras * 24 / 36, rel=0.02)


def test_nf4_with_double_quantization_takes_4_127_bits_a_weight() -> None:
    model = catalog.find_model("Qwen2.5-7B-Instruct")
    held = needs.linear_weights(model, "nf4", 2)
    assert held * 8 / model.linear_parameters == pytest.approx(4.127, abs=0.001)


def test_every_stage_is_planned_and_is_the_sum_of_its_items() -> None:
    stages = planning.plan(SMALL, Preset(), "nf4").stages
    assert set(stages) == {"generate", "sft", "reward", "ppo", "dpo", "merge", "chat"}
    assert all(s.bytes == sum(s.items.values()) for s in stages.values())
    assert all(n > 0 for s in stages.values() for n in s.items.values())


def test_a_stage_needs_its_worst_moment_and_not_all_of_them_at_once() -> None:
    sampled = items(SMALL, "ppo", override(Preset(), ["sampling.batch_size=4096"]))
    updated = items(SMALL, "ppo", override(Preset(), ["ppo.micro_batch=4096"]))
    assert "kv_cache" in sampled
    assert "gradients" not in sampled
    assert "gradients" in updated
    assert "kv_cache" not in updated


def test_prompts_of_a_large_batch_are_read_in_parts_of_like_size() -> None:
    """Of 32 prompts of 512 tokens 128 each at once; of twice as many 64; of eight all."""
    preset = override(Preset(), ["sampling.max_prompt_tokens=512"])
    taken = [
        items(SMALL, "generate", override(preset, [f"sampling.batch_size={n}"]))["forward_pass"]
        for n in (4, 8, 32, 64)
    ]
    assert taken[0] * 2 == taken[1] == taken[2] == taken[3]


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("generate", "sampling.batch_size=64"), ("generate", "sampling.max_prompt_tokens=1024"),
        ("sft", "sft.max_tokens=9000"), ("reward", "reward.max_tokens=5000"), ("ppo", "ppo.micro_batch=16"),
        ("ppo", "sampling.max_new_tokens=512"), ("ppo", "lora.rank=64"), ("dpo", "dpo.max_tokens=5000"),
        ("dpo", "sampling.batch_size=2000"),
        ("merge", "lora.rank=64"), ("chat", "lora.rank=64"),
    ],
)  # fmt: skip
def test_more_of_a_thing_needs_more(stage: str, change: str) -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    before = planning.plan(model, Preset(), "nf4").stages[stage].bytes
    assert planning.plan(model, override(Preset(), [change]), "nf4").stages[stage].bytes > before


def test_wider_weights_need_more() -> None:
    quantizations: list[Quantization] = ["nf4", "16bit", "32bit"]
    need = [planning.plan(SMALL, Preset(), q).stages["ppo"].bytes for q in quantizations]
    assert need == sorted(need)
    assert len(set(need)) == 3


TRAINED = ("sft", "reward", "ppo", "dpo")


def test_activations_are_kept_where_the_stage_then_still_fits_comfortably() -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    least = planning.plan(model, Preset(), "nf4").stages
    assert [least[s].checkpointing for s in TRAINED] == [True] * 4
    ample = planning.plan(model, Preset(), "nf4", 80 * GIB).stages
    assert [ample[s].checkpointing for s in TRAINED] == [False] * 4
    assert {s for s in ample if ample[s].checkpointing is None} == {"generate", "merge", "chat"}
    for stage in TRAINED:
        assert ample[stage].items["activations"] > 4 * least[stage].items.get("layer_inputs", 0)
        need = ample[stage].bytes
        for share, again in ((0.74, False), (0.76, True)):
            held = planning.plan(model, Preset(), "nf4", int(need / share), stage=stage).stages[stage]
            assert held.checkpointing is again
            assert held.bytes == (least if again else ample)[stage].bytes


def test_checkpointing_is_tried_before_any_batch_is_halved() -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    ample = planning.plan(model, Preset(), "nf4", 80 * GIB)
    need = max(ample.stages[s].bytes for s in TRAINED)
    tight = planning.plan(model, Preset(), "nf4", need // 2)
    assert tight.fits
    assert all(tight.stages[s].checkpointing for s in TRAINED)


def test_a_cpu_computes_in_32_bits_without_cuda() -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    on_gpu, on_cpu = (
        planning.plan(model, Preset(), "nf4", device=d).stages["ppo"].items for d in ("gpu", "cpu")
    )
    assert on_cpu["linear_weights"] == on_gpu["linear_weights"]
    assert on_cpu["embeddings_and_norms"] > 1.9 * on_gpu["embeddings_and_norms"]
    assert "cuda_context" not in on_cpu
    assert "libraries" not in on_gpu


def test_a_stage_can_be_planned_alone() -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    free = int(2.5 * GIB)
    assert not planning.plan(model, Preset(), "nf4", free).fits
    alone = planning.plan(model, Preset(), "nf4", free, stage="ppo")
    assert (list(alone.stages), alone.fits) == (["ppo"], True)


SMALLER_TEXTS = ["sampling.max_prompt_tokens=256", "sampling.max_new_tokens=128"]


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("Qwen2.5-7B-Instruct", 10), ("Qwen2.5-3B-Instruct", 6), ("Qwen2.5-1.5B-Instruct", 4)],
)
def test_ppo_at_256_and_128_tokens_fits_a_consumer_card(name: str, gigabytes: int) -> None:
    model, preset = catalog.find_model(name), override(load_preset("default"), SMALLER_TEXTS)
    assert planning.plan(model, preset, "nf4", gigabytes * GIB, stage="ppo").fits
    whole = planning.plan(model, preset, "nf4", gigabytes * GIB)
    changes = re.findall(r"--set (\S+)", whole.hint)
    assert all(knob.startswith(("sft.batch_size", "reward.batch_size", "dpo.batch_size")) for knob in changes)
    assert planning.plan(model, override(preset, changes), "nf4", gigabytes * GIB).fits


def test_without_a_size_nothing_is_said_about_fitting() -> None:
    plan = planning.plan(SMALL, Preset(), "nf4")
    assert plan.fits is None
    assert plan.hint == ""


@pytest.mark.parametrize("model", catalog.MODELS, ids=lambda m: m.id)
@pytest.mark.parametrize("gigabytes", [2, 4, 8, 24])
def test_the_nearest_change_makes_it_fit(model: Model, gigabytes: int) -> None:
    preset = load_preset("default")
    plan = planning.plan(model, preset, "16bit", gigabytes * GIB)
    assert bool(plan.hint) is not plan.fits
    if plan.fits:
        return
    if plan.hint.startswith("a smaller model: "):
        smaller = catalog.find_model(plan.hint.removeprefix("a smaller model: "))
        assert smaller.parameters < model.parameters
        assert planning.plan(smaller, preset, "nf4", gigabytes * GIB).fits
    elif "no known model fits" not in plan.hint:
        changed = override(preset, re.findall(r"--set (\S+)", plan.hint))
        assert planning.plan(model, changed, "nf4", gigabytes * GIB).fits


def test_batches_go_before_lengths() -> None:
    model = catalog.find_model("Qwen2.5-0.5B-Instruct")
    free = int(2.4 * GIB)
    assert planning.plan(model, Preset(), "nf4", free, stage="ppo").hint == "--set ppo.micro_batch=4"
    tight = override(Preset(), ["ppo.micro_batch=1", "sampling.batch_size=1"])
    need = planning.plan(model, tight, "nf4").stages["ppo"].bytes
    hint = planning.plan(model, tight, "nf4", need, stage="ppo").hint
    assert re.fullmatch(r"--set sampling.max_(prompt|new)_tokens=\d+.*", hint)


def test_a_batch_is_halved_until_a_pass_holds_fewer_tokens() -> None:
    """Halving 8 pairs of 2 × 1024 tokens changes nothing: a pass has room for 4 of them."""
    model, tight = catalog.find_model("Qwen2.5-7B-Instruct"), override(Preset(), ["sampling.batch_size=4"])
    tight = override(
        tight, ["ppo.micro_batch=1", "sampling.max_prompt_tokens=64", "sampling.max_new_tokens=64"]
    )
    tight = override(tight, ["sft.batch_size=1"])
    assert (
        planning.plan(model, tight, "nf4", 10 * GIB).hint
        == "--set reward.batch_size=2 and --set dpo.batch_size=2"
    )


def test_where_nothing_fits_the_demo_model_is_named() -> None:
    assert "demo" in planning.plan(SMALL, Preset(), "nf4", GIB // 2).hint


def test_the_demo_model_fits_anywhere() -> None:
    assert planning.plan(catalog.find_model("demo"), load_preset("demo"), "nf4", 2 * GIB).fits


@pytest.mark.parametrize(("name", "gigabytes"), re.findall(r"^\| (\S+) \| (\d+) \|$", README, re.MULTILINE))
def test_what_the_readme_says_fits_fits(name: str, gigabytes: str) -> None:
    size = int(gigabytes) * GIB
    preset = load_preset("default")
    assert planning.plan(catalog.find_model(name), preset, "nf4", size).fits
    assert not planning.plan(catalog.find_model(name), preset, "nf4", size * 2 // 3).fits
