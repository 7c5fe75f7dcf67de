"""Talking to a project's policy and to the bare base before any export, as the app does it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import tiny_model
from peft import LoraConfig, get_peft_model
from training_projects import make_project
from transformers import AutoModelForCausalLM

from rlhf_lite import events, jobs, paths
from rlhf_lite.engine import session as protocol
from rlhf_lite.engine import text
from rlhf_lite.engine.base import SharedBase
from rlhf_lite.engine.decoder import Decoder, pick, stream_text, unpack
from rlhf_lite.engine.sampling import sample, seeded
from rlhf_lite.engine.session import Asked
from rlhf_lite.engine.talk import POLICY, answer
from rlhf_lite.errors import JobError, UserError
from rlhf_lite.jobs import Session
from rlhf_lite.project import Project, ProjectFile, Run
from rlhf_lite.settings import Inputs, Preset

QUESTION = {"role": "user", "content": "How do I boil an egg?"}
FOLLOWING = {"role": "user", "content": "What should I cook tonight for two friends?"}


def add_policy(project: Project, folder: Path) -> Run:
    """A finished ppo run whose adapter changes what the model says."""
    inputs = Inputs(stage="ppo", project=str(project.root), model=str(folder), quantization="nf4", seed=0)
    run = project.new_run(inputs, Preset())
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    tuned.save_pretrained(str(run.adapter))
    writer = events.EventWriter(run.events_path)
    writer.write(events.Started(stage="ppo", pid=1))
    writer.write(events.Finished())
    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found = make_project(tmp_path_factory.mktemp("talk") / "mine", [], paths.demo_model())
    add_policy(found, paths.demo_model())
    return found


@pytest.fixture(scope="module")
def base(project: Project) -> SharedBase:
    inputs = Inputs(stage="talk", project="", model=str(paths.demo_model()), quantization="nf4", seed=0)
    loaded = SharedBase.load(inputs)
    run = project.latest_policy()
    assert run
    loaded.load_adapter(POLICY, run.adapter, trainable=False)
    return loaded


@pytest.fixture
def decoder(base: SharedBase) -> Decoder:
    return Decoder(base)


def likeliest(base: SharedBase, view: str | None, messages: list[dict[str, str]], limit: int) -> list[int]:
    """What evaluation calls the likeliest answer: the reference for everything here."""
    with base.view(view):
        return sample(
            base, [text.prompt_ids(base.tokenizer, messages)], max_new_tokens=limit, batch_size=1,
            generator=seeded(base.device, 0, 0), greedy=True,
        ).completions[0]  # fmt: skip


def ask(
    decoder: Decoder, base: SharedBase, stop: threading.Event | None = None, **request: Any
) -> tuple[str, dict[str, Any]]:
    asked = {"type": "chat", "messages": [QUESTION], "temperature": 0, "max_tokens": 40, **request}
    *pieces, done = answer(decoder, base, ["base", "tuned"], asked, stop or threading.Event())
    return "".join(p["text"] for p in pieces), done


def test_each_side_says_what_evaluation_says_it_says_whatever_was_said_before(
    decoder: Decoder, base: SharedBase
) -> None:
    expected = {side: likeliest(base, v, [QUESTION], 40) for side, v in (("base", None), ("tuned", POLICY))}
    assert expected["base"] != expected["tuned"]
    for side in ("base", "tuned", "base", "tuned"):
        said, done = ask(decoder, base, side=side)
        ids = [i for i in expected[side] if i not in base.stops]
        assert said == base.tokenizer.decode(ids)
        assert done["tokens"] == len(expected[side])
    assert ask(decoder, base)[0] == said, "without a side it is the tuned one"


def test_a_second_turn_is_as_if_everything_had_been_evaluated_anew(
    decoder: Decoder, base: SharedBase
) -> None:
    said, _ = ask(decoder, base, side="base")
    turns = [QUESTION, {"role": "assistant", "content": said}, FOLLOWING]
    second, done = ask(decoder, base, side="base", messages=turns)
    assert done["prompt_tokens"] == len(text.prompt_ids(base.tokenizer, turns))
    assert second == ask(Decoder(base), base, side="base", messages=turns)[0]
    ids = [i for i in likeliest(base, None, turns, 40) if i not in base.stops]
    assert second == base.tokenizer.decode(ids)


def test_a_conversation_that_has_been_evaluated_is_not_evaluated_again(
    decoder: Decoder, base: SharedBase
) -> None:
    evaluated: list[int] = []
    hook = base.model.register_forward_pre_hook(
        lambda _, __, given: evaluated.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    long = [{"role": "user", "content": "And then? " * 150}]
    _, first = ask(decoder, base, side="base", messages=long, max_tokens=1)
    assert sum(evaluated) == first["prompt_tokens"]
    _, again = ask(decoder, base, side="base", messages=long, max_tokens=1)
    assert sum(evaluated) == first["prompt_tokens"] + 1, "the last token, for its logits"
    hook.remove()
    assert again["prompt_tokens"] == first["prompt_tokens"]


def test_the_oldest_turns_are_left_out_of_a_conversation_that_outgrows_the_context(
    decoder: Decoder, base: SharedBase
) -> None:
    system = {"role": "system", "content": "Be short."}
    turns = [system]
    for number in range(60):
        turns += [{"role": "user", "content": f"Tell me more about {number}, please, and slowly."}]
        turns += [{"role": "assistant", "content": f"There is a lot to say about {number} and the rest."}]
    _, done = ask(decoder, base, messages=[*turns, QUESTION], max_tokens=30)
    assert 0 < done["dropped"] < 60
    assert done["prompt_tokens"] + 30 <= decoder.context
    kept = [
        system,
        *turns[1 + 2 * done["dropped"] :],
        QUESTION,
    ]  # by whole turns, the system message among them
    assert done["prompt_tokens"] == len(text.prompt_ids(base.tokenizer, kept))
    one_more = [system, *turns[2 * done["dropped"] - 1 :], QUESTION]
    least = 0.75 * (decoder.context - 30)
    assert len(text.prompt_ids(base.tokenizer, one_more)) > least, "at most a quarter more than had to be"


def test_one_message_that_fills_the_context_is_refused(decoder: Decoder, base: SharedBase) -> None:
    with pytest.raises(UserError, match="context holds 1024"):
        ask(decoder, base, messages=[{"role": "user", "content": "word " * 3000}])
    assert ask(decoder, base, max_tokens=1)[1]["reason"] == "length"


def test_a_stop_ends_the_answer_and_nothing_is_sampled_after_it(decoder: Decoder, base: SharedBase) -> None:
    stop = threading.Event()
    request = {"type": "chat", "messages": [QUESTION], "temperature": 1.5, "max_tokens": 400, "seed": 3}
    replies = answer(decoder, base, ["base", "tuned"], request, stop)
    next(replies)
    stop.set()
    done = list(replies)[-1]
    assert done["reason"] == "cancelled"
    assert done["tokens"] <= 3
    assert ask(decoder, base, stop=stop)[1]["tokens"] == 0, "stopped before it began"


def test_the_same_seed_says_the_same_and_another_something_else(decoder: Decoder, base: SharedBase) -> None:
    drawn = [ask(decoder, base, temperature=1.2, seed=seed, side="base")[0] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_top_p_keeps_the_likeliest_tokens_that_reach_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[torch.tensor([2, 0, 3, 1])]
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p: float) -> set[int]:
        return {pick(logits, 1.0, top_p, generator) for _ in range(400)}

    assert drawn(0.0) == {1}
    assert drawn(0.7) == {1, 3}  # 0.5 does not reach 0.7, with 0.3 it does
    assert drawn(1.0) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["llama", "llama-sentencepiece", "qwen2"])
def test_a_character_that_is_split_over_tokens_comes_whole(kind: str) -> None:
    tokenizer = text.load_tokenizer(str(tiny_model(kind)), trust_remote_code=False, plain_template=False)
    written = "The café 日本 says 🙂👍🏽 and — “so on”  ."
    ids = text.encode(tokenizer, written)
    assert len(ids) > len(written.split())
    pieces = list(stream_text(tokenizer, ids))
    assert "".join(pieces) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)
    cut = "".join(stream_text(tokenizer, text.encode(tokenizer, "so 🙂")[:-1]))
    assert cut.startswith("so")
    assert cut == tokenizer.decode(text.encode(tokenizer, "so 🙂")[:-1]), (
        "what is left over is told in the end"
    )


def test_unpacked_layers_say_what_the_packed_ones_say(base: SharedBase) -> None:
    inputs = Inputs(stage="talk", project="", model=str(paths.demo_model()), quantization="nf4", seed=0)
    other = SharedBase.load(inputs)
    unpack(other.model)
    assert not any("4bit" in type(m).__name__ for m in other.model.modules())
    ids = torch.tensor([text.prompt_ids(base.tokenizer, [QUESTION])])
    with torch.no_grad(), base.view(None), other.view(None):
        assert torch.allclose(base.model(ids).logits, other.model(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "dance"},
        {"type": "chat"},
        {"type": "chat", "messages": [{"role": "user"}]},
        {"type": "chat", "messages": [QUESTION], "temperature": "warm"},
    ],
)
def test_a_request_that_makes_no_sense_is_an_error_of_the_user(request_: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Asked.of(request_)


def test_a_turn_is_never_torn_apart() -> None:
    turns = [FOLLOWING, {"role": "assistant", "content": "Soup."}, QUESTION]
    asked = Asked.of({"type": "chat", "messages": turns, "max_tokens": 1})
    found = protocol.fit(asked, lambda messages: [0] * 10 * len(messages), 29)
    assert (len(found.ids), found.dropped) == (10, 1), "the answer goes with its question"


def read_answer(session: Session) -> tuple[str, dict[str, Any]]:
    said = ""
    while (message := session.receive())["type"] == "token":
        said += message["text"]
    return said, message


def test_a_session_talks_while_a_job_holds_the_device(project: Project) -> None:
    run = project.latest_policy()
    assert run
    with jobs.hold_device(jobs.device_name(), run), Session("talk", str(project.root), run.name) as session:
        ready = session.receive()
        assert (ready["sides"], ready["run"], ready["device"]) == (["base", "tuned"], run.name, "cpu")
        assert ready["context"] == 1024
        session.send(type="chat", messages=[QUESTION], temperature=0, max_tokens=300)
        tuned, done = read_answer(session)
        assert done["seconds"] >= done["seconds_to_first"] > 0
        session.send(type="chat", messages=[QUESTION], temperature=0, max_tokens=300, side="base")
        plain, done = read_answer(session)
        assert done["reason"] == "stop"
        assert "<|im_end|>" not in plain
        assert plain != tuned
        session.send(type="chat", messages=[QUESTION], side="left")
        with pytest.raises(UserError, match="left"):
            session.receive()
        session.send(type="chat", messages=[QUESTION], temperature=1.5, max_tokens=900, seed=3)
        session.send(type="stop")
        began = time.monotonic()
        assert read_answer(session)[1]["reason"] == "cancelled"
        assert time.monotonic() - began < 5


def test_without_a_policy_there_is_only_the_base(tmp_path: Path) -> None:
    untrained = Project.create(tmp_path / "new", ProjectFile(name="new", model="demo", preset="demo"))
    with Session("talk", str(untrained.root), "--device", "cpu") as session:
        assert session.receive()["sides"] == ["base"]
        session.send(type="chat", messages=[QUESTION], max_tokens=1)
        assert read_answer(session)[1]["tokens"] == 1
        session.send(type="chat", messages=[QUESTION], side="tuned")
        with pytest.raises(UserError, match="tuned"):
            session.receive()


def test_what_cannot_be_talked_to_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    absent = Project.create(tmp_path / "far", ProjectFile(name="far", model="someone/model", preset="demo"))
    for arguments, expected in (
        ((str(absent.root),), "not on this machine"),
        ((str(absent.root), "7"), "no run 7"),
        ((str(tmp_path / "nowhere"),), "does not exist"),
    ):
        with Session("talk", *arguments) as session, pytest.raises(UserError, match=expected):
            session.receive()


def test_a_broken_adapter_is_the_last_reply_and_not_silence(tmp_path: Path) -> None:
    project = make_project(tmp_path / "mine", [], paths.demo_model())
    run = add_policy(project, paths.demo_model())
    (run.adapter / "adapter_model.safetensors").write_bytes(b"\x10")
    with Session("talk", str(project.root)) as session, pytest.raises(JobError, match="talk failed"):
        session.receive()
