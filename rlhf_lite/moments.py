"""What a stage holds, moment by moment: each stretch of its work is a list of what is alive at once, in bytes by name.

:mod:`rlhf_lite.needs` has the arithmetic; here is what the engine does with it: how many rows, how long, and which
things it holds together. Left out are the fp32 matrices that a CPU unpacks only where there is room for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_lite import catalog, needs
from rlhf_lite.needs import FP32
from rlhf_lite.settings import Preset, Quantization
from rlhf_lite.shapes import Model

Device = Literal["gpu", "cpu"]
Items = dict[str, int]
"""Bytes by name."""

# TRL's fused output layer holds one tile of the logits at a time, at most so many tokens by always so many columns. A
# GPU turns it into its gradient in place; a CPU, without Triton, by seven more in fp32 and one of truth values.
_TILE_TOKENS, _TILE_COLUMNS = 4096, 32768
_UNFUSED = 7 * FP32 + 1
_CHECKED_TOKENS = 64  # the export's proof answers with so many
_CHAT_TOKENS, _CHAT_CHUNK = 4096, 256  # of a conversation, and of its prompt that are read at once


@dataclass(frozen=True)
class Moments:
    """What a stage holds of a model under a preset; ``width`` is the bytes of a number in the compute dtype.

    ``again``, where it trains: layers are computed again for their gradients, so that only their inputs are kept.
    """

    model: Model
    preset: Preset
    width: int
    device: Device

    def weights(self, quantization: Quantization) -> Items:
        return {
            "linear_weights": needs.linear_weights(self.model, quantization, self.width),
            "embeddings_and_norms": needs.other_weights(self.model, self.width),
        }

    def adapters(self, count: int, *, trained: bool = False, heads: int = 0) -> Items:
        """So many adapters, one of them trained or none, and heads, of which one is trained with it if there are more
        than one."""
        found = {"adapters": count * needs.adapter(self.model, self._rank)}
        if heads:
            found["heads"] = heads * needs.head(self.model)
        if trained:
            found["optimizer"] = needs.adam(self.model, self._rank, max(heads - 1, 0))
        return found

    def critic(self) -> Items:
        """What PPO judges states by."""
        return {"critic": needs.critic(self.model)}

    def sampling(self) -> list[Items]:
        """A batch of prompts is read, then answered to the last token."""
        sampling, rows = self.preset.sampling, self.preset.sampling.batch_size
        prompt = min(sampling.max_prompt_tokens, self.model.context)
        cache = {"kv_cache": self._cache(rows, self._length)}  # with room for the answers from the start
        next_token = (
            rows * self.model.vocab_size * (self.width + 3 * FP32)
        )  # logits, probabilities, fp64 sums
        columns = min(prompt, catalog.prompt_columns(rows))
        read = rows * columns * needs.forward_pass(self.model, self.width, prompt)
        return [{**cache, "forward_pass": read}, {**cache, "next_token": next_token}]

    def scoring(self) -> list[Items]:
        """The reward model reads the answers; the critic wants the states of all of them."""
        return [
            {
                "states": self._states(),
                "forward_pass": self._forward(self.preset.ppo.micro_batch, self._length),
            }
        ]

    def update(self, again: bool) -> list[Items]:
        """The critic learns; then a micro-batch of PPO: its logits, and its layers one by one, last to first."""
        rows, answer = (
            self.preset.ppo.micro_batch,
            min(self.preset.sampling.max_new_tokens, self.model.context),
        )
        states = {"states": self._states()}
        kept = {**states, **self._kept(rows, self._length, again, masked=False)}
        regression = needs.regression(self.model, self.preset.ppo.episodes, answer, self.width)
        return [
            {**states, "regression": regression},
            {**kept, "logits": needs.completion_logits(self.model, rows * answer, self.width)},
            {**kept, "one_layer": self._layer(rows, self._length, again, masked=False)},
        ]

    def supervised(
        self, batch: int, longest: int, sides: int, again: bool, *, tile: bool = False
    ) -> list[Items]:
        """A micro-batch of SFT, or of pairs with both their sides; TRL's loss on logits holds a tile of them."""
        length = min(longest, self.model.context)
        rows = sides * catalog.micro_batch(batch, sides * length)
        tokens = rows * length
        kept = self._kept(rows, length, again, masked=True)
        one_layer = {"one_layer": self._layer(rows, length, again, masked=True)}
        if not tile:
            return [{**kept, **one_layer}]
        beside = 0 if self.device == "gpu" else _UNFUSED * min(self.model.vocab_size, _TILE_COLUMNS)
        logits = min(tokens, _TILE_TOKENS) * (_TILE_COLUMNS * self.width + beside)
        gradient = tokens * self.model.hidden_size * FP32  # of what comes in, summed over tiles
        return [{**kept, **one_layer}, {**kept, "logits": logits + gradient}]

    def judging(self, longest: int, *, logits: bool = False) -> list[Items]:
        """Held-out pairs are read, both sides of each: their rewards, or their tokens' log-probabilities."""
        length = min(longest, self.model.context)
        rows = 2 * catalog.micro_batch(catalog.PAIRS_AT_ONCE, 2 * length)
        read = [{"forward_pass": self._forward(rows, length)}]
        chunk = needs.completion_logits(self.model, rows * length, self.width)
        return [*read, {"logits": chunk}] if logits else read

    def proof(self) -> list[Items]:
        """Matrices are merged one by one, with the base not loaded yet; then the file is held against the model."""
        tokens = min(self.preset.sampling.max_prompt_tokens + _CHECKED_TOKENS, self.model.context)
        return [{"logits": 2 * FP32 * tokens * self.model.vocab_size}]

    def conversation(self) -> list[Items]:
        """With the tuned model and, by its side, the base: each has keys and values of its own."""
        tokens = min(_CHAT_TOKENS, self.model.context)
        cache = 2 * self._cache(1, tokens)
        chunk = _CHAT_CHUNK * needs.forward_pass(self.model, self.width, tokens)
        return [{"kv_cache": cache, "forward_pass": chunk}]

    @property
    def _rank(self) -> int:
        return self.preset.lora.rank

    @property
    def _length(self) -> int:
        """Tokens of a prompt and its answer."""
        sampling = self.preset.sampling
        return min(sampling.max_prompt_tokens + sampling.max_new_tokens, self.model.context)

    def _cache(self, rows: int, length: int) -> int:
        return needs.kv_cache(self.model, rows, length, self.width)

    def _states(self) -> int:
        answer = min(self.preset.sampling.max_new_tokens, self.model.context)
        return needs.states(self.model, self.preset.ppo.episodes, answer, self.width)

    def _forward(self, rows: int, length: int) -> int:
        return rows * length * needs.forward_pass(self.model, self.width, length)

    def _kept(self, rows: int, length: int, again: bool, *, masked: bool) -> Items:
        """One adapter's gradients, which micro-batches add up, and what the backward pass starts its layers from."""
        gradients, tokens = {"gradients": needs.adapter(self.model, self._rank)}, rows * length
        if again:
            return {**gradients, "layer_inputs": tokens * needs.layer_inputs(self.model, self.width)}
        return {**gradients, "activations": tokens * self.model.layers * self._activations(length, masked)}

    def _layer(self, rows: int, length: int, again: bool, *, masked: bool) -> int:
        """What one layer takes while it is computed, beyond what is kept of it."""
        taken = needs.layer(self.model, self._rank, self.width, length, masked=masked)
        return rows * length * (taken if again else taken - self._activations(length, masked))

    def _activations(self, length: int, masked: bool) -> int:
        return needs.activations(self.model, self._rank, self.width, length, masked=masked)
