"""The error that a user sees, and how a command ends.

It ends with one line, an exit code, and no half-written file.
"""

import errno
import os
import re
import reprlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from common.locations import with_urls

STOPPED = "interrupted: every file that has its final name is whole"
# What the system, the memory or a hostile file may raise anywhere. It is the input's or the
# machine's fault, so a command ends with one line instead of a traceback.
FAILURES = (OSError, MemoryError, RecursionError, UnicodeError, OverflowError)
# parts of the texts of a `RuntimeError`: of torch, and of `Path.resolve` before Python 3.13
NO_MEMORY, LINK_LOOP = "can't allocate memory", "Symlink loop"


class UserError(Exception):
    """The input is wrong.

    The text has one line for each bad file: its name, what was found, what was expected. It names
    the URL of a file of object storage.
    """

    def __init__(self, text: str):
        super().__init__(with_urls(text))


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a lost terminal (SIGHUP); its argument is the signal's number.

    Open files are cleaned up while it is raised through the command.
    """


@dataclass
class DeferredSignal:
    """The number of the signal that arrived while signals were deferred, 0 for none."""

    number: int = 0


LONGEST_WORD, PART_OF_WORD = 1024, 128  # characters; the part is kept at either end
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother, _SHORT.maxlevel = 60, 60, 60, 2
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


def without_long_words(text: str) -> str:
    """Return a text whose words of more than LONGEST_WORD characters lack their middle.

    Such a word is a path that no file system takes: with it the reason is out of sight.
    """

    def shorten(word: re.Match) -> str:
        start, end = word[0][:PART_OF_WORD], word[0][-PART_OF_WORD:]
        return f"{start}[...{len(word[0])} characters...]{end}"

    return re.sub(rf"\S{{{LONGEST_WORD + 1},}}", shorten, text)


def shown(value: object) -> str:
    """Return a value of a file as an error shows it: at most some 60 characters.

    The whole `repr` of a hostile value may need more memory than there is.
    """
    return _SHORT.repr(value)


def is_failure(error: BaseException) -> bool:
    """Whether an exception is one of FAILURES, or what torch and `Path.resolve` raise instead."""
    return isinstance(error, FAILURES) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in (NO_MEMORY, LINK_LOOP))
    )


def describe_failure(error: BaseException) -> str:
    """Return one line on an error that `is_failure`, without the path that it is about."""
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        reason = f" ({one_line(error, 120)})" if str(error) else ""
        return f"found too little memory{reason}, expected a smaller input or more memory"
    if isinstance(error, RecursionError):
        return "found a content that is nested too deeply, expected one that this suite writes"
    if isinstance(error, UnicodeError):
        return f"found a text that is not valid Unicode ({one_line(error, 120)})"
    if isinstance(error, OverflowError):
        return f"found a number that is too large ({one_line(error, 120)})"
    if isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        reason = error.strerror or one_line(error) or type(error).__name__
        return f"cannot be {'written' if is_full else 'used'} ({reason})"
    return one_line(error)


def explain_failure(error: BaseException) -> str:
    """As `describe_failure`, with the path in front where the error names one."""
    path = getattr(error, "filename", None) if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError) and path is None:
        path = "the working folder"  # os.getcwd, after it was removed
    if isinstance(error, OSError) and path is None and error.errno == errno.ENOSPC:
        path = "standard output"
    text = describe_failure(error)
    return text if path is None else f"{os.fsdecode(path)}: {text}"


@contextmanager
def failures_as_user_errors() -> Iterator[None]:
    """Turn every exception of the block that `is_failure` into a `UserError`."""
    try:
        yield
    except BrokenPipeError:  # of our own output
        raise
    except (*FAILURES, RuntimeError) as error:
        if not is_failure(error):
            raise
        raise UserError(describe_failure(error)) from None


@contextmanager
def prefix_errors(what: Path | str) -> Iterator[None]:
    """Put the name of a file (or flag) in front of every error that the block raises.

    Every `UserError`, and every exception that `is_failure`, becomes a `UserError`.
    """
    try:
        with failures_as_user_errors():
            yield
    except UserError as error:
        name = f"{with_urls(str(what))}: "
        raise UserError(f"{name}{str(error).removeprefix(name)}") from None


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    It is what the command returned, 0 for None; 1 after a `UserError` and after an error that
    `is_failure`, which are printed as one line; 128 + its number after a signal.
    """
    global _received
    _received = 0
    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup ignores SIGHUP: that must stay so.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, _stop) for number in numbers}
    for stream in (sys.stdout, sys.stderr):  # file names need not be text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {without_long_words(str(error))}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        # The command is ending: no further signal may interrupt it.
        handlers = dict.fromkeys(handlers, signal.SIG_IGN)
        print(STOPPED, file=sys.stderr)
        return 128 + stopped.args[0]
    except BrokenPipeError:  # the reader of our output has ended: nothing can be printed any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (*FAILURES, RuntimeError) as error:
        if not is_failure(error):
            raise
        print(f"error: {without_long_words(explain_failure(error))}", file=sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def install_exception_hook() -> None:
    """Print one line on Ctrl-C, and on an error of the system, while a command is still importing.

    Importing takes seconds. `run_command` takes over from there. It fails at once in a working
    folder that was removed: there MKL, which torch loads, would end the process.
    """
    sys.excepthook = _print_in_one_line
    os.getcwd()


def _print_in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    elif is_failure(error):
        print(f"error: {explain_failure(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _stop(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    if _held is None:
        raise Stopped(number)
    _held.number = number
