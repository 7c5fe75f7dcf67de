"""A LoRA adapter as llama.cpp reads it: beside a GGUF of the base, which it is added to when both are loaded.

Its matrices stay fp32. llama.cpp multiplies by alpha / r whatever the kind of LoRA, so alpha is written as scale · r:
for rank-stabilised LoRA that is alpha · √r (Kalajdzievski 2023). Where the base's query and key rows are reordered,
so are those of B. It pairs with the base's *original* weights, whereas training saw them in 4 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rlhf_lite.engine.export.architectures import architecture_of, read_config
from rlhf_lite.engine.export.gguf import interleaved
from rlhf_lite.engine.export.merge import LoraAdapter
from rlhf_lite.errors import DataError


def write_lora(lora: LoraAdapter, raw: dict[str, Any], target: Path, name: str) -> None:
    """Write ``target``; ``raw`` is what the base's config.json holds.

    Raises UserError (an architecture that cannot be written), DataError (the adapter is of another base).
    """
    row, config = architecture_of(raw), read_config(raw)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    mapping = gguf.get_tensor_name_map(row.gguf, config.num_hidden_layers)
    rank = next(iter(lora.pairs.values()))[0].shape[0]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[row.gguf])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.scale * rank)
        for source, (a, b) in lora.pairs.items():
            place = mapping.get_name(source, try_suffixes=(".weight",))
            if place is None:
                raise DataError(f"the adapter has a matrix that the base has not: {source}")
            part = place.split(".")[-2]
            rows = interleaved(b, heads[part]) if row.reorder_qk and part in heads else b
            writer.add_tensor(f"{place}.lora_a", np.ascontiguousarray(a.numpy()))
            writer.add_tensor(f"{place}.lora_b", np.ascontiguousarray(rows.numpy()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
