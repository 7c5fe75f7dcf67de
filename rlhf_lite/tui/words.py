"""What a key does, in words that make sense without its page: the help and the palette say these."""

from __future__ import annotations

from textual.app import App
from textual.binding import Binding

from rlhf_lite.tui import keysets
from rlhf_lite.tui.keys import Key

LONGER = {
    "left": "A is better", "right": "B is better", "tie": "Both are as good", "both_bad": "Both are bad",
    "undo": "Take the last one back", "go": "Continue, or choose the picked answer",
    "diff": "Mark the words that differ",
}  # fmt: skip
WORDS = {
    **{f"{page}.{name}": words for page in ("label", "compare") for name, words in LONGER.items()},
    "app.palette": "Every command by its name", "app.back": "One page up",
    "app.log": "Logs of the runs and of the app",
    "app.theme": "Next theme: dark, light, high contrast, or yours", "app.help": "This help",
    "home.next": "Open the highlighted step", "home.new": "New project", "home.open": "Open a project",
    "home.chat": "Chat with the newest model", "home.runs": "All runs: replay, overlay, delete",
    "home.doctor": "What this machine has", "home.up": "Row up", "home.down": "Row down",
    "home.quit": "Quit; asks where a job runs", "model.use": "Use this model", "model.why": "What it needs, itemised",
    "model.on_disk": "Only models on this disk", "model.simulate": "Plan for another card",
    "model.download": "Download it", "model.cancel": "Stop the download",
    "prompts.generate": "Sample pairs of answers", "prompts.number": "How many pairs",
    "prompts.write": "Write a prompt", "prompts.file": "Prompts from a file",
    "prompts.import": "Import preference data", "prompts.label": "Label the pairs",
    "stage.start": "Start it, or go on with it", "stage.pause": "Pause after this step, or go on",
    "stage.stop": "Finish the step, save and stop", "stage.metric": "Another metric in the last chart",
    "stage.samples": "Sample answers, base against now", "stage.window": "The last 50 steps, or all",
    "stage.dpo": "DPO instead of PPO, or back", "runs.replay": "Its charts, step by step",
    "runs.mark": "Mark it, to overlay two", "runs.overlay": "The two marked ones in one chart",
    "runs.clone": "Start a new run with its settings", "runs.delete": "Delete it; asks once", "runs.log": "Its log",
    "log.report": "Copy a bug report without secrets, and write it to a file", "log.app": "The app's own log",
    "settings.default": "Back to its default", "settings.edit": "Open the file in your editor",
    "replay.window": "The last 50 steps, or all", "overlay.window": "The last 50 steps, or all",
}  # fmt: skip
"""By id, where the footer's word is too short to be understood alone."""


def of(key: Key) -> str:
    """What a key does."""
    return WORDS.get(key.id, key.label)


def shown(app: App[None], key: Key) -> str:
    """The keys that do it now, as the footer would write them."""
    moved: dict[str, str] = getattr(app, "moved", {})
    spelt = keysets.split(moved.get(key.id, key.keys))
    return "  ".join(app.get_key_display(Binding(one, key.action)) for one in spelt)
