"""Parity: does the file, in llama.cpp, say what the tuned model says?

The reference is the model that was evaluated: the base as loaded for training with the adapter on, computed in
fp32 by transformers and PEFT. The candidate is the finished file in a llama.cpp process with an fp32 KV cache.
On each prompt the reference writes a greedy answer; both then score prompt and answer, and the mean KL
(Kullback-Leibler, reference to file, nats per position) and top-1 agreement are taken over all positions.

Besides: prompts render to the same text, that text and some awkward strings become the same ids, every stop
token of the tuned model ends a generation in llama.cpp, and greedy answers that end by themselves still do.

Left out: prompts beyond 256 tokens, whose logits would need more memory than the rest of an export.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lite.engine import text
from rlhf_lite.engine.base import load_causal_lm, pick_device
from rlhf_lite.engine.export.gguf import Report
from rlhf_lite.engine.export.quantize import Quant
from rlhf_lite.engine.export.worker import LlamaWorker
from rlhf_lite.errors import JobError, UserError
from rlhf_lite.settings import Quantization

_PROMPT_TOKENS = 256
_ANSWER_TOKENS = 64
_MIN_STOPS = 0.5  # a quantized greedy answer may wander off; a file whose stop token is lost has 0
_STRINGS = (
    "Hello, world!", " leading and trailing ", "two  spaces,   three", "line\nbreak\n\nand more\r\n", "\ttab\t\ttab",
    "It's we've I'LL don't", "3.14159 1234567890 12 345", "naïve café Ünïcödé", "日本語と中文 한국어", "Привет, мир",
    "مرحبا שלום", "🙂👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301 is é", "a\u200bb\u00a0c\ufeff", "def f(x):\n        return x  # ok\n",
    "====================================", "https://example.org/?q=a%20b&c=1#d", "$100 + 50% = €5 <b>&amp;</b>",
    "\\n \"quoted\" 'single' `code`", "", " ", "\n",
)  # fmt: skip


@dataclass(frozen=True)
class Parity:
    """What was measured.

    Attributes:
        ended: greedy answers of the tuned model that end by themselves.
        stops: the share of those that does so in llama.cpp too; 1 where there are none.
        tune_kl: the same KL from the tuned model to its base, adapter off; 0 without an adapter. A file keeps the
            tune where ``mean_kl`` is far below it.
    """

    prompts: int
    positions: int
    mean_kl: float
    top1_agreement: float
    tune_kl: float
    template_identical: bool
    tokens_identical: bool
    stop_tokens_known: bool
    ended: int
    stops: float
    passed: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answered:
    """One prompt as the reference reads and answers it. ``ids``: prompt and greedy answer; ``ended``: by itself."""

    rendered: str
    prompt_ids: list[int]
    ids: list[int]
    ended: bool


class Reference:
    """The tuned model in transformers and PEFT, computing in fp32."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        stops: frozenset[int],
    ) -> None:
        self.model, self.tokenizer, self.stops = model, tokenizer, stops

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

    @torch.no_grad()
    def answer(self, messages: Sequence[dict[str, str]]) -> Answered:
        """The greedy answer, at most 64 tokens."""
        rendered = str(
            self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        )
        prompt = text.encode(self.tokenizer, rendered)
        inputs = torch.tensor([prompt], device=self.model.device)
        model: Any = self.model
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            repetition_penalty=1.0,  # some models' generation config asks for another
            max_new_tokens=_ANSWER_TOKENS,
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


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(T, V) -> (T, V), over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_per_position(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p ‖ q) from log-probabilities (T, V): (T,) nats."""
    return (np.exp(p) * (p - q)).sum(-1)


@dataclass(frozen=True)
class Positions:
    """Per position of all prompts and answers, (T,) each: KL and top-1 agreement of the file, and KL of the base."""

    kl: np.ndarray
    agree: np.ndarray
    tune_kl: np.ndarray


def measure(
    reference: Reference,
    worker: LlamaWorker,
    prompts: Sequence[Sequence[dict[str, str]]],
    quant: Quant,
    report: Report,
) -> Parity:
    """Compare the file that ``worker`` has open with ``reference``. Raises UserError where every prompt is too long."""
    short = [m for m in prompts if len(text.prompt_ids(reference.tokenizer, m)) <= _PROMPT_TOKENS]
    if not short:
        raise UserError(
            f"no prompt of at most {_PROMPT_TOKENS} tokens to compare on",
            hint="add a short prompt to the project",
        )
    report("verify", 0, len(short))
    answers = [reference.answer(messages) for messages in short]
    positions = _compare(reference, worker, answers, report)
    strings = [unicodedata.normalize("NFC", s) for s in [*_STRINGS, *(a.rendered for a in answers)]]
    ended = [a for a in answers if a.ended]
    still = [worker.ends(worker.greedy(a.prompt_ids, 2 * _ANSWER_TOKENS)[-1:]) for a in ended]
    return judge(
        quant,
        positions,
        prompts=len(short),
        template_identical=[worker.render(messages) for messages in short] == [a.rendered for a in answers],
        tokens_identical=worker.tokenize(strings) == [text.encode(reference.tokenizer, s) for s in strings],
        stop_tokens_known=worker.ends(sorted(reference.stops)),
        ended=len(ended),
        stops=sum(still) / len(still) if still else 1.0,
    )


def _compare(
    reference: Reference, worker: LlamaWorker, answers: Sequence[Answered], report: Report
) -> Positions:
    found: list[Positions] = []
    for done, answer in enumerate(answers, 1):
        tuned = reference.log_probs(answer.ids)
        untuned = reference.base_log_probs(answer.ids)
        file = log_softmax(worker.logits(answer.ids))
        agree = tuned.argmax(-1) == file.argmax(-1)
        found.append(Positions(kl_per_position(tuned, file), agree, kl_per_position(tuned, untuned)))
        report("verify", done, len(answers))
    return Positions(*(np.concatenate([getattr(p, f.name) for p in found]) for f in fields(Positions)))


def judge(quant: Quant, positions: Positions, **found: Any) -> Parity:
    """Hold the figures against what ``quant`` allows. Anything that is not a number fails."""
    mean_kl, top1 = float(positions.kl.mean()), float(positions.agree.mean())
    exact = found["template_identical"] and found["tokens_identical"] and found["stop_tokens_known"]
    close = bool(np.isfinite(mean_kl)) and mean_kl <= quant.max_kl and top1 >= quant.min_top1
    return Parity(
        positions=len(positions.kl),
        mean_kl=mean_kl,
        top1_agreement=top1,
        tune_kl=float(positions.tune_kl.mean()),
        passed=bool(exact and close and found["stops"] >= _MIN_STOPS),
        **found,
    )


def require(parity: Parity, quant: Quant, name: str) -> None:
    """Raises JobError that says what differs, unless ``parity`` passed."""
    if parity.passed:
        return
    differs = {
        f"mean KL {parity.mean_kl:.2g}, at most {quant.max_kl:g} allowed": not parity.mean_kl <= quant.max_kl,
        f"top-1 agreement {parity.top1_agreement:.3f}, at least {quant.min_top1} asked": not parity.top1_agreement
        >= quant.min_top1,
        "the chat template renders differently": not parity.template_identical,
        "text is tokenized differently": not parity.tokens_identical,
        "a stop token of the model does not stop llama.cpp": not parity.stop_tokens_known,
        f"only {parity.stops:.0%} of answers still end by themselves": parity.stops < _MIN_STOPS,
    }
    raise JobError(
        f"the {name} file is not equal to the tuned model, and was removed",
        why="; ".join(what for what, present in differs.items() if present),
        hint="try --quant q8_0 or f16; if those fail too, this model cannot be exported faithfully",
    )
