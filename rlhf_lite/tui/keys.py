"""Every key of the app, once: the footer, the help, the palette and ``[keys]`` in the config all read this table.

An id is ``page.name``; ``app.*`` works everywhere. ``config.toml`` moves a key by its id::

    key_set = "vim"
    [keys]
    "label.left" = "1,h"
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True)
class Key:
    """One binding: ``keys`` as Textual spells them, comma between alternatives; ``footer`` puts it in the footer."""

    id: str
    keys: str
    action: str
    label: str
    footer: bool = True

    @property
    def page(self) -> str:
        return self.id.split(".")[0]


def _page(page: str, *rows: tuple[str, str, str, str] | tuple[str, str, str, str, bool]) -> tuple[Key, ...]:
    """Rows of (name, keys, action, label), False behind them where the footer leaves it out."""
    return tuple(Key(f"{page}.{row[0]}", row[1], row[2], row[3], len(row) == 4 or row[4]) for row in rows)


APP = _page(
    "app",
    ("help", "question_mark,f1", "help", "Help"),
    ("palette", "ctrl+p,colon", "command_palette", "Commands", False),
    ("back", "escape", "back", "Back", False),
    ("log", "ctrl+l", "log", "Log", False),
    ("theme", "ctrl+t", "next_theme", "Next theme", False),
)
JUDGING = (
    ("left", "a,left,1", "choose('left')", "A"),
    ("right", "b,right,2", "choose('right')", "B"),
    ("left_much", "A,shift+left", "choose('left', True)", "A much better", False),
    ("right_much", "B,shift+right", "choose('right', True)", "B much better", False),
    ("tie", "t,equals_sign", "choose('tie')", "Tie"),
    ("both_bad", "x", "choose('both_bad')", "Both bad"),
    ("skip", "s,space", "choose('skip')", "Skip"),
    ("undo", "u,backspace", "undo", "Undo"),
    ("go", "enter", "go", "Continue", False),
    ("back", "escape", "back", "Back", False),
    ("diff", "d", "diff", "Word differences", False),
    ("zoom", "z,tab", "zoom", "Zoom one answer", False),
    ("prompt", "p", "prompt", "Whole prompt", False),
    ("copy", "y", "copy", "Copy the answer", False),
    ("down", "j,down", "scroll(1)", "Scroll down", False),
    ("up", "k,up", "scroll(-1)", "Scroll up", False),
    ("page_down", "pagedown", "scroll_pages(1)", "A page down", False),
    ("page_up", "pageup", "scroll_pages(-1)", "A page up", False),
)
"""Keys of every page where one of two answers is chosen."""
SCROLLING = (
    ("down", "j,down", "scroll(1)", "Scroll down", False),
    ("up", "k,up", "scroll(-1)", "Scroll up", False),
    ("page_down", "pagedown", "scroll_pages(1)", "A page down", False),
    ("page_up", "pageup", "scroll_pages(-1)", "A page up", False),
)
PAGES: dict[str, tuple[Key, ...]] = {
    "home": _page(
        "home",
        ("next", "enter", "next", "Continue"),
        ("new", "n", "new_project", "New"),
        ("open", "o", "open_project", "Open"),
        ("chat", "c", "chat", "Chat"),
        ("runs", "r", "runs", "Runs"),
        ("settings", "comma", "settings", "Settings", False),
        ("doctor", "d", "doctor", "Doctor", False),
        ("quit", "q", "quit", "Quit"),
        ("up", "up,k", "up", "Up", False),
        ("down", "down,j", "down", "Down", False),
        *((f"step_{n}", str(n), f"step({n})", f"Step {n}", False) for n in range(1, 9)),
    ),
    "new": _page(
        "new",
        ("do", "enter", "do", "Select"),
        ("create", "c", "create", "Create", False),
        ("name", "n", "name", "Name"),
        ("folder", "f", "folder", "Folder"),
        ("model", "m", "model", "Model"),
        ("preset", "p", "preset", "Preset"),
        ("preset_file", "P", "preset_file", "Preset from a file", False),
        ("template", "t", "template", "Template", False),
        ("back", "escape", "back", "Back", False),
    ),
    "open": _page(
        "open",
        ("do", "enter", "do", "Open"),
        ("path", "p,slash", "path", "Path"),
        ("new", "n", "new", "New"),
        ("back", "escape", "back", "Back", False),
    ),
    "model": _page(
        "model",
        ("use", "enter", "use", "Use"),
        ("filter", "slash", "filter", "Filter"),
        ("why", "i", "why", "Why?"),
        ("on_disk", "o", "on_disk", "On disk"),
        ("simulate", "S", "simulate", "Card"),
        ("download", "d", "download", "Get"),
        ("cancel", "x", "cancel", "Stop", False),
        ("new", "n", "new", "New project", False),
        ("back", "escape", "back", "Back", False),
    ),
    "prompts": _page(
        "prompts",
        ("do", "enter", "do", "Select"),
        ("generate", "g", "generate", "Sample"),
        ("number", "n", "number", "Number", False),
        ("write", "w", "write", "Write"),
        ("file", "f", "file", "File", False),
        ("import", "i", "import", "Import"),
        ("label", "l", "label", "Label"),
        ("stop", "s", "stop", "Stop", False),
        ("model", "m", "model", "Model", False),
        ("back", "escape", "back", "Back", False),
    ),
    "label": _page(
        "label",
        *JUDGING,
        ("edit", "e", "edit", "Edit"),
        ("flag", "f", "flag", "Flag", False),
        ("note", "n", "note", "Note", False),
        ("guidelines", "g", "guidelines", "Guidelines", False),
        ("refit", "r", "refit", "Quick refit", False),
    ),
    "compare": _page(
        "compare",
        *JUDGING,
        ("reveal", "o", "reveal", "Reveal"),
        ("add", "l", "add", "Add votes to the labels", False),
        ("stop", "S", "stop", "Stop the evaluation", False),
    ),
    "writing": _page(
        "writing",
        ("save", "f2,ctrl+s", "save", "Save"),
        ("other", "f3", "other", "Other text"),
        ("cancel", "escape", "cancel", "Cancel"),
    ),
    "doctor": _page(
        "doctor",
        ("go_on", "enter", "go_on", "Go on"),
        ("deep", "d", "deep", "Deep check"),
        ("back", "escape", "back", "Back", False),
    ),
    "error": _page("error", ("close", "escape,enter,q", "close", "Close"), ("copy", "c", "copy", "Copy")),
    "quit": _page(
        "quit",
        ("keep", "k,enter", "keep", "Keep running"),
        ("stop", "s", "stop", "Stop & save"),
        ("cancel", "escape,c", "cancel", "Cancel"),
    ),
    "stage": _page(
        "stage",
        ("start", "enter", "start", "Start"),
        ("pause", "space", "pause", "Pause"),
        ("stop", "s", "stop", "Stop & save"),
        ("kl_up", "K", "kl_coef(2.0)", "KL coefficient ×2", False),
        ("kl_down", "k", "kl_coef(0.5)", "KL ÷2"),
        ("rate_up", "right_square_bracket", "rate(2.0)", "Learning rate ×2", False),
        ("rate_down", "left_square_bracket", "rate(0.5)", "Learning rate ÷2", False),
        ("metric", "m", "metric", "Metric"),
        ("samples", "y", "samples", "Samples"),
        ("window", "v", "window", "Last 50 / all", False),
        ("dpo", "d", "other", "DPO / PPO", False),
    ),
    "export": _page(
        "export",
        ("start", "enter", "start", "Export"),
        ("stop", "s", "stop", "Stop"),
        ("chat", "c", "chat", "Chat"),
        ("up", "up,k", "up", "Up", False),
        ("down", "down,j", "down", "Down", False),
    ),
    "chat": _page(
        "chat",
        ("stop", "escape", "stop", "Stop"),
        ("neither", "escape", "choose_none", "No choice"),
        ("unedit", "escape", "unedit", "Don't edit"),
        ("back", "escape", "leave", "Back"),
        ("newline", "ctrl+o", "newline", "Line"),
        ("retry", "ctrl+r", "retry", "Retry"),
        ("edit", "f2", "edit", "Edit", False),
        ("side", "f3", "side", "Side"),
        ("better", "f4", "better", "Better"),
        ("older", "up", "older", "Older message", False),
        ("newer", "down", "newer", "Newer message", False),
        ("page_up", "pageup", "page(-1)", "Scroll up", False),
        ("page_down", "pagedown", "page(1)", "Scroll down", False),
        ("left", "left,a,1", "choose('left')", "Left"),
        ("right", "right,b,2", "choose('right')", "Right"),
        ("tie", "t,equals_sign", "choose('tie')", "Tie"),
        ("bad", "x", "choose('both_bad')", "Both bad"),
        ("picked", "enter", "choose_picked", "Choose", False),
    ),
    "help": _page("help", ("close", "escape,question_mark,f1,q", "close", "Close"), *SCROLLING),
    "log": _page(
        "log",
        ("older", "p,left", "look(-1)", "Older"),
        ("newer", "n,right", "look(1)", "Newer"),
        ("app", "a", "app_log", "App's own"),
        ("report", "c", "report", "Bug report"),
        *SCROLLING,
        ("end", "G,end", "end", "The last line", False),
    ),
    "runs": _page(
        "runs",
        ("replay", "enter", "replay", "Replay"),
        ("mark", "space", "mark", "Mark"),
        ("overlay", "o", "overlay", "Overlay"),
        ("clone", "c", "clone", "Again"),
        ("delete", "x", "delete", "Delete"),
        ("log", "l", "log", "Log"),
    ),
    "replay": _page(
        "replay",
        ("earlier", "left", "move(-1)", "Earlier"),
        ("later", "right", "move(1)", "Later"),
        ("play", "space", "play", "Play"),
        ("metric", "m", "metric", "Metric"),
        ("window", "v", "window", "Last 50 / all"),
        ("first", "home", "jump(0.0)", "The first step", False),
        ("last", "end", "jump(1.0)", "The last step", False),
    ),
    "overlay": _page(
        "overlay",
        ("metric", "m", "metric(1)", "Next metric"),
        ("metric_back", "M", "metric(-1)", "Metric before"),
        ("window", "v", "window", "Last 50 / all"),
    ),
    "delete": _page(
        "delete",
        ("delete", "x,d", "delete", "Delete"),
        ("keep", "escape,k,enter", "keep", "Keep"),
    ),
    "samples": _page(
        "samples",
        ("earlier", "left", "move(-1)", "Earlier"),
        ("later", "right", "move(1)", "Later"),
        ("first", "home", "jump(0)", "The first step", False),
        ("last", "end", "jump(-1)", "Now", False),
        *SCROLLING,
    ),
    "settings": _page(
        "settings",
        ("change", "enter", "change", "Change"),
        ("default", "d,backspace", "default", "Default"),
        ("edit", "e", "edit", "Edit the file"),
    ),
}  # fmt: skip
WIDGETS: dict[str, tuple[Key, ...]] = {
    "list": _page(
        "list",
        ("up", "up", "cursor_up", "Up", False),
        ("down", "down", "cursor_down", "Down", False),
        ("first", "home", "first", "First", False),
        ("last", "end", "last", "Last", False),
        ("page_up", "pageup", "page_up", "A page up", False),
        ("page_down", "pagedown", "page_down", "A page down", False),
    ),
}
"""Keys of what pages are made of; they win over those of the page that holds it."""


def table(page: str) -> tuple[Key, ...]:
    """The keys of a page or a widget, ``app`` for the app's own; none where there is no such page."""
    return APP if page == "app" else PAGES.get(page) or WIDGETS.get(page, ())


def bindings(page: str) -> list[Binding]:
    """The bindings of a page or a widget, ``app`` for the app's own."""
    return [Binding(k.keys, k.action, k.label, show=k.footer, id=k.id) for k in table(page)]


def page_of(screen: object) -> str:
    """Whose keys a screen has."""
    given: list[object] = getattr(screen, "BINDINGS", [])
    return next((b.id.split(".")[0] for b in given if isinstance(b, Binding) and b.id), "")


def every() -> tuple[Key, ...]:
    """Every key of every page and widget."""
    return (*APP, *(key for page in (*PAGES.values(), *WIDGETS.values()) for key in page))
