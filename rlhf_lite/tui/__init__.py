"""The terminal app. It draws and asks; what it starts, reads and stores is the root's, and torch runs in children."""

from __future__ import annotations

import os

# Textual paints at most 60 times a second: a key that comes right after a paint waits up to 17 ms for its own.
os.environ.setdefault("TEXTUAL_FPS", "120")  # read when Textual is imported
