"""Where a file goes, by what is free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_lite import memory
from rlhf_lite.engine import offload
from rlhf_lite.engine.gguf_file import Header, Tensor
from rlhf_lite.engine.offload import Place, place
from rlhf_lite.errors import DeviceBusy
from rlhf_lite.memory import GIB
from rlhf_lite.planning import FITS

LAYERS, MIB = 10, 2**20


def header(
    *, layer: int = 100 * MIB, output: int = 300 * MIB, tied: bool = False, trained: int = 131_072
) -> Header:
    """A model of ten layers; 8 heads of keys and values, each 64 wide: 20 KiB a token in all."""
    settings = {
        "general.architecture": b"llama", "llama.block_count": LAYERS, "llama.embedding_length": 2048,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8, "llama.context_length": trained,
    }  # fmt: skip
    sizes = {"token_embd.weight": output, "output_norm.weight": 0} | (
        {} if tied else {"output.weight": output}
    )
    sizes |= {f"blk.{i}.{part}.weight": layer // 2 for i in range(LAYERS) for part in ("attn_q", "ffn_up")}
    return Header(settings, {name: Tensor((1,), size, 0) for name, size in sizes.items()})


KV = 2 * 8 * 64 * 2  # bytes of one token in one layer, in F16


def room(layers: int, context: int, output: int = 300 * MIB) -> int:
    """Bytes that must be free for the output and so many layers."""
    need = output + layers * (100 * MIB + KV * context)
    return int((need + offload.RESERVE) / FITS) + 2


def test_without_a_gpu_nothing_is_offloaded() -> None:
    assert place(header(), 64 * GIB, 0).gpu_layers == 0


def test_all_some_or_none_of_the_layers() -> None:
    context = 4096
    for layers in range(LAYERS + 1):
        found = place(header(trained=context), 0, room(layers, context))
        assert found == Place(context, layers + 1), layers  # and the output
        assert place(header(trained=context), 0, room(layers, context) - 4).gpu_layers == layers
    assert place(header(), 64 * GIB, 200 * GIB).gpu_layers == LAYERS + 1
    assert place(header(), 64 * GIB, offload.RESERVE).gpu_layers == 0


def test_an_output_that_is_the_embedding_is_counted_once() -> None:
    free = room(LAYERS, 4096)
    assert place(header(tied=True, trained=4096), 0, free).gpu_layers == LAYERS + 1
    assert place(header(tied=True, trained=4096), 0, free - 4).gpu_layers == LAYERS


@pytest.mark.parametrize(
    ("free", "trained", "context"),
    [
        (64 * GIB, 131_072, 32768),  # the most
        (64 * GIB, 8192, 8192),  # what it was trained on
        (64 * GIB, 512, 512),
        (0, 131_072, 4096),  # nobody knows what is free
        (GIB, 131_072, 6553),  # an eighth of a gigabyte, at 20 KiB a token
        (GIB // 10, 131_072, 4096),
        (64 * GIB, 0, 4096),  # the file does not say
    ],
)
def test_the_context_is_as_long_as_memory_allows(free: int, trained: int, context: int) -> None:
    assert place(header(trained=trained), free, 0).context == context


def test_the_context_on_a_gpu_is_by_the_gpus_memory() -> None:
    assert place(header(), 64 * GIB, 2 * GIB).context == 13107


def test_heads_that_differ_from_layer_to_layer_count_as_the_most() -> None:
    one = header()
    one.settings["llama.attention.head_count_kv"] = np.array([2, 8, 4], dtype="<i4")
    assert place(one, GIB, 0).context == 6553


def test_a_file_that_says_nothing_still_gets_a_place() -> None:
    assert place(Header({}, {}), 8 * GIB, 8 * GIB).context == 4096


def test_a_gpu_that_llama_cpp_cannot_use_a_job_has_or_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp.llama_cpp as lib

    def busy() -> None:
        raise DeviceBusy("the gpu is busy")

    card, ram = memory.card(8), memory.read_ram(Path("/proc/meminfo"))
    monkeypatch.setattr(offload.memory, "read", lambda: card)
    monkeypatch.setattr(lib, "llama_supports_gpu_offload", lambda: False)
    assert offload.free_on_gpu() == 0
    monkeypatch.setattr(lib, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(offload.jobs, "require_free_device", busy)
    assert offload.free_on_gpu() == 0
    monkeypatch.setattr(offload.jobs, "require_free_device", lambda: None)
    assert offload.free_on_gpu() == 8 * GIB
    monkeypatch.setattr(offload.memory, "read", lambda: ram)
    assert offload.free_on_gpu() == 0
