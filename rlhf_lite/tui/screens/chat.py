"""Talk to the model: the tuned one on its base before any export, the bare base beside it, or the exported file.

The model is loaded by a child while one types already. Leaving the page ends the child and keeps the conversation,
until another project is opened.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path

from textual import on
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite import conversation
from rlhf_lite.conversation import Choice, Conversation
from rlhf_lite.errors import RlhfLiteError
from rlhf_lite.tui import keys
from rlhf_lite.tui.screens import chatcommands
from rlhf_lite.tui.screens.behind import behind
from rlhf_lite.tui.screens.chatchoice import ChoicePanel
from rlhf_lite.tui.screens.speaking import SpeakingPage
from rlhf_lite.tui.widgets.chatinput import ChatInput
from rlhf_lite.tui.widgets.conversation import ChatLog

AFTER_END = (
    0.6  # seconds after an answer in which escape is taken for a late stop, and does not leave the page
)


class ChatPage(SpeakingPage):
    PAGE = "chat"
    PAGE_NAME = "chat"
    TITLE = "Chat"
    HELP_TEXT = (
        "Talk to the tuned model, or to its base. A slash begins a command: /help lists them. /side has base "
        "and tuned answer next to each other; /better makes the better of two answers a label."
    )
    BINDINGS = keys.bindings("chat")
    AUTO_FOCUS = "#say"
    DEFAULT_CSS = """
    ChatPage #chatline { height: 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    ChatPage.-narrow Exchange .answers, ChatPage.-narrow AnswerPanes { layout: vertical; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.editing = False
        self._root: Path | None = None
        self._away = True

    def body(self) -> Iterable[Widget]:
        yield ChatLog(ascii=self.desk.ascii, id="said")
        yield ChoicePanel(ascii=self.desk.ascii, id="choice")
        yield Static(id="chatline", markup=False)
        yield ChatInput(id="say", placeholder="Say something, or /help")

    def on_mount(self) -> None:
        self.set_interval(0.5, self._tick)

    def _tick(self) -> None:
        if self.is_current and (self.saying or (self._talker and self.ready is None)):
            self.draw_line()

    @property
    def typing(self) -> ChatInput:
        return self.query_one(ChatInput)

    @property
    def choice(self) -> ChoicePanel:
        return self.query_one(ChoicePanel)

    @property
    def choosing(self) -> bool:
        return self.is_mounted and self.choice.display

    # Coming and going

    async def on_screen_resume(self) -> None:
        if not self._away:  # from the help, say
            return
        self._away = False
        if self._root != self.project.root:
            self._root, self.beside, self.editing = self.project.root, False, False
            self.begin(Conversation())
            self.typing.put("")
            await self.said.clear()
        self.look()
        self.draw()

    async def on_screen_suspend(self) -> None:
        if self not in self.app.screen_stack:
            self._away = True
            self._hide_choice()
            if saying := self.saying:
                await self._end(saying, cancelled=True)
            self.unload()

    def on_unmount(self) -> None:
        self.unload()

    # What is typed

    @on(ChatInput.Sent)
    async def _sent(self, event: ChatInput.Sent) -> None:
        try:
            found = conversation.command(event.text)
            if found:
                await chatcommands.run(self, *found)
                self.draw()
            elif self.saying:
                self.typing.put(event.text)
                self.said.note("An answer is being said; esc stops it.")
            else:
                await self._say(event.text.strip())
        except RlhfLiteError as error:
            self.tell(error)

    async def _say(self, text: str) -> None:
        if self.editing:
            self.editing = False
            await self._remove_question()
        self.chat.say(text)
        self.keep()
        await self.said.ask(text)
        await self.answer()

    async def _remove_question(self) -> str:
        if self.said.last:
            await self.said.last.remove()
        return self.chat.take_question()

    async def take_back(self) -> None:
        """The last question is there to be typed anew."""
        self.unanswered(await self._remove_question())

    def unanswered(self, text: str) -> None:
        if not self.typing.text:
            self.typing.put(text)

    def edit(self) -> None:
        """Put the last question into the input; it is replaced when that is sent."""
        self.editing = True
        self.typing.put(self.chat.question)
        self.typing.focus()

    def line_words(self) -> str:
        if self.choice.display:
            return "the better one becomes a label and stays; esc decides nothing"
        if self.editing and not self.saying:
            return "editing your last message; esc leaves it as it was"
        return super().line_words()

    async def show_all(self) -> None:
        """Show the conversation from its beginning."""
        if self.chat.system:
            self.said.note(f"The system prompt is: {self.chat.system}")
        await self.said.show(
            [
                (asked["content"], answered["content"])
                for asked, answered in itertools.pairwise(self.chat.turns)
                if (asked["role"], answered["role"]) == ("user", "assistant")
            ]
        )

    @on(ChatInput.Paged)
    def _paged(self, event: ChatInput.Paged) -> None:
        self.action_page(event.pages)

    # Two answers to choose from

    async def compare(self, first: str, second: str) -> None:
        self.said.display = self.typing.display = False
        self.choice.show(self.chat.question, first, second)
        self.set_focus(None)
        self.draw()

    def _hide_choice(self) -> None:
        self.choice.hide()
        self.said.display = self.typing.display = True
        if self.is_current:
            self.typing.focus()

    @on(ChoicePanel.Chosen)
    async def _chosen(self, event: ChoicePanel.Chosen) -> None:
        self._hide_choice()
        prompt, project = self.chat.prompt(), self.project
        if event.answer is not None:
            self.chat.reply(event.answer)
            self.keep()
            await self._settle(event.answer)
        choice, seconds = event.choice, event.seconds

        def kept() -> int | None:
            return conversation.keep_choice(project, prompt, event.left, event.right, choice, seconds)

        behind(self, kept, lambda labels: self._kept(choice, labels))
        self.draw()

    def _kept(self, choice: Choice, labels: int | None) -> None:
        stays = {"tie": "A tie", "both_bad": "Both bad"}.get(choice, "The answer you chose stays")
        if labels is None:
            self.said.note(f"{stays}. These two had a label already, which was not changed.")
            return
        self.said.note(f"{stays}. It is a label now: the project has {labels}.")
        self.changed()

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Escape does what the footer says: one thing at a time. Letters are keys only while one chooses."""
        choosing = self.choosing
        match action:
            case "stop":
                return self.saying is not None
            case "unedit":
                return self.editing and not (self.saying or choosing)
            case "leave":
                return not (self.saying or choosing or self.editing)
            case "choose" | "choose_picked" | "choose_none":
                return choosing
            case "newline" | "retry" | "edit" | "side" | "better" | "older" | "newer":
                return not choosing
            case _:
                return True

    def action_stop(self) -> None:
        self.stop()
        self.draw()

    def action_choose_none(self) -> None:
        self._hide_choice()
        self.draw()

    def action_unedit(self) -> None:
        self.editing = False
        self.typing.put("")
        self.draw()

    def action_leave(self) -> None:
        if time.monotonic() - self.ended > AFTER_END:
            self.rlhf.back()

    def action_choose(self, choice: Choice) -> None:
        self.choice.choose(choice)

    def action_choose_picked(self) -> None:
        self.choice.choose_picked()

    def action_page(self, pages: int) -> None:
        if self.choice.display:
            self.choice.panes.scroll_pages(pages)
        elif pages < 0:
            self.said.scroll_page_up(animate=False)
        else:
            self.said.scroll_page_down(animate=False)

    def action_newline(self) -> None:
        self.typing.action_newline()

    def action_older(self) -> None:
        self.typing.action_older()

    def action_newer(self) -> None:
        self.typing.action_newer()

    async def _command(self, name: str) -> None:
        try:
            await chatcommands.run(self, name, "")
        except RlhfLiteError as error:
            self.tell(error)
        self.draw()

    async def action_retry(self) -> None:
        await self._command("retry")

    async def action_edit(self) -> None:
        await self._command("edit")

    async def action_side(self) -> None:
        await self._command("side")

    async def action_better(self) -> None:
        await self._command("better")
