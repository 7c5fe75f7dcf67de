"""The chat page, with a child that says what the test has it say."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from at_the_keys import drive, footer_width, holds, page, shown, until
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from rlhf_lite import chats, events, jobs
from rlhf_lite.conversation import Conversation
from rlhf_lite.errors import DataError, JobDied, RlhfLiteError
from rlhf_lite.project import Project, ProjectFile
from rlhf_lite.settings import Inputs, load_preset
from rlhf_lite.tui.app import RlhfApp
from rlhf_lite.tui.screens import chat as chat_module
from rlhf_lite.tui.screens.chat import ChatPage


def a_run(project: Project, stage: str, *said: events.AnyEvent) -> None:
    """A run that finished, with what else it said."""
    inputs = Inputs(stage=stage, project=str(project.root), model="demo", quantization="nf4", seed=0)
    run = project.new_run(inputs, load_preset("demo"))
    log = events.EventWriter(run.events_path)
    for event in (events.Started(stage=stage, pid=1), *said, events.Finished()):
        log.write(event)
    log.close()
    run.adapter.mkdir()


Reply = dict[str, Any]
READY = {"type": "ready", "name": "it", "context": 1000, "sides": ["base", "tuned"], "device": "cpu"}


def spoken(*pieces: str, **more: object) -> list[Reply]:
    """An answer's replies."""
    done = {"type": "done", "reason": "stop", "tokens": len(pieces), "seconds": 0.5, "prompt_tokens": 20,
            "seconds_to_first": 0.1, "dropped": 0, **more}  # fmt: skip
    return [*({"type": "token", "text": piece} for piece in pieces), done]


class Child:
    """In place of the session's process: every answer is what ``answers`` makes of the request."""

    made: list[Child]
    answers: Callable[[Reply], list[Reply | RlhfLiteError]]
    loads: threading.Event
    first: Reply | RlhfLiteError

    def __init__(self, verb: str, *arguments: str) -> None:
        self.verb, self.arguments = verb, arguments
        self.asked: list[Reply] = []
        self.closed = False
        self._said: queue.Queue[Reply | RlhfLiteError] = queue.Queue()
        Child.made.append(self)

    def send(self, **message: Any) -> None:
        if message["type"] == "stop":
            self._said.put(spoken(reason="cancelled", seconds_to_first=None)[0])
            return
        self.asked.append(message)
        for reply in Child.answers(message):
            self._said.put(reply)

    def receive(self) -> Reply:
        if not self.asked:
            Child.loads.wait(10)
            if isinstance(Child.first, RlhfLiteError):
                raise Child.first
            if self._said.empty() and not getattr(self, "_greeted", False):
                self._greeted = True
                return Child.first
        reply = self._said.get(timeout=10)
        if isinstance(reply, RlhfLiteError):
            raise reply
        return reply

    def close(self) -> None:
        self.closed = True
        self._said.put(JobDied("closed"))


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> type[Child]:
    Child.made, Child.loads, Child.first = [], threading.Event(), READY
    Child.loads.set()
    Child.answers = staticmethod(lambda request: spoken("Hello", " there."))  # pyright: ignore
    monkeypatch.setattr(jobs, "Session", Child)
    return Child


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """With a policy."""
    project = Project.create(tmp_path / "mine", ProjectFile(name="mine", model="demo", preset="demo"))
    a_run(project, "dpo")
    return project


Steps = Callable[[RlhfApp, Pilot[None], ChatPage], Any]


