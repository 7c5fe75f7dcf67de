"""The proof: does the file, in llama.cpp, say what the tuned model says?

The reference is the model that was evaluated: the base as loaded for training with the adapter on, computed in
fp32 by transformers and PEFT. The candidate is the finished file in a llama.cpp process with an fp32 KV cache.
On each prompt the reference writes a greedy answer. The steps, each of which can fail an export by its name:

- chat template: prompts, and awkward strings as messages, render to the same text.
- token ids: those texts become the same ids. Strings are compared where they stand in a chat, behind the template's
  own words: nothing else is ever said to the model.
- BOS: what programs put before a prompt by themselves is what the tuned model was given.
- end tokens: the file names one of the model's, and every one of them ends a generation in llama.cpp.
- logits: both score prompt and answer; the mean KL (Kullback-Leibler, reference to file, nats per position) and top-1
  agreement are taken over all positions.
- greedy text: llama.cpp answers by itself, token by token, and is held to :func:`follows`.
- stopping: greedy answers that end by themselves still do.

Left out: prompts beyond 256 tokens, whose logits would need more memory than the rest of an export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import gguf
import numpy as np

from rlhf_lite.engine import text
from rlhf_lite.engine.export.gguf import Report
from rlhf_lite.engine.export.quantize import Quant
from rlhf_lite.engine.export.reference import ANSWER_TOKENS, Answered, Reference
from rlhf_lite.engine.export.vocab import added_tokens, opening_space
from rlhf_lite.engine.export.worker import LlamaWorker
from rlhf_lite.errors import DataError, JobError, UserError

_PROMPT_TOKENS = 256
_MIN_STOPS = 0.5  # a quantized greedy answer may wander off; a file whose stop token is lost has 0
_WHOLE = {gguf.LlamaFileType.ALL_F32, gguf.LlamaFileType.MOSTLY_F16, gguf.LlamaFileType.MOSTLY_BF16}
_ROUNDING = 1e-4  # nats that scoring all tokens at once and one by one may differ by
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
        greedy_identical: the share of prompts whose greedy answer in llama.cpp is the tuned model's, token for token.
        greedy_follows: whether every greedy answer that parts from the tuned model's may (:func:`follows`).
        tune_kl: the same KL from the tuned model to its base, adapter off; 0 without an adapter. A file keeps the
            tune where ``mean_kl`` is far below it.
        kept: how much of the tune is in the file (:func:`kept_share`); None without an adapter.
    """

    prompts: int
    positions: int
    mean_kl: float
    top1_agreement: float
    tune_kl: float
    kept: float | None
    template_identical: bool
    tokens_identical: bool
    bos_identical: bool
    stop_tokens_known: bool
    greedy_identical: float
    greedy_follows: bool
    ended: int
    stops: float
    passed: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Positions:
    """Per position of all prompts and answers, (T,) each: KL and top-1 agreement of the file, KL of the base, and
    whether the token foretold there is the tuned model's own, of its answer."""

    kl: np.ndarray
    agree: np.ndarray
    tune_kl: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Greedy:
    """One greedy answer of the file. ``same``: token for token; ``follows``: it parts where it may, if at all;
    ``stopped``: it ended by itself."""

    same: bool
    follows: bool
    stopped: bool


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(T, V) -> (T, V), over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_per_position(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p ‖ q) from log-probabilities (T, V): (T,) nats."""
    return (np.exp(p) * (p - q)).sum(-1)


def kept_share(positions: Positions) -> float | None:
    """How much of the tune a file keeps: 1 - KL(tuned ‖ file) / KL(tuned ‖ base) on the tuned model's own answers, at
    least 0; None where tuned and base do not differ.

    The difference of the two KLs is E_tuned[log file - log base], so this is the part of what tuning added to the
    log-likelihood of the tuned model's own words that the file still gives them: 1 for the tuned model, 0 for its base.
    Exact, additive over tokens, and hard to please: noise of quantization counts as loss even where it does not point
    back to the base, which a projection on the tune's direction would let pass.
    """
    tune = float(positions.tune_kl[positions.own].sum())
    if tune == 0:
        return None
    return max(0.0, 1 - float(positions.kl[positions.own].sum()) / tune)


def flip_cost(log_p: np.ndarray, first: int, second: int) -> float:
    """The least KL from p, (V,) as log-probabilities, of a distribution that likes ``second`` as well as ``first``.

    Such a one shares their mass evenly and leaves the rest: KL = p1 ln(p1 / m) + p2 ln(p2 / m), m = (p1 + p2) / 2. For
    a near tie with a gap of g nats that is about (p1 + p2) g² / 8. Zero where p does so itself.
    """
    one, two = np.exp(log_p[[first, second]].astype(np.float64))
    mean = (one + two) / 2
    return 0.0 if two >= one else float(one * np.log(one / mean) + two * np.log(max(two, 1e-300) / mean))


def follows(
    answer: Answered, found: Sequence[int], tuned: np.ndarray, file: np.ndarray, quant: Quant
) -> bool:
    """Whether the file's greedy answer ``found`` may differ from the tuned model's as it does.

    Two greedy answers part for good at the first token where rounding decides, so texts cannot be demanded equal; but
    up to there both saw the same text, and both distributions over that token are known (``tuned`` and ``file``, (T, V)
    log-probabilities of prompt and the tuned model's answer). So, at the first token that differs:

    - the file must stand by it: scored over the same text its own distribution prefers it too. Else generating and
      scoring do not agree, and the KL that was measured says nothing of what people will read.
    - a file that is not quantized must have met a near tie: any distribution that makes this choice is at least
      :func:`flip_cost` away from the tuned one there, and that may not exceed the mean KL that its type is allowed. A
      quantized file may turn clearer choices here and there; how many is what its limits on KL and top-1 are for.

    An answer that ends where the tuned model goes on, or goes on where that ends, all else being equal, may not.
    """
    own = answer.answer_ids
    at = next((i for i, pair in enumerate(zip(own, found, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        return len(found) == len(own)
    place = len(answer.prompt_ids) + at - 1
    stands = flip_cost(file[place], own[at], found[at]) <= _ROUNDING
    return stands and (
        quant.ftype not in _WHOLE or flip_cost(tuned[place], own[at], found[at]) <= quant.max_kl
    )


def measure(
    reference: Reference,
    worker: LlamaWorker,
    prompts: Sequence[Sequence[dict[str, str]]],
    quant: Quant,
    report: Report,
) -> Parity:
    """Compare the file that ``worker`` has open with ``reference``. Raises UserError where every prompt is too long."""
    tokenizer = reference.tokenizer
    short = [m for m in prompts if len(text.prompt_ids(tokenizer, m)) <= _PROMPT_TOKENS]
    if not short:
        raise UserError(
            f"no prompt of at most {_PROMPT_TOKENS} tokens to compare on",
            hint="add a short prompt to the project",
        )
    report("verify", 0, len(short))
    answers = [reference.answer(messages) for messages in short]
    positions, greedy = _compare(reference, worker, answers, quant, report)
    chats = [*short, *_awkward_chats(reference)]
    rendered = [text.render(tokenizer, messages) for messages in chats]
    written = [opening_space(tokenizer) + one for one in rendered]
    specials = worker.specials()
    stopped = [one.stopped for one, answer in zip(greedy, answers, strict=True) if answer.ended]
    return judge(
        quant,
        positions,
        prompts=len(short),
        template_identical=[_rendered(worker, messages) for messages in chats] == written,
        tokens_identical=worker.tokenize(written) == [text.encode(tokenizer, one) for one in rendered],
        bos_identical=specials.added == added_tokens(tokenizer),
        stop_tokens_known=worker.ends(sorted(reference.stops)) and specials.eos in reference.stops,
        greedy_identical=sum(one.same for one in greedy) / len(greedy),
        greedy_follows=all(one.follows for one in greedy),
        ended=len(stopped),
        stops=sum(stopped) / len(stopped) if stopped else 1.0,
    )


def _awkward_chats(reference: Reference) -> list[list[dict[str, str]]]:
    """The strings as messages, but for those that the model's own template refuses."""
    chats = [[{"role": "user", "content": string}] for string in _STRINGS]
    accepted: list[list[dict[str, str]]] = []
    for messages in chats:
        try:
            text.render(reference.tokenizer, messages)
        except UserError:
            continue
        accepted.append(messages)
    return accepted


def _rendered(worker: LlamaWorker, messages: Sequence[dict[str, str]]) -> str | None:
    """What the file's template renders, None where it has none or refuses."""
    try:
        return worker.render(messages)
    except (UserError, DataError):
        return None


def _compare(
    reference: Reference, worker: LlamaWorker, answers: Sequence[Answered], quant: Quant, report: Report
) -> tuple[Positions, list[Greedy]]:
    found: list[Positions] = []
    greedy: list[Greedy] = []
    for done, answer in enumerate(answers, 1):
        tuned = reference.log_probs(answer.ids)
        untuned = reference.base_log_probs(answer.ids)
        file = log_softmax(worker.logits(answer.ids))
        own = np.arange(len(answer.ids)) >= len(answer.prompt_ids) - 1
        own[-1] = False  # what would come behind the answer is nobody's word
        agree = tuned.argmax(-1) == file.argmax(-1)
        found.append(Positions(kl_per_position(tuned, file), agree, kl_per_position(tuned, untuned), own))
        # One that should end gets longer to do so than it should need.
        longest = 2 * ANSWER_TOKENS if answer.ended else len(answer.answer_ids)
        said = worker.greedy(answer.prompt_ids, longest)
        may = follows(answer, said, tuned, file, quant)
        greedy.append(Greedy(said == answer.answer_ids, may, bool(said) and worker.ends(said[-1:])))
        report("verify", done, len(answers))
    joined = Positions(*(np.concatenate([getattr(p, f.name) for p in found]) for f in fields(Positions)))
    return joined, greedy


def judge(quant: Quant, positions: Positions, **found: Any) -> Parity:
    """Hold the figures against what ``quant`` allows. Anything that is not a number fails."""
    parity = Parity(
        positions=len(positions.kl),
        mean_kl=float(positions.kl.mean()),
        top1_agreement=float(positions.agree.mean()),
        tune_kl=float(positions.tune_kl.mean()),
        kept=kept_share(positions),
        passed=False,
        **found,
    )
    return Parity(**{**asdict(parity), "passed": not _differences(parity, quant)})


def _differences(parity: Parity, quant: Quant) -> list[str]:
    """Each step that failed, by its name, and what was found."""
    steps = {
        "chat template: it renders differently, or is missing": not parity.template_identical,
        "token ids: text is tokenized differently": not parity.tokens_identical,
        "BOS: another beginning is put before a prompt": not parity.bos_identical,
        "end tokens: a stop token of the model does not stop llama.cpp": not parity.stop_tokens_known,
        f"logits: mean KL {parity.mean_kl:.2g}, at most {quant.max_kl:g} allowed": not parity.mean_kl
        <= quant.max_kl,
        f"logits: top-1 agreement {parity.top1_agreement:.3f}, at least {quant.min_top1} asked": not (
            parity.top1_agreement >= quant.min_top1
        ),
        "greedy text: an answer parts from the tuned model's without need": not parity.greedy_follows,
        f"stopping: only {parity.stops:.0%} of answers still end by themselves": parity.stops < _MIN_STOPS,
    }
    return [step for step, failed in steps.items() if failed]


def require(parity: Parity, quant: Quant, name: str) -> None:
    """Raises JobError that names the steps that failed, unless ``parity`` passed."""
    if parity.passed:
        return
    raise JobError(
        f"the {name} file is not equal to the tuned model, and was removed",
        why="; ".join(_differences(parity, quant)),
        hint="try --quant q8_0 or f16; if those fail too, this model cannot be exported faithfully",
    )
