"""The error that a user sees, and how a command ends.

It ends with one line, an exit code, and no half-written file.
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
    """The input is wrong.

    The text has one line for each bad file: its name, what was found, what was expected.
    """


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a lost terminal (SIGHUP); its argument is the signal's number.

    Open files are cleaned up while it is raised through the command.
    """


@dataclass
class DeferredSignal:
    """The number of the signal that arrived while signals were deferred, 0 for none."""

    number: int = 0


_held: DeferredSignal | None = None  # not None while signals are deferred
# The last signal's number, kept because Python swallows an exception that a signal handler raises
# while a finalizer runs.
_received = 0


@contextmanager
def defer_signals() -> Iterator[DeferredSignal]:
    """Defer Ctrl-C and SIGTERM until the end of the outermost block.

    So the block is carried out completely or not at all. Raises `Stopped` at its end if a signal
    arrived.
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
    """Return a library's error text on one line, at most `longest` characters of its end.

    Most libraries put the reason at the end.
    """
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"... {text[-longest:]}"


@contextmanager
def prefix_errors(what: Path | str) -> Iterator[None]:
    """Put the name of a file (or flag) in front of every `UserError` that the block raises."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    It is what the command returned, 0 for None; 1 after a `UserError`; 128 + its number after a
    signal.
    """
    global _received
    _received = 0
    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup ignores SIGHUP: that must stay so.
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
        # The command is ending: no further signal may interrupt it.
        handlers = dict.fromkeys(handlers, signal.SIG_IGN)
        print(STOPPED, file=sys.stderr)
        return 128 + stopped.args[0]
    except BrokenPipeError:  # the reader of our output has ended: nothing can be printed any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: {error.filename or 'standard output'}: cannot be written ({error.strerror})",
            file=sys.stderr,
        )
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def install_exception_hook() -> None:
    """Print one line on Ctrl-C while a command is still importing, which takes seconds.

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