def talk(project: Project, steps: Steps, *, size: tuple[int, int] = (80, 24), ascii: bool = False) -> None:
    """Open the chat from home by its key, and go on from there."""

    async def on(app: RlhfApp, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        await pilot.pause()
        assert isinstance(app.screen, ChatPage)
        await steps(app, pilot, app.screen)

    drive(on, project.root, size=size, ascii=ascii)


async def say(pilot: Pilot[None], chat: ChatPage, text: str) -> None:
    """Type and send, and wait for what comes of it."""
    chat.typing.insert(text)
    await pilot.press("enter")
    await pilot.pause()
    await until(pilot, lambda: chat.saying is None and chat.ready is not None)
    await pilot.pause()


def screen(app: RlhfApp) -> str:
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def texts(chat: ChatPage) -> list[str]:
    return [m["content"] for m in chat.chat.messages]


def test_one_types_and_sends_while_the_model_is_still_loading(project: Project, child: type[Child]) -> None:
    child.loads.clear()

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        assert "loading the model" in shown(app, "#chatline")
        await pilot.press(*"hi", "enter")
        await pilot.pause()
        assert "> hi" in screen(app)
        child.loads.set()
        await until(pilot, lambda: texts(chat) == ["hi", "Hello there."])
        await pilot.pause()
        assert "Hello there." in screen(app)
        line = shown(app, "#chatline")
        assert "tuned" in line
        assert "first token 0.10 s" in line
        assert "context 22/1000 (2%)" in line
        assert (child.made[0].verb, child.made[0].arguments) == ("talk", (str(project.root), "0001-dpo"))
        assert child.made[0].asked[0]["side"] == "tuned"

    talk(project, steps)


def test_escape_stops_an_answer_and_what_was_said_stays(
    project: Project, child: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child.answers = staticmethod(lambda request: spoken("Half an")[:1])  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        chat.typing.insert("Go on")
        await pilot.press("enter")
        await until(pilot, lambda: "Half an" in screen(app))
        assert "esc stops" in shown(app, "#chatline")
        await pilot.press("escape")
        await until(pilot, lambda: chat.saying is None)
        assert texts(chat) == ["Go on", "Half an"]
        await pilot.press("escape")  # one press too many
        assert page(app) == "chat"
        monkeypatch.setattr(chat_module, "AFTER_END", 0.0)
        await pilot.press("escape")
        assert page(app) == "home"
        await until(pilot, lambda: child.made[0].closed)

    talk(project, steps)


def test_escape_before_the_first_word_gives_the_message_back(project: Project, child: type[Child]) -> None:
    child.loads.clear()

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await pilot.press(*"hi", "enter")
        await pilot.pause()
        await pilot.press("escape")
        await until(pilot, lambda: chat.typing.text == "hi")
        assert texts(chat) == []
        assert "> hi" not in screen(app)
        child.loads.set()
        await say(pilot, chat, "!")
        assert texts(chat) == ["hi!", "Hello there."]
        assert len(child.made) == 1, "the model was not loaded twice"

    talk(project, steps)


def test_a_damaged_file_is_told_and_the_next_message_starts_anew(
    project: Project, child: type[Child]
) -> None:
    child.first = DataError("the file is damaged", why="no tensors", hint="export it again")

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await until(pilot, lambda: "the file is damaged" in screen(app))
        assert "no tensors" in screen(app)
        assert "export it again" in screen(app)
        child.first = READY
        await say(pilot, chat, "hi")
        assert texts(chat) == ["hi", "Hello there."]
        assert len(child.made) == 2

    talk(project, steps)


def test_a_child_that_dies_amid_an_answer_leaves_what_it_said(project: Project, child: type[Child]) -> None:
    died = JobDied("the chat process ended", why="exit -9", hint="start it again")
    child.answers = staticmethod(lambda request: [*spoken("Half")[:1], died])  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        chat.typing.insert("hi")
        await pilot.press("enter")
        await until(pilot, lambda: "exit -9" in screen(app))
        assert texts(chat) == ["hi", "Half"]
        child.answers = staticmethod(lambda request: [died])  # pyright: ignore
        chat.typing.insert("again")
        await pilot.press("enter")
        await until(pilot, lambda: chat.typing.text == "again")
        assert texts(chat) == ["hi", "Half"], "a question that nobody answered is no turn"

    talk(project, steps)


def test_retry_and_edit_replace_and_escape_leaves_as_it_was(project: Project, child: type[Child]) -> None:
    numbers = iter(range(9))
    child.answers = staticmethod(lambda request: spoken(f"answer {next(numbers)}"))  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "One?")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: texts(chat) == ["One?", "answer 1"])
        assert child.made[0].asked[1]["messages"] == [{"role": "user", "content": "One?"}]
        await pilot.press("f2")
        assert chat.typing.text == "One?"
        await pilot.press("escape")
        assert (chat.typing.text, texts(chat), page(app)) == ("", ["One?", "answer 1"], "chat")
        await say(pilot, chat, "/edit")
        await pilot.press("backspace")
        await say(pilot, chat, " and two?")
        assert texts(chat) == ["One and two?", "answer 2"]
        assert "> One?" not in screen(app)

    talk(project, steps)


def test_a_retry_that_is_stopped_at_once_keeps_the_answer(project: Project, child: type[Child]) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "One?")
        child.answers = staticmethod(lambda request: [])  # pyright: ignore
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(child.made[0].asked) == 2)
        await pilot.press("escape")
        await until(pilot, lambda: chat.saying is None)
        await pilot.pause()
        assert texts(chat) == ["One?", "Hello there."]
        assert "Hello there." in screen(app)

    talk(project, steps)


