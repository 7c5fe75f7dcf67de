"""The tuned model as it was evaluated, in transformers and PEFT: what a file is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.engine import text
from rlhf_lite.engine.base import load_causal_lm, pick_device
from rlhf_lite.settings import Quantization

ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Answered:
    """One prompt as the reference reads and answers it. ``ids``: prompt and greedy answer; ``ended``: by itself."""

    rendered: str
    prompt_ids: list[int]
    ids: list[int]
    ended: bool

    @property
    def answer_ids(self) -> list[int]:
        return self.ids[len(self.prompt_ids) :]


class Reference:
    """The tuned model in transformers and PEFT, computing in fp32."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        stops: frozenset[int],
    ) -> None:
        self.model, self.tokenizer, self.stops = model, tokenizer, stops
        self._answered: dict[str, Answered] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        quantization: Quantization,
        adapter: Path | None,
        tokenizer: PreTrainedTokenizerBase,
        stops: frozenset[int],
    ) -> Reference:
        """The base exactly as training loads it on this machine, and the adapter on it."""
        model = load_causal_lm(str(folder), quantization, pick_device())
        # bf16 weights stay what they are, but bf16 arithmetic would drown the comparison. transformers forbids
        # .float() on a quantized model; its packed weights are integers, which torch leaves alone.
        torch.nn.Module.float(model)
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.compute_dtype = torch.float32
        if adapter is None:
            return cls(model, tokenizer, stops)
        return cls(PeftModel.from_pretrained(model, str(adapter)).eval(), tokenizer, stops)

    def answer(self, messages: Sequence[dict[str, str]]) -> Answered:
        """The greedy answer, at most :data:`ANSWER_TOKENS`; the same one to every file that is compared."""
        rendered = text.render(self.tokenizer, messages)
        if rendered not in self._answered:
            self._answered[rendered] = self._answer(rendered)
        return self._answered[rendered]

    @torch.no_grad()
    def _answer(self, rendered: str) -> Answered:
        prompt = text.encode(self.tokenizer, rendered)
        inputs = torch.tensor([prompt], device=self.model.device)
        model: Any = self.model
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            repetition_penalty=1.0,  # some models' generation config asks for another
            max_new_tokens=ANSWER_TOKENS,
            eos_token_id=sorted(self.stops),
            pad_token_id=text.pad_id(self.tokenizer, self.stops),
        )
        ids = out[0].tolist()
        return Answered(rendered, prompt, ids, ended=ids[-1] in self.stops and len(ids) > len(prompt))

    @torch.no_grad()
    def log_probs(self, ids: list[int]) -> np.ndarray:
        """(T, V) float32."""
        logits = self.model(torch.tensor([ids], device=self.model.device)).logits[0]
        return torch.log_softmax(logits.float(), dim=-1).cpu().numpy()

    def base_log_probs(self, ids: list[int]) -> np.ndarray:
        """The same with the adapter off, where there is one."""
        if not isinstance(self.model, PeftModel):
            return self.log_probs(ids)
        with self.model.disable_adapter():
            return self.log_probs(ids)
