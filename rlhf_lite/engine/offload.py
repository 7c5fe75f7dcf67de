"""Where a GGUF file goes, by what is free: how many tokens of context it gets, and how many of its layers a GPU.

llama.cpp would put every layer on the GPU and fail where they do not fit. A layer's weights are counted from the
file's own header; its keys and values lie where the layer does. Left out: the smaller caches of layers with a sliding
window, and GPUs that NVIDIA's driver does not know, as nobody says what is free there: those files stay on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf_lite import jobs, memory
from rlhf_lite.engine.gguf_file import Header
from rlhf_lite.errors import DeviceBusy
from rlhf_lite.planning import FITS

CONTEXT = 4096  # tokens that a file gets in any case, where it was trained on as many
MOST_CONTEXT = 32768  # a prompt of that many takes minutes on a CPU
SHARE = 8  # beyond CONTEXT, keys and values may take this part of what is free: one eighth
RESERVE = memory.GIB  # of a GPU: CUDA's own gigabyte, and llama.cpp's buffers
_KV_BYTES = 2  # of F16


@dataclass(frozen=True)
class Place:
    """``context`` in tokens. ``gpu_layers``: how many of the last layers a GPU has, the output counted as one."""

    context: int
    gpu_layers: int = 0


def modest(header: Header) -> Place:
    """A usual context on the CPU: for measuring, and beside a job that has the GPU."""
    return Place(_trained(header, CONTEXT))


def by_what_is_free(header: Header) -> Place:
    """Where to put a file that is talked to. llama.cpp must be a build for a GPU to use one, and no job be on it."""
    ram = memory.read_ram(Path("/proc/meminfo")).free
    return place(header, ram, free_on_gpu())


def free_on_gpu() -> int:
    """Bytes that llama.cpp may take of a GPU; 0 where it has none, or a job has it."""
    import llama_cpp.llama_cpp as lib

    if not lib.llama_supports_gpu_offload():
        return 0
    try:
        jobs.require_free_device()
    except DeviceBusy:
        return 0
    found = memory.read()
    return found.free if found.kind == "gpu" else 0


def place(header: Header, ram: int, gpu: int) -> Place:
    """``ram`` and ``gpu`` are the bytes free there; 0 for no GPU."""
    kv = _kv_bytes(header)
    affordable = (gpu or ram) // SHARE // max(1, kv * max(1, header.number("block_count")))
    context = _trained(header, max(CONTEXT, min(affordable, MOST_CONTEXT)))
    return Place(context, _layers_within(header, kv * context, int(FITS * gpu) - RESERVE))


def _trained(header: Header, most: int) -> int:
    return min(header.number("context_length") or CONTEXT, most)


def _kv_bytes(header: Header) -> int:
    """Of one token in one layer."""
    heads = header.number("attention.head_count")
    width = header.number("embedding_length") // max(1, heads)
    sides = (header.number(f"attention.{side}_length", width) for side in ("key", "value"))
    return header.number("attention.head_count_kv", heads) * sum(sides) * _KV_BYTES


def _layers_within(header: Header, kv: int, room: int) -> int:
    """llama.cpp moves the output first, then layer by layer from the last. ``kv``: bytes of one layer's cache."""
    blocks = header.number("block_count")
    sizes = {name: tensor.bytes for name, tensor in header.tensors.items()}
    # A file without an output matrix uses the embedding's, which the CPU keeps as well.
    outside = {n: size for n, size in sizes.items() if not n.startswith("blk.")}
    if "output.weight" in outside:
        outside.pop("token_embd.weight", None)
    needs = [sum(outside.values())]
    for i in reversed(range(blocks)):
        needs.append(kv + sum(size for name, size in sizes.items() if name.startswith(f"blk.{i}.")))
    taken = 0
    for count, need in enumerate(needs):
        taken += need
        if taken > room:
            return count
    return len(needs)
