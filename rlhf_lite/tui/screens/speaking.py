"""What the chat page knows of its child: who answers, the answer that is being said, and every way it can end."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import msgspec
from textual import on
from textual.widgets import Static

from rlhf_lite import chats, conversation, jobs, voices
from rlhf_lite.conversation import Conversation, Sampling
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.events import Started
from rlhf_lite.talker import Done, Failed, Piece, Ready, Talker, Told
from rlhf_lite.tui.messages import RunChanged
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.behind import behind
from rlhf_lite.tui.screens.saying import Heard, Room, Saying, Totals, last_words, saying_words
from rlhf_lite.tui.widgets.conversation import ChatLog, Exchange
from rlhf_lite.voices import Voice, Voices

TRIES = 3  # for a second answer that differs


class SpeakingPage(Page):
    """A page with a child that answers; the page's words and keys are a subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.begin(Conversation())
        self.sampling = Sampling()
        self.voices: Voices | None = None
        self.voice: Voice = "base"
        self.beside = False  # base and tuned next to each other
        self.ready: Ready | None = None
        self.saying: Saying | None = None
        self.ended = 0.0  # when an answer last ended
        self._talker: Talker | None = None
        self._session: tuple[str, tuple[str, ...]] | None = None
        self._loading = 0.0

    @property
    def said(self) -> ChatLog:
        return self.query_one(ChatLog)

    def draw(self) -> None:
        """Show what is the case now."""
        self.draw_line()
        self.refresh_bindings()

    def draw_line(self) -> None:
        self.query_one("#chatline", Static).update(self.line_words())

    def line_words(self) -> str:
        """The line above the input: what happens now, else how the last answer went."""
        waited = time.monotonic() - self._loading
        if self.saying:
            return saying_words(self.saying, waited if self.ready is None else None, self.dot)
        if self._talker and self.ready is None:
            return f"loading the model… {waited:.0f} s{self.dot}you can type already"
        parts = ["base | tuned" if self.beside else self.voice]
        if self.ready is None:
            return self.dot.join([*parts, "the next message loads the model"])
        if self.last:
            parts += last_words(self.last)
        parts.append(conversation.used_words(self.used, self.ready.context))
        if self.ready.device == "cpu" and jobs.device_name() == "gpu":
            parts.append("on the CPU")
        return self.dot.join(parts)

    @property
    def dot(self) -> str:
        return " - " if self.desk.ascii else " · "

    @property
    def used(self) -> int:
        """Tokens of the context that the conversation takes, as of the last answer."""
        return self.last.used if self.last else 0

    # The child

    def look(self) -> None:
        """Find out who can answer, and load that model."""
        self._loading, project = time.monotonic(), self.project
        behind(self, lambda: voices.of(project), lambda found: self.call_next(self._found, found))

    async def _found(self, found: Voices) -> None:
        self.voices = found
        if not self.voice or self.voice not in found.names or not self.chat.turns:
            self.voice = found.first
        if found.first == "base":
            self.said.note("Nothing is trained yet: the bare base model answers.")
        self.load()
        if self.saying:  # asked before anybody was there
            self._put()

    def load(self) -> None:
        """Have the session that the voice needs, and no other."""
        if self.voices is None:
            return
        wanted = self.voices.session(self.voice)
        if self._talker and wanted == self._session:
            return
        self.unload()
        self._session, self._loading = wanted, time.monotonic()
        self._talker = Talker(*wanted, lambda talker, told: self._hear(talker, told))
        self.draw()

    def unload(self) -> None:
        """End the child; the next answer loads the model again."""
        if self._talker:
            self._talker.close()
        self._talker = self.ready = None

    def _hear(self, talker: Talker, told: Told) -> None:
        """From the talker's thread."""
        with suppress(RuntimeError):  # the app has gone meanwhile
            self.post_message(Heard(talker, told))

    @on(Heard)
    async def _heard(self, message: Heard) -> None:
        if message.talker is not self._talker:
            return
        match message.told:
            case Ready() as ready:
                self.ready = ready
                self.draw()
            case Piece(text=text):
                await self._piece(text)
            case Done() as done:
                await self._done(done)
            case Failed(error=error, gone=gone):
                await self._failed(error, gone)

    @on(RunChanged)
    def _make_room(self, message: RunChanged) -> None:
        """A job that begins needs the GPU's memory: the model is loaded again, on the CPU, when it is needed."""
        began = any(isinstance(event, Started) for event in message.change.events)
        wants_it = message.change.watched.run.stage not in jobs.WITHOUT_DEVICE
        has_it = self.ready is not None and self.ready.device == "gpu"
        if began and wants_it and has_it and not self.saying:
            self.unload()
            self.said.note("A job has the GPU now: the next answer comes from the CPU.")
            self.draw()

    # Answers

    async def answer(self) -> None:
        """Have the last question answered, in place of an answer that is there."""
        if self.saying or not self.chat.question:
            return
        exchange = await self._exchange()
        self.said.bring_down(exchange)
        before = self.chat.take_answer()
        sides: list[Voice] = ["base", "tuned"] if self.beside else [self.voice]
        names = sides if self.beside else []
        into = await exchange.answers(*names, current=self.voice)
        sampling = self.sampling
        if self.beside and sampling.seed is None:  # what differs is then the tune, and not luck
            sampling = msgspec.structs.replace(sampling, seed=random.randrange(2**31))
        self.saying = Saying("answer", sides, into, before, sampling)
        self._put()

    async def second(self) -> None:
        """Have another answer to the last question, warm enough to differ."""
        warm = max(self.sampling.temperature, conversation.BETTER_TEMPERATURE)
        sampling = msgspec.structs.replace(self.sampling, temperature=warm, seed=None)
        self.saying = Saying("second", [self.voice], [], self.chat.answer, sampling)
        self._put()

    def _put(self) -> None:
        """Put the question to the child, which may still be loading."""
        saying = self.saying
        self.load()
        if saying and self._talker:
            side = "" if saying.side == "gguf" else saying.side
            drawn = {k: v for k, v in msgspec.structs.asdict(saying.sampling).items() if v is not None}
            saying.pieces, saying.began = 0, time.monotonic()
            self._talker.ask(messages=self.chat.prompt(), side=side, **drawn)
        self.draw()

    async def _piece(self, text: str) -> None:
        saying = self.saying
        if saying is None:
            return
        if saying.pieces == 0:
            saying.began = time.monotonic()
        saying.pieces += 1
        saying.texts[-1] += text
        if saying.kind == "answer":
            await saying.into[len(saying.texts) - 1].write(text)

    async def _done(self, done: Done) -> None:
        saying = self.saying
        if saying is None:
            return
        self.last, cancelled = done, done.reason == "cancelled"
        self.totals.add(done)
        for news in self._room.news(
            done, self.ready.context if self.ready else 0, saying.sampling.max_tokens
        ):
            self.said.note(news)
        if saying.kind == "second":
            await self._second_done(saying, cancelled)
            return
        await saying.into[len(saying.texts) - 1].finish()
        if not cancelled and len(saying.texts) < len(saying.sides):
            saying.texts.append("")
            self._put()
            return
        await self._end(saying, cancelled)

    async def _end(self, saying: Saying, cancelled: bool) -> None:
        """The answer of the voice that is current stays; nothing at all puts things back as they were."""
        self.saying, self.ended = None, time.monotonic()
        heard = dict(zip(saying.sides, saying.texts, strict=False))
        text = heard.get(self.voice, "")
        if text or not cancelled:
            self.chat.reply(text)
            if len(saying.into) > len(heard):
                await self._settle(text)
        elif saying.before is not None:
            self.chat.reply(saying.before)
            await self._settle(saying.before)
        else:
            await self.take_back()
        self.keep()
        self.draw()

    def keep(self) -> None:
        """Save the conversation as it is now."""
        try:
            chats.keep(self.project, self.chat)
        except RlhfLiteError as error:
            self.tell(error)

    def tell(self, error: RlhfLiteError, *more: str) -> None:
        """Say where the conversation is what went wrong."""
        self.said.note(
            "\n".join(part for part in (error.message, error.why, error.hint, *more) if part), bad=True
        )

    async def _settle(self, text: str) -> None:
        await (await self._exchange()).settle(text)

    async def _exchange(self) -> Exchange:
        """Where the last question is answered; asked again where it is part of the past."""
        return self.said.last or await self.said.ask(self.chat.question)

    async def take_back(self) -> None:
        """For a subclass: the last question was not answered."""

    async def compare(self, first: str, second: str) -> None:
        """For a subclass: two answers to choose from."""

    async def _second_done(self, saying: Saying, cancelled: bool) -> None:
        text, before = saying.texts[-1], saying.before or ""
        if not cancelled and text.strip() in ("", before.strip()):
            if saying.tries < TRIES:
                saying.tries, saying.texts[-1] = saying.tries + 1, ""
                self._put()
                return
            self.said.note("It said the same again, every time. /set temperature 1.2 makes it vary more.")
            cancelled = True
        self.saying, self.ended = None, time.monotonic()
        if not cancelled:
            await self.compare(before, text)
        self.draw()

    async def _failed(self, error: RlhfLiteError, gone: bool) -> None:
        """Told where the conversation is; what was heard of an answer stays."""
        saying = self.saying
        if gone:
            self._talker = self.ready = None
        if saying and saying.kind == "answer":
            for widget in saying.into:
                await widget.finish()
            await self._end(saying, cancelled=True)
        self.saying = None
        self.tell(error, "the next message loads the model again" if gone else "")
        self.draw()

    def stop(self) -> None:
        """Cut the answer short; before the model is loaded, take the question back."""
        saying = self.saying
        if saying and (self._talker is None or self._talker.take_back()):
            self.call_next(self._end, saying, True)
        elif saying and self._talker:
            self._talker.stop()

    def begin(self, chat: Conversation) -> None:
        """Another conversation."""
        self.chat, self.totals, self._room = chat, Totals(), Room()
        self.last: Done | None = None
