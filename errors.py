"""The one error that a user is meant to see, and how a command ends because of it."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something about the input is wrong. The text is one line for each bad file: which one, what was found, what was expected."""


def one_line(error: Exception, longest: int = 200) -> str:
    """A library's error text on one line; the end of a long one, where most libraries put the reason."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"... {text[-longest:]}"


@contextmanager
def about(what: Path | str) -> Iterator[None]:
    """Puts the name of a file (or flag) in front of every `UserError` raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: 0 or what it returned, 1 after a `UserError`, 130 after Ctrl-C."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: every file that has its final name is whole", file=sys.stderr)
        return 128 + signal.SIGINT
