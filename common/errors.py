"""The one error that a user is meant to see, and how a command ends: with a line, an exit code, and
nothing half-written.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

STOPPED = "interrupted: every file that has its final name is whole"


class UserError(Exception):
    """Something about the input is wrong.

    The text is one line for each bad file: which one, what was found, what was expected.
    """


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a lost terminal (SIGHUP); holds the signal's number.

    Whatever is open is cleaned up on its way out.
    """


@dataclass
class DeferredSignal:
    """The number of the signal that arrived while signals were held, 0 for none."""

    number: int = 0


_held: DeferredSignal | None = None  # while signals are held
# the last signal's number: Python swallows what is raised in the middle of its own housekeeping
_received = 0


@contextmanager
def defer_signals() -> Iterator[DeferredSignal]:
    """Ctrl-C and SIGTERM wait until the end of the (outermost) block: what is inside happens whole
    or not at all.
    """
    global _held
    if _held is not None:
        yield _held
        return
    _held = held = DeferredSignal()
    try:
        yield held
    finally:
        _held = None
    if held.number or _received:
        raise Stopped(held.number or _received)


def one_line(error: Exception, longest: int = 200) -> str:
    """A library's error text on one line; the end of a long one, where most libraries put the
    reason.
    """
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"... {text[-longest:]}"


@contextmanager
def prefix_errors(what: Path | str) -> Iterator[None]:
    """Puts the name of a file (or flag) in front of every `UserError` raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: 0 or what it returned, 1 after a `UserError`, 128 +
    its number after a signal.
    """
    global _received
    _received = 0
    numbers = [signal.SIGINT, signal.SIGTERM]
    # which is how nohup works
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, _stop) for number in numbers}
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        # it ends already: nothing may disturb that
        handlers = dict.fromkeys(handlers, signal.SIG_IGN)
        print(STOPPED, file=sys.stderr)
        return 128 + stopped.args[0]
    except BrokenPipeError:  # whoever read our output has gone; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: {error.filename or 'what is printed'}: cannot be written ({error.strerror})",
            file=sys.stderr,
        )
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def install_exception_hook() -> None:
    """Ctrl-C while a command is still importing, which takes seconds, prints one line.

    `run_command` takes over from there.
    """
    sys.excepthook = _print_interruption_in_one_line


def _print_interruption_in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _stop(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    if _held is None:
        raise Stopped(number)
    _held.number = number
