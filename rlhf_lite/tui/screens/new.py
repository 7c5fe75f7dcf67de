"""A new project: a name, a model and a preset, all filled in, so that Enter is enough to begin with the demo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from textual import on
from textual.widget import Widget
from textual.widgets import OptionList, Static

from rlhf_lite import catalog, config, settings, starting
from rlhf_lite.base_model import DEMO
from rlhf_lite.errors import UserError
from rlhf_lite.project import Project
from rlhf_lite.settings import preset_names
from rlhf_lite.tui import keys
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.screens.behind import behind
from rlhf_lite.tui.screens.model import ModelPage
from rlhf_lite.tui.widgets.ask import AskLine, PathSuggester
from rlhf_lite.tui.widgets.rows import Doing, DoingList

ABOUT = "A project is a folder: a model, prompts for it, your labels, and whatever was trained from them."
DEMO_WORDS = "built in, 3 M parameters: all of it works in minutes, without a GPU"


def home_short(path: Path) -> str:
    """A path with the home folder as ``~``."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


class NewPage(Page):
    PAGE = "new"
    PAGE_NAME = "new"
    TITLE = "New project"
    BINDINGS = keys.bindings("new")
    HELP_TEXT = (
        "A project is a folder: a model, its prompts, your labels and every run. All is filled in: Enter makes one on "
        "the built-in model, which lets you try everything in minutes. The preset says how long and how boldly is "
        "trained; it can be another one later, in the folder's project.toml."
    )
    AUTO_FOCUS = "#rows"
    DEFAULT_CSS = """
    NewPage #about { padding: 1 0; }
    NewPage.-short #about { padding: 0; }
    NewPage #note { padding: 1 1 0 1; color: $text-muted; }
    """

    def __init__(self, model: str = DEMO) -> None:
        super().__init__()
        self._begin(model)

    def _begin(self, model: str) -> None:
        """As if opened for the first time: Textual keeps a page that was left, and shows the same one again."""
        self._folder: Path | None = None
        self._model = model
        self._preset = ""  # empty: the one that suits the model
        self._plain_template = False
        self._making = False

    def body(self) -> Iterable[Widget]:
        yield Static(ABOUT, id="about", markup=False)
        yield DoingList(id="rows")
        yield AskLine()
        yield Static(id="note", markup=False)

    def on_screen_resume(self) -> None:
        self._draw("create")

    @property
    def folder(self) -> Path:
        """Where the project goes; one that is free unless something was said."""
        return self._folder or starting.free_folder()

    def _draw(self, at: str = "") -> None:
        with self.told():
            preset = self._preset or config.preset_for(self._model)
            about = settings.load_preset(preset).about
            name = Path(preset).name
            rows = [
                Doing("create", "Enter", "Create the project", strong=True),
                Doing("name", "n", "Name", self.folder.name),
                Doing("folder", "f", "Folder", home_short(self.folder)),
                Doing("model", "m", "Model", self._model_words()),
                Doing("preset", "p", "Preset", f"{name}: {about}" if about else name),
                Doing("preset_file", "P", "", "or one in a .toml file of yours"),
            ]
            if self._model != DEMO:
                words = "ChatML, for a model without one" if self._plain_template else "the model's own"
                rows.append(Doing("template", "t", "Template", words))
            self.query_one(DoingList).show(rows, at)
            self.query_one("#note", Static).update(self._note())

    def _model_words(self) -> str:
        if self._model == DEMO:
            return f"{DEMO}: {DEMO_WORDS}"
        try:
            size = catalog.find_model(self._model).parameters
        except UserError:
            return self._model
        return f"{self._model}: {size / 1e9:.1f} B parameters"

    def _note(self) -> str:
        if self._making:
            return "Making it…"
        if self.folder.exists():
            return "That folder exists already; an empty one can be used, another needs another name (n)."
        next_up = (
            "Everything can be left as it is. Prompts come next; the model is downloaded when you say so."
        )
        return "\n".join(filter(None, [next_up, self._weights().why]))

    def _weights(self) -> starting.Weights:
        return starting.weights(self._model, self._preset)

    @on(OptionList.OptionSelected)
    async def _chosen(self, event: OptionList.OptionSelected) -> None:
        await self.run_action(event.option.id or "create")

    def action_do(self) -> None:
        self.query_one(DoingList).action_select()

    def action_name(self) -> None:
        self.query_one(AskLine).ask("Name", self._named, value=self.folder.name)

    def _named(self, name: str) -> None:
        with self.told():
            if "/" in name or name in (".", ".."):
                raise UserError(
                    f"{name} is no name", why="it is a path", hint="press f to say where the folder goes"
                )
            if name:
                self._folder = self.folder.parent / name
        self._draw("create")

    def action_folder(self) -> None:
        ask = self.query_one(AskLine)
        ask.ask("Folder", self._placed, value=home_short(self.folder), suggester=PathSuggester())

    def _placed(self, path: str) -> None:
        if path:
            with self.told():
                self._folder = Path(path).expanduser().absolute()
        self._draw("create")

    def action_model(self) -> None:
        self.app.push_screen(ModelPage(self._picked, self._model, self._preset))

    def _picked(self, model: str) -> None:
        self._model, self._preset = model, ""
        self._draw("create")

    def action_preset(self) -> None:
        with self.told():
            names = preset_names()
            now = self._preset or config.preset_for(self._model)
            self._preset = names[(names.index(now) + 1) % len(names)] if now in names else names[0]
        self._draw("preset")

    def action_preset_file(self) -> None:
        now = home_short(Path(self._preset)) if self._preset.endswith(".toml") else ""
        self.query_one(AskLine).ask("Preset file", self._preset_named, value=now, suggester=PathSuggester())

    def _preset_named(self, text: str) -> None:
        with self.told():
            if text:
                preset = str(Path(text).expanduser())
                settings.load_preset(preset)
                self._preset = preset
        self._draw("preset")

    def action_template(self) -> None:
        self._plain_template = not self._plain_template
        self._draw("template")

    def action_create(self) -> None:
        if self._making:
            return
        self._making = True
        self._draw()

        folder = self.folder

        def make() -> Project:
            return starting.new_project(
                folder, self._model, preset=self._preset, plain_template=self._plain_template,
                quantization=self._weights().quantization,
            )  # fmt: skip

        behind(self, make, self._made, self._refused)

    def _refused(self, error: Exception) -> None:
        self._making = False
        self._draw()
        with self.told():
            raise error

    def _made(self, project: Project) -> None:
        with self.told():
            self._begin(DEMO)
            self.rlhf.open_project(project)
            self.rlhf.back()
            self.rlhf.show("prompts")

    def action_back(self) -> None:
        if not self.query_one(AskLine).close():
            super().action_back()
