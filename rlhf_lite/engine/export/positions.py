"""How far a model sees and how it counts positions, in GGUF's terms: windows, rotation and its scaling.

The context is cut to what llama.cpp computes as transformers does: to the window where it knows no windows, and for
LongRoPE to the length that was trained first, since beyond it llama.cpp picks the factors by the context that is
opened, and transformers by the length of the text.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from gguf import Keys

from rlhf_lite.engine.export.architectures import Architecture, Config, Settings, full_rope, head_width


def position_settings(row: Architecture, config: Config) -> Settings:
    """Context, windows and rotation as metadata."""
    rope = full_rope(config)
    settings: Settings = {
        Keys.LLM.CONTEXT_LENGTH: _context(row, config),
        Keys.Rope.DIMENSION_COUNT: _rotated(config),
        Keys.Rope.FREQ_BASE: float(rope["rope_theta"]),
    }
    return settings | _scaling(config) | (_windows(config) if row.windows else {})


def factor_tensors(config: Config) -> dict[str, torch.Tensor]:
    """Divisors of the rotation's frequencies, (rotated width / 2,) fp32 each; none where positions are not scaled."""
    rope = full_rope(config)
    match rope["rope_type"]:
        case "llama3":
            return {"rope_freqs.weight": _llama3_factors(rope, _rotated(config))}
        case "longrope":
            return {
                f"rope_factors_{length}.weight": torch.tensor(rope[f"{length}_factor"], dtype=torch.float32)
                for length in ("long", "short")
            }
    return {}


def _rotated(config: Config) -> int:
    return int(head_width(config) * full_rope(config).get("partial_rotary_factor", 1.0))


def _window(config: Config) -> int | None:
    """The sliding window, where some block has one."""
    types = getattr(config, "layer_types", None) or ["sliding_attention"]
    return getattr(config, "sliding_window", None) if "sliding_attention" in types else None


def _context(row: Architecture, config: Config) -> int:
    limits, rope = [config.max_position_embeddings], full_rope(config)
    if (window := _window(config)) and not row.windows:
        limits.append(window)
    if rope["rope_type"] == "longrope":
        limits.append(rope["original_max_position_embeddings"])
    return min(limits)


def _windows(config: Config) -> Settings:
    """The window, which blocks have it, and their own rotation where it differs."""
    settings: Settings = {}
    if window := _window(config):
        settings[Keys.Attention.SLIDING_WINDOW] = window
        settings[Keys.Attention.SLIDING_WINDOW_PATTERN] = [
            t == "sliding_attention" for t in config.layer_types
        ]
        if sliding := config.rope_parameters.get("sliding_attention"):
            settings[Keys.Rope.FREQ_BASE_SWA] = float(sliding["rope_theta"])
    return settings


def _scaling(config: Config) -> Settings:
    rope = full_rope(config)
    kind = rope["rope_type"]
    if kind == "linear":
        return {Keys.Rope.SCALING_TYPE: kind, Keys.Rope.SCALING_FACTOR: float(rope["factor"])}
    if kind not in ("yarn", "longrope"):
        return {}
    original = rope["original_max_position_embeddings"]
    factor = float(rope.get("factor") or config.max_position_embeddings / original)
    if kind == "longrope":
        grown = math.sqrt(1 + math.log(max(factor, 1)) / math.log(original))
        return {
            Keys.Rope.SCALING_TYPE: kind,
            Keys.Rope.SCALING_ORIG_CTX_LEN: original,
            Keys.Rope.SCALING_ATTN_FACTOR: float(rope.get("attention_factor") or grown),
        }
    return {
        Keys.Rope.SCALING_TYPE: kind,
        Keys.Rope.SCALING_ORIG_CTX_LEN: original,
        Keys.Rope.SCALING_FACTOR: factor,
        # llama.cpp multiplies this by what the paper suggests, transformers takes it instead (Peng et al. 2023, YaRN).
        Keys.Rope.SCALING_ATTN_FACTOR: _yarn_attention(rope, factor) / _grown(factor, 1),
        Keys.Rope.SCALING_YARN_BETA_FAST: float(rope.get("beta_fast") or 32),
        Keys.Rope.SCALING_YARN_BETA_SLOW: float(rope.get("beta_slow") or 1),
    }


def _yarn_attention(rope: dict[str, Any], factor: float) -> float:
    """What sines and cosines are multiplied by, as transformers settles it."""
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    ours, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
    return _grown(factor, ours) / _grown(factor, all_dims) if ours and all_dims else _grown(factor, 1)


def _grown(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _llama3_factors(rope: dict[str, Any], width: int) -> torch.Tensor:
    """Long waves are divided by ``factor``, short ones not, those between interpolated (Llama 3.1 model code)."""
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    frequencies = 1 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    waves = 2 * math.pi / frequencies
    blend = ((rope["original_max_position_embeddings"] / waves - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - blend) / factor + blend)