def test_side_by_side_both_answer_with_the_same_luck_and_the_tuned_one_goes_on(
    project: Project, child: type[Child]
) -> None:
    child.answers = staticmethod(lambda request: spoken(f"I am {request['side']}"))  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "/side")
        await say(pilot, chat, "Who?")
        first, second = child.made[0].asked
        assert [first["side"], second["side"]] == ["base", "tuned"]
        assert first["seed"] == second["seed"]
        assert first["messages"] == second["messages"]
        assert texts(chat) == ["Who?", "I am tuned"]
        (row,) = [line for line in screen(app).splitlines() if "I am" in line]
        assert row.index("I am base") < row.index("I am tuned")
        await say(pilot, chat, "/side")
        await say(pilot, chat, "/model base")
        await say(pilot, chat, "And?")
        assert texts(chat)[-1] == "I am base"
        assert len(child.made) == 1, "both sides are views of one loaded base"

    talk(project, steps)


def test_side_by_side_stands_over_each_other_where_it_is_narrow(project: Project, child: type[Child]) -> None:
    child.answers = staticmethod(lambda request: spoken(f"I am {request['side']}"))  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "/side")
        await say(pilot, chat, "Who?")
        assert len([line for line in screen(app).splitlines() if "I am" in line]) == 2
        assert footer_width(app) <= 60

    talk(project, steps, size=(60, 30))


def test_better_asks_until_it_differs_and_the_choice_becomes_a_label(
    project: Project, child: type[Child]
) -> None:
    answers = iter(["the old one", "the old one ", "a new one"])
    child.answers = staticmethod(lambda request: spoken(next(answers)))  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "/system Be brief.")
        await say(pilot, chat, "/set temperature 0.1")
        await say(pilot, chat, "Which?")
        await say(pilot, chat, "/better")
        await until(pilot, lambda: chat.choice.display)
        assert [r["temperature"] for r in child.made[0].asked] == [0.1, 0.8, 0.8]
        assert "a new one" in screen(app)
        assert "the old one" in screen(app)
        side = "left" if chat.choice._texts[0] == "a new one" else "right"
        await pilot.press(side)
        await until(pilot, lambda: "the project has 1" in screen(app))
        assert texts(chat) == ["Be brief.", "Which?", "a new one"]
        with project.labels() as store:
            (kept,) = store.preferences()
        assert (kept.chosen, kept.rejected.strip()) == ("a new one", "the old one")
        assert [m["content"] for m in kept.prompt] == ["Be brief.", "Which?"]
        await pilot.press(*"ok")
        assert chat.typing.text == "ok", "one types on"

    talk(project, steps)


def test_no_choice_is_no_label(project: Project, child: type[Child]) -> None:
    answers = iter(["old", "new", "old", "old", "old"])
    child.answers = staticmethod(lambda request: spoken(next(answers)))  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "Which?")
        await pilot.press("f4")
        await until(pilot, lambda: chat.choice.display)
        await pilot.press("escape")
        assert not chat.choice.display
        assert page(app) == "chat"
        await say(pilot, chat, "/better")
        assert "said the same again" in screen(app)
        assert texts(chat) == ["Which?", "old"]
        with project.labels() as store:
            assert store.counts().pairs == 0

    talk(project, steps)


def test_a_full_context_is_told_once_and_left_out_turns_each_time_there_are_more(
    project: Project, child: type[Child]
) -> None:
    more = iter([{"prompt_tokens": 900}, {"prompt_tokens": 910}, {"prompt_tokens": 700, "dropped": 2}])
    child.answers = staticmethod(lambda request: spoken("Yes.", **next(more)))  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "One?")
        assert "nearly full: 901 of 1000" in " ".join(screen(app).split())
        await say(pilot, chat, "Two?")
        assert screen(app).count("nearly full") == 1
        await say(pilot, chat, "Three?")
        assert "oldest 2 turns no longer fit" in " ".join(screen(app).split())

    talk(project, steps, size=(100, 40))


def test_a_conversation_is_saved_and_loaded_by_its_name(project: Project) -> None:
    chat = Conversation([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "**Me.**"}])
    chats.save(project, chat, "first")

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "/load ../first")
        assert "no name for a conversation" in screen(app)
        await say(pilot, chat, "/load")
        assert re.search(r"1  first  Who\?", screen(app))
        await say(pilot, chat, "/load 1")
        assert re.search(r"> Who\?\n\s+Me\.", screen(app))
        await say(pilot, chat, "And?")
        await say(pilot, chat, "/save")
        assert len(chats.load(project, "first").messages) == 4

    talk(project, steps)


