"""``SharedBase``: the frozen, usually 4-bit model, loaded once; policy, reward and reference are views of it.

Decided here:

- One adapter is active at a time, or none. :meth:`SharedBase.view` is the only place that switches, and it leaves
  the trainable parameters as :meth:`SharedBase.add` and :meth:`SharedBase.load_adapter` declared them, whatever
  PEFT's own switches do to ``requires_grad``.
- Run backward before leaving a view: checkpointed blocks are recomputed with whatever adapter is active then, and
  would give the first adapter a gradient of exactly zero. ``view`` refuses to switch inside another view.
- Compute is bf16 on GPUs from Ampere on, fp16 before, fp32 on the CPU. Adapters and heads are fp32 everywhere:
  in bf16 most entries of an adapter do not move at the learning rates of RL.
- bitsandbytes repacks 4-bit weights in place at the first evaluation on CPUs with AVX512-BF16, after which
  gradients and dequantization are silently wrong; that path is switched off right after loading.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from rlhf_lite.engine import heads, text
from rlhf_lite.engine.job import LOADING, Job
from rlhf_lite.errors import CheckpointMismatch, DataError, MachineError
from rlhf_lite.settings import Inputs, Lora, Quantization


def pick_device() -> torch.device:
    """The GPU that is this process's, the first unless it was given another; without one the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 from Ampere on, fp16 on older GPUs, fp32 on the CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_causal_lm(
    model: str, quantization: Quantization, device: torch.device, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The base as training, evaluation and export see it: frozen, quantized, on the device.

    Raises:
        DataError: the folder holds no model this version of transformers can load from safetensors.
        MachineError: 4-bit weights are not to be had on this machine.
    """
    transformers_logging.disable_progress_bar()  # a job's log is for errors
    dtype = torch.float32 if quantization == "32bit" else compute_dtype(device)
    options: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": trust_remote_code,
    }
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model, device_map={"": device}, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"cannot load the model {model}", why=str(error).splitlines()[0],
            hint="it wants config.json and *.safetensors (pickle checkpoints are refused)",
        ) from error  # fmt: skip
    except ImportError as error:
        raise MachineError(
            "4-bit weights are not to be had here", why=str(error).splitlines()[0],
            hint='set quantization = "16bit" in project.toml',
        ) from error  # fmt: skip
    keep_unpacked(loaded)
    loaded.requires_grad_(False)
    return loaded.eval()


def keep_unpacked(model: nn.Module) -> None:
    """Keep every 4-bit weight in the layout that can be differentiated and dequantized (see the module's text)."""
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


class SharedBase:
    """One frozen base and the adapters on it.

    Attributes:
        device: where it all lives.
        tokenizer: the model's own.
        stops: every token id that ends an answer.
        pad: the id padding is filled with.
        width: the hidden size, which heads need.
        context: the longest sequence, in tokens.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int]
    ) -> None:
        self.model = (
            model  # PEFT puts its layers into this very object, so it stays what every view computes with
        )
        self._wrapped: PeftModel | None = None
        self._trainable: set[str] = set()
        self._inside = False
        self.tokenizer = tokenizer
        self.stops = stops
        self.pad = text.pad_id(tokenizer, stops)
        self.device = model.device
        config = model.config.get_text_config()  # of a model that also sees, the part that writes
        self.width: int = config.hidden_size
        self.context: int = config.max_position_embeddings

    @classmethod
    def load(cls, inputs: Inputs, *, plain_template: bool = False) -> SharedBase:
        """Load what a run's inputs name, on this machine's device; fresh adapters and heads follow from its seed."""
        torch.manual_seed(inputs.seed)
        tokenizer = text.load_tokenizer(
            inputs.model, trust_remote_code=inputs.trust_remote_code, plain_template=plain_template
        )
        model = load_causal_lm(
            inputs.model, inputs.quantization, pick_device(), trust_remote_code=inputs.trust_remote_code
        )
        if inputs.checkpointing:  # in training mode only, so that sampling is as it was
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return cls(model, tokenizer, text.stop_ids(inputs.model, tokenizer))

    @classmethod
    def of(cls, job: Job) -> SharedBase:
        """Load the base a job works on."""
        base = cls.load(job.inputs, plain_template=job.project.file.plain_template)
        job.progress(LOADING, 1, 1)
        return base

    @property
    def peft(self) -> PeftModel:
        """The base with its adapters as PEFT and TRL know it."""
        if self._wrapped is None:
            raise KeyError("no adapter has been added")
        return self._wrapped

    @property
    def backbone(self) -> nn.Module:
        """The model without its output layer: ids → hidden states (B, T, D)."""
        return self.model.get_decoder()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, D) → logits (B, T, V), scaled as Granite does it and capped as Gemma does."""
        layer, config = self.model.get_output_embeddings(), self.model.config.get_text_config()
        assert isinstance(layer, nn.Module), "a causal LM has an output layer"
        found = layer(hidden)
        if scale := getattr(config, "logits_scaling", None):
            found = found / scale
        if cap := getattr(config, "final_logit_softcapping", None):
            found = cap * torch.tanh(found / cap)
        return found

    def add(self, name: str, lora: Lora, *, trainable: bool) -> None:
        """Add a fresh adapter, B = 0: its view computes exactly what the base computes."""
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self._add(name, config, trainable)

    def load_adapter(self, name: str, folder: Path, *, trainable: bool) -> None:
        """Load an adapter folder in PEFT's format; a score head in it is left to :mod:`rlhf_lite.engine.heads`.

        Raises:
            CheckpointMismatch: not an adapter for this base.
        """
        try:
            config: Any = LoraConfig.from_pretrained(str(folder))
            state = load_file(str(folder / "adapter_model.safetensors"))
        except (OSError, ValueError) as error:
            raise CheckpointMismatch(f"{folder} holds no adapter", why=str(error).splitlines()[0]) from error
        config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, False
        self._add(name, config, trainable)
        self.load_state(name, {k: v for k, v in state.items() if "lora_" in k})

    def copy(self, source: str, name: str, *, trainable: bool) -> None:
        """Add an adapter that starts as a copy of another."""
        config = LoraConfig(**self.peft.peft_config[source].to_dict())
        self._add(name, config, trainable)
        self.load_state(name, self.state(source))

    def _add(self, name: str, config: LoraConfig, trainable: bool) -> None:
        if self._wrapped is None:
            self._wrapped = get_peft_model(self.model, config, adapter_name=name)
        else:
            self._wrapped.add_adapter(name, config)
        if trainable:
            self._trainable.add(name)
        self._restore()

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """An adapter's weights by PEFT's names."""
        return get_peft_model_state_dict(self.peft, adapter_name=name)

    def load_state(self, name: str, state: dict[str, torch.Tensor]) -> None:
        """Set an adapter's weights.

        Raises:
            CheckpointMismatch: names or shapes differ from this base's.
        """
        expected = self.state(name)
        wrong = set(expected) ^ set(state) or {k for k in expected if expected[k].shape != state[k].shape}
        if wrong:
            raise CheckpointMismatch(
                "the adapter is for another model", why=f"{len(wrong)} tensors differ, the first is {min(wrong)}",
                hint="train it again on this project's model",
            )  # fmt: skip
        set_peft_model_state_dict(self.peft, state, adapter_name=name)

    def save_adapter(self, name: str, folder: Path, extra: dict[str, torch.Tensor] | None = None) -> None:
        """Write an adapter in PEFT's own format: loads with ``PeftModel.from_pretrained``.

        ``extra``: further tensors by PEFT's names; with a score head among them it is a ``SEQ_CLS`` adapter.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous() for k, v in {**self.state(name), **(extra or {})}.items()}
        save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        config: Any = self.peft.peft_config[name].to_dict()
        config["inference_mode"] = True
        if extra and heads.SCORE_KEY in extra:
            config["task_type"], config["modules_to_save"] = "SEQ_CLS", ["score"]
        config["base_model_name_or_path"] = self.model.config.name_or_path
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        (folder / "adapter_config.json").write_text(json.dumps(plain, indent=2, default=str))

    def parameters(self, name: str) -> list[nn.Parameter]:
        """An adapter's parameters."""
        return [p for n, p in self.peft.named_parameters() if f".{name}." in n]

    @contextmanager
    def view(self, name: str | None) -> Iterator[None]:
        """Make one adapter active, or none (the bare base), for the length of a ``with`` block."""
        if self._inside:
            raise RuntimeError("views do not nest: run backward and leave the first one")
        self._inside = True
        try:
            if self._wrapped is not None or name is not None:
                self._switch(name)
            yield
        finally:
            self._inside = False

    def _switch(self, name: str | None) -> None:
        tuner: Any = self.peft.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            self.peft.set_adapter(name)
        self._restore()

    def _restore(self) -> None:
        """Exactly the declared adapters require grad, whatever PEFT's switches did."""
        for n, p in self.peft.named_parameters():
            p.requires_grad_(any(f".{a}." in n for a in self._trainable))

    def hidden(self, padded: text.Padded) -> torch.Tensor:
        """Hidden states after the final norm, (B, L, D), in the view one is in; of padding they mean nothing."""
        return self.backbone(input_ids=padded.ids, use_cache=False).last_hidden_state
