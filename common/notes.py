"""Notes to the user: what a command has left out or taken for granted."""

import sys
from functools import cache


@cache
def note_once(text: str) -> None:
    """Print a note to stderr, once in a process: several steps of a command walk one folder."""
    print(f"note: {text}", file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    """Print a warning to stderr, once in a process."""
    print(f"warning: {text}", file=sys.stderr)