def test_a_conversation_is_saved_as_it_grows_in_one_file_of_its_own(
    project: Project, child: type[Child]
) -> None:
    child.answers = staticmethod(lambda request: spoken(f"answer to {request['messages'][-1]['content']}"))  # pyright: ignore

    def on_disk() -> list[list[str]]:
        return [[m["content"] for m in chats.load(project, name).messages] for name in chats.saved(project)]

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "/set temperature 0.1")
        await say(pilot, chat, "/system Be brief.")
        assert on_disk() == [], "nothing was said yet"
        await say(pilot, chat, "One?")
        await say(pilot, chat, "Two?")
        first = ["Be brief.", "One?", "answer to One?", "Two?", "answer to Two?"]
        assert on_disk() == [first]
        child.answers = staticmethod(lambda request: spoken("Half")[:1])  # pyright: ignore
        chat.typing.insert("Three?")
        await pilot.press("enter")
        await until(pilot, lambda: "Half" in screen(app))
        assert on_disk() == [[*first, "Three?"]], (
            "killed now, the answer that is being said is all that is lost"
        )
        await pilot.press("escape")
        await until(pilot, lambda: on_disk() == [[*first, "Three?", "Half"]])
        child.answers = staticmethod(lambda request: spoken("Other"))  # pyright: ignore
        await say(pilot, chat, "/reset")
        await say(pilot, chat, "Four?")
        assert sorted(map(len, on_disk())) == [3, 7]
        await say(pilot, chat, "/save mine")
        assert len(chats.saved(project)) == 2, "a name takes the place of the time"
        assert chats.load(project, "mine").question == "Four?"

    talk(project, steps)


def test_a_conversation_that_cannot_be_saved_is_told_and_goes_on(project: Project) -> None:
    (project.root / "chats").write_text("in the way")

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "hi")
        assert "cannot write" in screen(app)
        assert texts(chat) == ["hi", "Hello there."]

    talk(project, steps)


def test_all_of_a_long_conversation_can_be_read_and_its_last_answer_be_had_again(
    project: Project, child: type[Child]
) -> None:
    said = iter(range(99))
    child.answers = staticmethod(
        lambda request: spoken(f"answer {next(said)} begins\n\n" + "much more. " * 200)
    )  # pyright: ignore

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        for number in range(6):
            await say(pilot, chat, f"Question {number}?")
            chat.said.note(f"note {number}")

        async def read() -> list[str]:
            """What one sees of it from its beginning on."""
            chat.said.scroll_home(animate=False)
            await pilot.pause()
            seen = screen(app)
            while chat.said.scroll_y < chat.said.max_scroll_y:
                await pilot.press("pagedown")
                await pilot.pause()
                seen += screen(app)
            return list(dict.fromkeys(re.findall(r"Question \d|answer \d|note \d", seen)))

        wanted = [f"{what} {n}" for n in range(6) for what in ("Question", "answer", "note")]
        assert await read() == wanted
        child.answers = staticmethod(lambda request: [])  # pyright: ignore
        chat.typing.insert("Never answered?")
        await pilot.press("enter")
        await until(pilot, lambda: chat.saying is not None)
        await pilot.press("escape")
        await until(pilot, lambda: chat.saying is None)
        await pilot.press("escape")
        child.answers = staticmethod(lambda request: spoken("answer 9"))  # pyright: ignore
        await say(pilot, chat, "/retry") if not chat.typing.text else await pilot.press("ctrl+r")
        await until(pilot, lambda: texts(chat)[-1] == "answer 9")
        assert texts(chat)[-2] == "Question 5?"
        assert (await read())[-1] == "answer 9"

    talk(project, steps, size=(100, 40))


def test_the_footer_says_what_escape_does(project: Project, child: type[Child]) -> None:
    def escape(app: RlhfApp) -> list[str]:
        return [key.description for key in app.screen.query(FooterKey) if key.key == "escape"]

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await until(pilot, lambda: escape(app) == ["Back"])
        await say(pilot, chat, "Which?")
        await pilot.press("f2")
        await until(pilot, lambda: escape(app) == ["Don't edit"])
        await pilot.press("escape")
        child.answers = staticmethod(lambda request: spoken("another one"))  # pyright: ignore
        await pilot.press("f4")
        await until(pilot, lambda: escape(app) == ["No choice"])
        await pilot.press("escape")
        child.answers = staticmethod(lambda request: spoken("Half")[:1])  # pyright: ignore
        chat.typing.insert("On?")
        await pilot.press("enter")
        await until(pilot, lambda: escape(app) == ["Stop"])

    talk(project, steps)


