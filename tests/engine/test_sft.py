"""SFT: imitates completions and nothing else, and leaves a plain PEFT adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_models import tiny_model
from peft import PeftModel
from training_projects import make_project, new_job, new_run, preferences
from transformers import AutoModelForCausalLM

from rlhf_lite.engine import sft, text
from rlhf_lite.engine.__main__ import run_job
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.rollout import logprobs_of, response_logprobs
from rlhf_lite.engine.trainers import ADAPTER, Learned
from rlhf_lite.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "p", preferences(40), tiny_model("llama"), quantization="32bit")


def test_the_loss_is_over_the_completion_and_its_stop_token(project: Project) -> None:
    job, base = new_job(project, "sft")
    examples, _ = sft.load_examples(job, base)
    base.add(ADAPTER, job.preset.lora, trainable=True)
    trainer = sft.make_trainer(job, Learned(base), examples)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [
        (ids[mask.bool() & (labels == -100)].tolist(), labels[labels != -100].tolist())
        for ids, mask, labels in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        )
    ]
    assert all(completion[-1] == base.tokenizer.eos_token_id for _, completion in rows)
    expected = torch.cat(logprobs_of(base, ADAPTER, [p for p, _ in rows], [c for _, c in rows], 8))
    with base.view(ADAPTER), torch.no_grad():
        found = trainer.compute_loss(trainer.model, batch)  # pyright: ignore[reportArgumentType]
    assert float(found) == pytest.approx(-float(expected.mean()), abs=1e-5)


def test_chosen_answers_and_demonstrations_are_imitated_once_each_and_held_out_ones_never(
    project: Project,
) -> None:
    with project.labels() as store:
        train, held_out = store.preferences("train"), store.preferences("test")
        store.add_rating(train[0].prompt, train[0].chosen, True, "import:x")
        store.add_rating(train[1].prompt, "A given answer.", None, "import:x")
        store.add_rating(train[2].prompt, "A bad answer.", False, "import:x")
        store.add_rating(held_out[0].prompt, "A held-out answer.", None, "import:x")
    job, base = new_job(project, "sft")
    examples, skipped = sft.load_examples(job, base)
    said = [text.decode(base.tokenizer, e.completion) for e in examples]
    assert len(said) == len(train) + 1
    assert "A given answer." in said
    assert not {"A bad answer.", "A held-out answer."} & set(said)
    assert skipped == 0


def test_what_does_not_fit_is_counted(project: Project) -> None:
    with project.labels() as store:
        store.add_rating(store.preferences("train")[0].prompt, "cats and birds " * 300, None, "import:x")
    job, base = new_job(project, "sft")
    examples, skipped = sft.load_examples(job, base)
    assert skipped == 1
    assert all(len(e.ids) <= base.context for e in examples)
    assert ["1 of" in w.text for w in job.run.status().warnings] == [True]


def test_it_learns_and_its_adapter_is_plain_peft(project: Project) -> None:
    run = new_run(project, "sft", "sft.learning_rate=5e-3", "sft.epochs=4")
    assert run_job("sft", run) == 0
    result = run.status().result
    assert result["loss_last"] < 0.5 * result["loss_first"]  # type: ignore[operator]
    with project.labels() as store:
        assert result["examples"] == len(store.preferences("train"))
    inputs = run.settings().inputs
    base = SharedBase.load(inputs)
    base.load_adapter("sft", run.adapter, trainable=False)
    prompt, completion = [5, 6, 7], [8, 9, 10, 11]
    padded = text.pad([prompt], [completion], base.pad, base.device)
    with base.view("sft"), torch.no_grad():
        ours = response_logprobs(base, padded)[0]
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(inputs.model, dtype=torch.float32), str(run.adapter)
    ).eval()
    with torch.no_grad():
        every = torch.log_softmax(plain(torch.tensor([prompt + completion])).logits[0, 2:-1], -1)
    torch.testing.assert_close(ours, every.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1))
