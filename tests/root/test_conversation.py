"""A conversation: its turns, what is typed as a command, its file, and a choice between two answers as a label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import add_run

from rlhf_lite import chats, conversation, voices
from rlhf_lite.conversation import Conversation, Sampling
from rlhf_lite.errors import BadRow, UserError
from rlhf_lite.events import Finished, Result
from rlhf_lite.project import Project


def spoken(*texts: str, system: str = "") -> Conversation:
    """A conversation in which these were said in turn."""
    chat = Conversation()
    chat.system = system
    for number, text in enumerate(texts):
        (chat.reply if number % 2 else chat.say)(text)
    return chat


def said(chat: Conversation) -> list[str]:
    return [m["content"] for m in chat.messages]


# --- turns


def test_the_system_prompt_stands_first_whenever_it_was_given() -> None:
    chat = spoken("Hello", "Hi")
    chat.system = "Be brief."
    chat.system = "Be kind."
    assert said(chat) == ["Be kind.", "Hello", "Hi"]
    assert chat.messages[0]["role"] == "system"
    chat.system = ""
    assert said(chat) == ["Hello", "Hi"]


def test_an_answer_is_taken_back_alone_and_a_question_with_its_answer() -> None:
    chat = spoken("One?", "1", "Two?", "2")
    assert chat.take_answer() == "2"
    assert chat.take_answer() is None
    assert chat.take_question() == "Two?"
    assert said(chat) == ["One?", "1"]
    chat.reply("uno")
    assert said(chat) == ["One?", "uno"], "an answer takes the place of the one before"


def test_a_new_beginning_keeps_the_system_prompt() -> None:
    chat = spoken("One?", "1", system="Be brief.")
    chat.name = "old"
    chat.reset()
    assert (said(chat), chat.name) == (["Be brief."], "")


def test_what_an_answer_answers_is_all_before_it() -> None:
    chat = spoken("One?", "1", "Two?", "2")
    assert [m["content"] for m in chat.prompt()] == ["One?", "1", "Two?"]
    assert [m["content"] for m in spoken("One?").prompt()] == ["One?"]


# --- what is typed


def test_a_slash_is_a_command_and_a_space_before_it_makes_it_a_message() -> None:
    assert conversation.command("/set temperature 0.7") == ("set", "temperature 0.7")
    assert conversation.command("/retry") == ("retry", "")
    assert conversation.command(" /retry") is None
    assert conversation.command("What is /etc?") is None


def test_a_mistyped_command_names_the_nearest() -> None:
    with pytest.raises(UserError, match="/retyr") as told:
        conversation.command("/retyr")
    assert told.value.why == "did you mean /retry?"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("temperature", "0", 0.0), ("top_p", "0.9", 0.9), ("max_tokens", "64", 64), ("seed", "7", 7),
     ("seed", "none", None)],
)  # fmt: skip
def test_a_setting_takes_its_value(name: str, text: str, value: object) -> None:
    assert getattr(Sampling(seed=3).changed(name, text), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("temperature", "-1"), ("temperature", "nan"), ("temperature", "inf"), ("temperature", "hot"), ("top_p", "0"),
     ("top_p", "2"), ("max_tokens", "0"), ("max_tokens", "1.5"), ("max_tokens", ""), ("seed", "-1"), ("sede", "1"),
     ("words", "1")],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_with_what_can_be(name: str, text: str) -> None:
    with pytest.raises(UserError) as told:
        Sampling().changed(name, text)
    assert told.value.hint


# --- the context


def test_a_nearly_full_context_is_told_before_turns_are_left_out() -> None:
    # A session keeps room for the answer: at most a quarter of the context.
    assert conversation.context_warning(600, 1000, 512) == ""
    assert "675 of 1000" in conversation.context_warning(675, 1000, 512)
    assert conversation.context_warning(890, 1000, 10) == ""
    assert conversation.context_warning(891, 1000, 10)


def test_turns_that_were_left_out_are_counted() -> None:
    assert "oldest turn no longer fits and was" in conversation.dropped_words(1)
    assert "oldest 3 turns no longer fit and were" in conversation.dropped_words(3)


# --- its file


def test_a_saved_conversation_comes_back_as_it_was(project: Project) -> None:
    chat = spoken("Wie geht's?\nUnd sonst?", 'Gut, "danke" 🦜', system="Be brief.")
    path = chats.save(project, chat, "first talk")
    assert path == project.root / "chats" / "first talk.jsonl"
    assert [json.loads(line)["role"] for line in path.read_text().splitlines()] == [
        "system",
        "user",
        "assistant",
    ]
    again = chats.load(project, "first talk")
    assert (again.messages, again.name) == (chat.messages, "first talk")
    assert chats.saved(project) == ["first talk"]


def test_going_on_saves_over_it_and_another_conversation_does_not(project: Project) -> None:
    chat = spoken("One?", "1")
    chats.save(project, chat, "mine")
    chat.say("Two?")
    chat.reply("2")
    chats.save(project, chat, "mine")
    with pytest.raises(UserError, match="there is a conversation mine already"):
        chats.save(project, spoken("Other?", "x"), "mine")
    assert len(chats.load(project, "mine").messages) == 4


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/etc/passwd",
        "a/b",
        "..",
        ".hidden",
        "",
        "a\nb",
        "a\0b",
        "x" * 65,
        "-rf",
        "end.",
        "nul\\x",
        "a ",
    ],
)
def test_a_name_is_no_path(project: Project, name: str) -> None:
    before = sorted(project.root.parent.rglob("*"))
    with pytest.raises(UserError, match="no name"):
        chats.save(project, spoken("One?", "1"), name)
    with pytest.raises(UserError, match="no name"):
        chats.load(project, name)
    assert sorted(project.root.parent.rglob("*")) == before


def test_talks_are_kept_by_the_time_each_in_one_file_until_they_get_a_name(project: Project) -> None:
    first, second = spoken("One?", "1"), spoken("Two?", "2")
    for chat in (first, second, spoken(system="Be brief.")):  # in one second
        chats.keep(project, chat)
        chats.keep(project, chat)
    assert len({first.name, second.name}) == 2
    assert sorted(chats.saved(project)) == sorted([first.name, second.name])
    chats.save(project, first, "mine")
    assert sorted(chats.saved(project)) == sorted(["mine", second.name])
    chats.save(project, first, "copy")
    assert len(chats.saved(project)) == 3, "a name that was given stays"


def test_nothing_is_not_saved_and_what_is_not_there_names_what_is(project: Project) -> None:
    with pytest.raises(UserError, match="nothing to save"):
        chats.save(project, spoken(system="Be brief."), "empty")
    chats.save(project, spoken("One?", "1"), "mine")
    with pytest.raises(UserError) as told:
        chats.load(project, "yours")
    assert "mine" in told.value.hint


@pytest.mark.parametrize(
    "line", ["{not json", '{"role": "user"}', '{"role": "tool", "content": "x"}', '["user", "x"]',
             '{"role": 1, "content": "x"}'],
)  # fmt: skip
def test_a_damaged_file_names_its_line(project: Project, line: str) -> None:
    path = chats.save(project, spoken("One?", "1"), "mine")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BadRow, match=r"line 3 of mine\.jsonl"):
        chats.load(project, "mine")


# --- a choice as a label


@pytest.mark.parametrize("choice", ["left", "right"])
@pytest.mark.parametrize("texts", [("one", "two"), ("two", "one")])
def test_the_answer_that_was_chosen_is_the_one_that_is_kept(
    project: Project, choice: conversation.Choice, texts: tuple[str, str]
) -> None:
    prompt = spoken("Hi", "Hello", "How many?", "x", system="Be brief.").prompt()
    assert conversation.keep_choice(project, prompt, *texts, choice, 2.5) == 1
    with project.labels() as store:
        (kept,) = store.preferences()
    chosen = texts[choice == "right"]
    assert (kept.prompt, kept.chosen) == (prompt, chosen)
    assert kept.rejected != chosen


def test_a_tie_trains_nothing_and_counts_as_a_label(project: Project) -> None:
    prompt = spoken("How many?").prompt()
    assert conversation.keep_choice(project, prompt, "one", "two", "tie", 1.0) == 1
    assert conversation.keep_choice(project, prompt, "one", "three", "both_bad", 1.0) == 2
    with project.labels() as store:
        assert store.preferences() == []
        assert (store.counts().tie, store.counts().both_bad) == (1, 1)


def test_a_pair_that_waited_is_labelled_and_one_with_a_label_keeps_it(project: Project) -> None:
    with project.labels() as store:
        pair = store.unlabelled()[0]
    assert conversation.keep_choice(project, pair.prompt.messages, pair.b, pair.a, "left", 1.0) == 1
    assert conversation.keep_choice(project, pair.prompt.messages, pair.b, pair.a, "right", 1.0) is None
    with project.labels() as store:
        assert store.preferences()[0].chosen == pair.b


# --- who answers


def test_the_newest_of_policy_and_export_answers_and_all_that_are_there_can(
    project: Project, tmp_path: Path
) -> None:
    found = voices.of(project)
    assert (found.first, found.names, found.session("base")) == (
        "base",
        ("base",),
        ("talk", (str(project.root),)),
    )
    with pytest.raises(UserError, match="no model tuned") as told:
        found.named("tuned")
    assert told.value.why == "nothing is trained yet"
    old = add_run(project, "dpo", adapter=True)
    found = voices.of(project)
    assert (found.first, found.session("tuned")) == ("tuned", ("talk", (str(project.root), old.name)))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    add_run(project, "export", Result(values={"path": str(file)}), Finished())
    found = voices.of(project)
    assert (found.first, found.names) == ("gguf", ("base", "tuned", "gguf"))
    assert found.session("gguf") == ("chat", (str(file),))
    new = add_run(project, "ppo", adapter=True)
    found = voices.of(project)
    assert (found.first, found.words("tuned")) == ("tuned", f"{new.name} on its base")
    file.unlink()
    assert voices.of(project).names == ("base", "tuned")