def test_a_message_can_have_lines_and_old_ones_come_back(project: Project, child: type[Child]) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await pilot.press("a", "backslash", "enter", "b", "ctrl+o", "c", "enter")
        await until(pilot, lambda: texts(chat) == ["a\nb\nc", "Hello there."])
        await pilot.press("d", "up")
        assert chat.typing.text == "a\nb\nc"
        await pilot.press("down")
        assert chat.typing.text == "d"

    talk(project, steps)


def test_without_a_policy_the_base_answers_and_it_is_said(tmp_path: Path, child: type[Child]) -> None:
    project = Project.create(tmp_path / "new", ProjectFile(name="new", model="demo", preset="demo"))

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await until(pilot, lambda: "Nothing is trained yet" in screen(app))
        await say(pilot, chat, "hi")
        assert child.made[0].arguments == (str(project.root),)
        assert child.made[0].asked[0]["side"] == "base"
        await say(pilot, chat, "/side")
        assert "nothing to stand next to the base" in screen(app)

    talk(project, steps)


def test_the_export_answers_where_it_is_newer_and_model_changes_it(
    project: Project, child: type[Child], tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    a_run(project, "export", events.Result(values={"path": str(file)}))

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "hi")
        assert (child.made[0].verb, child.made[0].arguments) == ("chat", (str(file),))
        assert child.made[0].asked[0]["side"] == ""
        await say(pilot, chat, "/model tuned")
        await until(pilot, lambda: child.made[0].closed)
        await say(pilot, chat, "and you?")
        assert child.made[1].verb == "talk"
        assert [m["content"] for m in child.made[1].asked[0]["messages"]] == [
            "hi",
            "Hello there.",
            "and you?",
        ]

    talk(project, steps)


STRANGE = "[red]x[/] <b>bold</b> \x1b[31mred\x1b[0m \x07bell\nnext line\n- item\nplain\n```\n<i>\n| a | b"


@pytest.mark.parametrize("ascii", [False, True])
def test_what_a_model_says_is_shown_and_never_obeyed(
    project: Project, child: type[Child], ascii: bool
) -> None:
    child.answers = staticmethod(lambda request: spoken(*STRANGE))  # pyright: ignore  (letter by letter)

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "[bold]hi")
        seen = screen(app)
        assert "[bold]hi" in seen
        assert "[red]x[/] <b>bold</b> red bell" in seen
        assert re.search(r"bell\n\s+next line", seen), "its line breaks are kept"
        assert re.search(r"item\n(\s*\n)?\s{2,3}plain", seen), "a list ends where plain text follows"
        assert "<i>" in seen
        assert chat.chat.answer == STRANGE, "kept as it was said"
        if ascii:
            assert all(ord(c) < 128 or c == "…" for c in seen), {c for c in seen if ord(c) > 127}

    talk(project, steps, ascii=ascii)


def test_leaving_keeps_the_conversation_and_another_project_has_its_own(
    project: Project, child: type[Child], tmp_path: Path
) -> None:
    other = Project.create(tmp_path / "other", ProjectFile(name="other", model="demo", preset="demo"))

    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "hi")
        chat.ended = 0.0
        await pilot.press("escape")
        assert page(app) == "home"
        await pilot.press("c")
        await until(pilot, lambda: len(child.made) == 2)
        assert "Hello there." in screen(app)
        await say(pilot, chat, "more")
        assert len(child.made[1].asked[0]["messages"]) == 3
        chat.ended = 0.0
        await pilot.press("escape")
        app.open_project(other)
        await pilot.press("c")
        await until(pilot, lambda: len(child.made) == 3)
        assert "Hello there." not in screen(app)
        assert child.made[2].arguments == (str(other.root),)

    talk(project, steps)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 36), (250, 80)])
def test_it_fits_every_window(project: Project, size: tuple[int, int]) -> None:
    async def steps(app: RlhfApp, pilot: Pilot[None], chat: ChatPage) -> None:
        await say(pilot, chat, "/help")
        assert footer_width(app) <= size[0]
        assert chat.typing.region.bottom <= size[1]
        assert holds(lambda: "/bye" in screen(app))

    talk(project, steps, size=size)
