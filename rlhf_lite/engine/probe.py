"""``python -m rlhf_lite.engine probe``: what torch, bitsandbytes and llama.cpp can do here, as one JSON object.

Each is tried on something small rather than asked for its version: a driver may be too old for the CUDA that
torch was built with, and a library may be there and not load.
"""

from __future__ import annotations

import json
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import quantize_4bit

from rlhf_lite.engine.base import pick_device

_ROWS, _WIDTH = 256, 512


def main(arguments: list[str]) -> int:
    """Print the findings on stdout. Takes no arguments."""
    print(json.dumps({"torch": _torch(), "nf4": _nf4(), "llama_cpp": _llama()}))
    return 0


def _torch() -> dict[str, Any]:
    found: dict[str, Any] = {"version": torch.__version__, "cuda": torch.cuda.is_available()}
    if found["cuda"]:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "sm": f"{properties.major}.{properties.minor}",
            "memory": properties.total_memory,
        }
    return found


def _nf4() -> dict[str, Any]:
    """Quantize a matrix, multiply by it, and hold that against the unquantized product."""
    device = pick_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(_ROWS, _WIDTH, generator=draw).to(device, dtype)
    x = torch.randn(4, _WIDTH, generator=draw).to(device, dtype)
    try:
        packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        product = bnb.matmul_4bit(x, packed.t(), quant_state=state)
    except (RuntimeError, ValueError) as error:
        return {"ok": False, "detail": f"bitsandbytes {bnb.__version__}: {error}"}
    exact = x @ weight.t()
    error = float((product - exact).float().norm() / exact.float().norm())
    # NF4 of a normal distribution is off by about 0.09 of its norm, a broken kernel by 1 or more.
    return {
        "ok": error < 0.15,
        "detail": f"bitsandbytes {bnb.__version__} on {device.type}, off by {error:.3f} (0.09 is right)",
    }


def _llama() -> dict[str, Any]:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # its shared library may miss one of its own
        return {"ok": False, "detail": str(error)}
    place = "GPU" if llama_cpp.llama_supports_gpu_offload() else "CPU"
    return {"ok": True, "detail": f"{llama_cpp.__version__}, runs on the {place}"}
