from __future__ import annotations

import json

import pytest

from rlhf_lite import catalog, paths
from rlhf_lite.errors import UserError

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


def test_every_known_model_has_the_published_number_of_parameters() -> None:
    assert {m.id.split("/")[1]: m.parameters for m in catalog.MODELS} == PUBLISHED


def test_the_demo_model_is_read_from_its_own_config() -> None:
    model = catalog.find_model("demo")
    config = json.loads((paths.demo_model() / "config.json").read_text())
    assert (model.vocab_size, model.hidden_size) == (config["vocab_size"], config["hidden_size"])
    assert model.parameters < 4_000_000


def test_a_known_model_is_found_by_the_last_part_of_its_id_in_any_case() -> None:
    assert catalog.find_model("qwen2.5-0.5b-instruct").id == "Qwen/Qwen2.5-0.5B-Instruct"


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        catalog.find_model("Qwen2.5-0.5B-Instrukt")
    assert "Qwen2.5-0.5B-Instruct" in caught.value.hint
