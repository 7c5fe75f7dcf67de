"""Our exporter on one model, up to the file and without the proof: what it costs behind the imports.

    python gguf_of_ours.py MODEL_FOLDER TARGET.gguf TYPE QUANTIZATION

QUANTIZATION is how the base was trained: "16bit" takes its weights as they are, "nf4" rounds them to 4 bits and back.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bitsandbytes.functional  # noqa: F401  (imported by it only when it is asked)
import torch
from peak import Cost

from rlhf_lite.engine import text
from rlhf_lite.engine.export.gguf import plan_gguf, write_gguf
from rlhf_lite.engine.export.merge import MergedWeights, SafetensorsFolder, read_json
from rlhf_lite.engine.export.vocab import read_vocabulary


def main(model: str, target: str, floats: Any, quantization: Any) -> None:
    folder, cost = Path(model), Cost()
    tokenizer = text.load_tokenizer(model, trust_remote_code=False, plain_template=False)
    weights = MergedWeights(SafetensorsFolder(folder), quantization, torch.bfloat16, None)
    rows = weights.shapes["model.embed_tokens.weight"][0]
    vocabulary = read_vocabulary(tokenizer, text.stop_ids(model, tokenizer), rows)
    plan = plan_gguf(read_json(folder / "config.json"), vocabulary, weights)
    write_gguf(plan, floats, Path(target), "test", lambda *_: None)
    cost.print(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
