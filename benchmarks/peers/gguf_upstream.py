"""llama.cpp's own converter, ``convert_hf_to_gguf.py``, on one model: what it costs behind the imports.

    python gguf_upstream.py LLAMA_CPP MODEL_FOLDER TARGET.gguf TYPE PRE_TOKENIZER

A process of its own, started by ``export.py``, because its gguf package is newer than the installed one and has the
same name. It knows a byte-level tokenizer by a hash over the token ids of a text, and refuses those it has not seen,
so it is told the kind; and where it wants sentencepiece's file, it reads tokenizer.json as it does for the others.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from peak import Cost


def main(llama_cpp: str, folder: str, target: str, floats: str, pre: str) -> None:
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    import convert_hf_to_gguf as upstream  # type: ignore[import-not-found]
    from conversion.base import TextModel  # type: ignore[import-not-found]
    from transformers import AutoTokenizer  # noqa: F401  (imported by it only when it is asked)

    logging.disable()
    architecture = json.loads((Path(folder) / "config.json").read_text())["architectures"][0]
    model: Any = upstream.get_model_class(architecture)
    model.get_vocab_base_pre = lambda self, tokenizer: pre
    model.set_vocab = TextModel._set_vocab_gpt2
    sys.argv = [
        "convert_hf_to_gguf.py",
        folder,
        "--outfile",
        target,
        "--outtype",
        floats,
        "--model-name",
        "test",
    ]
    cost = Cost()
    upstream.main()
    cost.print(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
