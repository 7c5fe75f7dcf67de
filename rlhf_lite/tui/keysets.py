"""Keys that are moved: the sets that the app brings along, and the user's own; what is wrong with those is told once.

Textual has a hook for clashes of its own, but calls it at every key, and for a key with two spellings that is moved to
one as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from textual.keys import _normalize_key_list  # pyright: ignore[reportPrivateUsage]  # what set_keymap itself does

from rlhf_lite.tui import keys
from rlhf_lite.tui.keys import Key

_VIM_JUDGING = {
    "left": "h,a,left,1", "right": "l,b,right,2", "left_much": "H,A,shift+left", "right_much": "L,B,shift+right",
    "page_down": "pagedown,ctrl+d", "page_up": "pageup,ctrl+u",
}  # fmt: skip
_VIM_SCROLLING = {"page_down": "pagedown,ctrl+d", "page_up": "pageup,ctrl+u"}
_LEFT_JUDGING = {
    "right": "d,right,2", "right_much": "D,shift+right", "skip": "space", "undo": "z,u,backspace", "go": "enter,5",
    "diff": "v", "zoom": "tab", "prompt": "q,p", "copy": "c,y", "down": "s,j,down", "up": "w,k,up",
}  # fmt: skip
_LEFT_SCROLLING = {"down": "s,j,down", "up": "w,k,up"}
_TURNING = {"earlier": "left,a", "later": "right,d"}


def _on(page: str, moved: dict[str, str]) -> dict[str, str]:
    return {f"{page}.{name}": keys for name, keys in moved.items()}


SETS: dict[str, dict[str, str]] = {
    "default": {},
    "vim": {
        **_on("label", _VIM_JUDGING),
        **_on("compare", {**_VIM_JUDGING, "add": "v"}),
        **_on("list", {"up": "up,k", "down": "down,j", "page_down": "pagedown,ctrl+d", "page_up": "pageup,ctrl+u"}),
        **_on("help", _VIM_SCROLLING),
        **_on("log", {**_VIM_SCROLLING, "older": "h,p,left", "newer": "l,n,right"}),
        **_on("samples", {**_VIM_SCROLLING, "earlier": "h,left", "later": "l,right"}),
        **_on("replay", {"earlier": "h,left", "later": "l,right", "first": "0,home", "last": "dollar_sign,end"}),
    },
    "left-hand": {
        **_on("home", {"next": "enter,space", "new": "n,f", "open": "o,g", "settings": "comma,v", "up": "w,up,k",
                       "down": "s,down,j"}),
        **_on("list", {"up": "up,w", "down": "down,s"}),
        **_on("new", {"do": "enter,space", "name": "n,e", "model": "m,g", "preset": "p,r"}),
        **_on("open", {"do": "enter,space", "path": "p,slash,f", "new": "n,e"}),
        **_on("model", {"use": "enter,space", "filter": "slash,f", "why": "i,e", "on_disk": "o,g", "simulate": "S,c",
                        "new": "n,r"}),
        **_on("prompts", {"do": "enter,space", "number": "n,e", "write": "r", "import": "i,c", "label": "l,a",
                          "stop": "x", "model": "m,v"}),
        **_on("label", {**_LEFT_JUDGING, "note": "n,b"}),
        **_on("compare", {**_LEFT_JUDGING, "reveal": "o,r", "add": "l,f"}),
        **_on("doctor", {"go_on": "enter,space"}),
        **_on("quit", {"keep": "k,enter,f"}),
        **_on("stage", {"start": "enter,e", "kl_down": "k,f", "kl_up": "K,F", "rate_down": "left_square_bracket,g",
                        "rate_up": "right_square_bracket,G", "metric": "m,w", "samples": "y,t"}),
        **_on("export", {"start": "enter,space", "stop": "x", "up": "w,up,k", "down": "s,down,j"}),
        **_on("chat", {"newline": "ctrl+o,f5", "right": "d,right,b,2"}),
        **_on("help", _LEFT_SCROLLING),
        **_on("log", {**_LEFT_SCROLLING, "older": "a,p,left", "newer": "d,n,right", "app": "e"}),
        **_on("samples", {**_LEFT_SCROLLING, **_TURNING}),
        **_on("replay", {**_TURNING, "metric": "m,e"}),
        **_on("overlay", {"metric": "m,e", "metric_back": "M,E"}),
        **_on("runs", {"replay": "enter,e", "overlay": "o,f", "log": "l,g"}),
        **_on("settings", {"change": "enter,space"}),
    },
}  # fmt: skip
"""Key sets by name: id → keys. A set names only what it moves. In left-hand, w and s move up and down, a and d to the
sides, and whatever a footer shows is within reach of the left hand: the right one may hold the mouse."""


def keymap(key_set: str, moved: dict[str, str]) -> dict[str, str]:
    """Id → keys, of a key set and the user's own on top."""
    return {**SETS.get(key_set, {}), **moved}


def split(spelling: str) -> list[str]:
    """The alternatives of one spelling, by the names that Textual knows them by."""
    return [one for one in _normalize_key_list(spelling).split(",") if one]


def clashes(table: Iterable[Key], moved: dict[str, str]) -> dict[str, list[str]]:
    """Key → the ids that want it, where they are more than one."""
    wanted: dict[str, list[str]] = {}
    for key in table:
        for one in split(moved.get(key.id, key.keys)):
            wanted.setdefault(one, []).append(key.id)
    return {one: ids for one, ids in wanted.items() if len(ids) > 1}


def complaints(moved: dict[str, str], key_set: str = "default") -> list[str]:
    """What is wrong with the user's own keys: actions that do not exist, keys that two actions of a page want."""
    known = {key.id for key in keys.every()}
    said = [
        f"[keys] names {id}, which does not exist{_nearest(id, known)}" for id in moved if id not in known
    ]
    everything = keymap(key_set, moved)
    for page in ("app", *keys.PAGES, *keys.WIDGETS):
        for one, ids in clashes(keys.table(page), everything).items():
            if taken := [id for id in ids if id in moved]:
                lost = ", ".join(id for id in ids if id != taken[0])
                said.append(f"[keys] gives {one} to {taken[0]}; {lost} had it too")
    return said


def _nearest(id: str, known: set[str]) -> str:
    near = difflib.get_close_matches(id, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
