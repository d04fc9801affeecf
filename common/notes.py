"""Notes to the user: what a command has left out or taken for granted."""

import sys
import threading

from common.locations import with_urls

RED, PLAIN = "\033[1;31m", "\033[0m"
_said: set[str] = set()
_lock = threading.Lock()  # strips are read in several threads


def note_once(text: str) -> None:
    """Print a note to stderr, once in a process: several steps of a command walk one folder."""
    _say_once(f"note: {text}")


def warn_once(text: str) -> None:
    """Print a warning to stderr, once in a process."""
    _say_once(f"warning: {text}")


def warn(text: str, is_serious: bool = False) -> None:
    """Print a warning to stderr; one that voids the result is red on a terminal."""
    line = with_urls(f"warning: {text}")
    print(f"{RED}{line}{PLAIN}" if is_serious and sys.stderr.isatty() else line, file=sys.stderr)


def _say_once(line: str) -> None:
    line = with_urls(line)
    with _lock:
        if line in _said:
            return
        _said.add(line)
    print(line, file=sys.stderr)
