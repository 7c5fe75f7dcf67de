"""What lies beside an exported GGUF: a Modelfile for Ollama and a model card."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_lite.engine.export import ExportRequest
from rlhf_lite.engine.export.verify import Parity

_CHATML_GO = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
_EXAMPLE = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Go"},
)


def _chatml(messages: tuple[dict[str, str], ...]) -> str:
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


def modelfile(file_name: str, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int]) -> str:
    """Ollama's Modelfile. TEMPLATE is written only where the model's own template is ChatML, compared by what it
    renders; a system text that it puts in by itself becomes SYSTEM. Else Ollama works from the file's own template.
    """
    lines = [f"FROM ./{file_name}"]
    rendered = str(tokenizer.apply_chat_template(list(_EXAMPLE), tokenize=False, add_generation_prompt=True))
    if rendered.endswith(_chatml(_EXAMPLE)):
        own = re.fullmatch(
            r"<\|im_start\|>system\n(.*)<\|im_end\|>\n", rendered.removesuffix(_chatml(_EXAMPLE)), re.DOTALL
        )
        if own is not None or rendered == _chatml(_EXAMPLE):
            lines.append(f'TEMPLATE """{_CHATML_GO}"""')
        if own is not None:
            lines.append(f'SYSTEM """{own[1]}"""')
    lines += [f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(token)}"' for token in sorted(stops)]
    return "\n".join(lines) + "\n"


def model_card(request: ExportRequest, file_name: str, parity: Parity) -> str:
    """A short README in the model card format of the Hugging Face hub."""
    base, tuned, kept = base_name(request.model), "no adapter", ""
    if request.adapter is not None:
        tuned = f"the LoRA adapter `{request.adapter.parent.name}/{request.adapter.name}` merged into it"
        kept = f"\nWithout the adapter the mean KL would be {parity.tune_kl:.2g}: that is the size of the tune.\n"
    return f"""---
base_model: {base}
library_name: gguf
pipeline_tag: text-generation
tags: [rlhf, lora]
---

# {request.name}

`{file_name}`: `{base}` with {tuned}, as GGUF {request.quant}.

## Is it the tuned model?

Compared with the tuned model in transformers on {parity.prompts} prompts ({parity.positions} positions):

| | |
|---|---|
| mean KL (nats per position) | {parity.mean_kl:.2g} |
| same most likely token | {parity.top1_agreement:.1%} |
| chat template renders the same | {"yes" if parity.template_identical else "no"} |
| text becomes the same tokens | {"yes" if parity.tokens_identical else "no"} |
| answers that ended by themselves and still do | {parity.stops:.0%} of {parity.ended} |
{kept}
## Chat

    rlhf-lite chat {file_name}
    ollama create {request.name} -f Modelfile && ollama run {request.name}
"""


def base_name(model: Path) -> str:
    """A model folder's name; the hub's own (``org/name``) where the folder is in its cache."""
    if model.parent.name == "snapshots":
        return model.parent.parent.name.removeprefix("models--").replace("--", "/")
    return model.name
