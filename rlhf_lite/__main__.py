"""``rlhf-lite`` and ``python -m rlhf_lite``: the app at once where nothing else is asked for, else the commands.

The commands and what reads their options take as long to import as the app itself; who opens the app does not wait
for them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlhf_lite.errors import RlhfLiteError


def main() -> int:
    """Returns the exit code."""
    match sys.argv[1:]:
        case []:
            folder = None
        case ["--project", named]:
            folder = Path(named)
        case _:
            return _commands()
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # Textual draws on stderr
        return _commands()
    from rlhf_lite.tui.app import RlhfApp  # Textual: not for the commands

    try:
        app = RlhfApp(folder)
    except RlhfLiteError:  # settings that cannot be read: the commands meet the same, and know how to tell it
        return _commands()
    app.run()
    return app.return_code or 0


def _commands() -> int:
    from rlhf_lite.cli import main as commands

    return commands()


if __name__ == "__main__":
    sys.exit(main())
