"""The colours that ctrl+t goes through; the palette's Theme has all of Textual's."""

from __future__ import annotations

from textual.theme import Theme

DEFAULT = "textual-dark"
HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#00ffff",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    boost="#000000",
    success="#00ff00",
    warning="#ffff00",
    error="#ff8080",
    dark=True,
    variables={
        "text-muted": "#ffffff",
        "text-disabled": "#c0c0c0",
        "text-primary": "#ffff00",
        "text-secondary": "#00ffff",
        "text-success": "#00ff00",
        "text-warning": "#ffff00",
        "text-error": "#ff8080",
        "footer-background": "#000000",
        "footer-key-foreground": "#ffff00",
        "footer-description-foreground": "#ffffff",
        "block-cursor-background": "#ffff00",
        "block-cursor-foreground": "#000000",
        "block-cursor-blurred-background": "#ffff00",
        "block-cursor-blurred-foreground": "#000000",
        "block-cursor-text-style": "bold",
        "input-selection-background": "#00ffff 40%",
        "scrollbar": "#ffffff",
        "scrollbar-hover": "#ffff00",
        "scrollbar-active": "#ffff00",
        "scrollbar-background": "#000000",
        "scrollbar-background-hover": "#000000",
        "scrollbar-background-active": "#000000",
        "border": "#ffffff",
        "border-blurred": "#ffffff",
    },
)
"""White, yellow and cyan on black; nothing is said in grey."""
CYCLE = (DEFAULT, "textual-light", HIGH_CONTRAST.name, "ansi-dark", "ansi-light")


def following(name: str) -> str:
    """The next one; from a theme that is none of these, the first."""
    return CYCLE[(CYCLE.index(name) + 1) % len(CYCLE)] if name in CYCLE else CYCLE[0]
