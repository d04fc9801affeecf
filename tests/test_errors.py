import os
import signal

import pytest

from common.errors import Stopped, defer_signals, run_command, without_long_words
from common.files import refused_by_system


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """As in a terminal; under nohup SIGHUP is."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers):
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_held_signal_ends_the_command_at_the_end_of_the_outermost_block(number):
    done = []

    def command():
        with defer_signals() as held:
            with defer_signals():
                send(number)
                done.append(held.number)
            done.append("inner block")
        done.append("never")

    assert run_command(command) == 128 + number and done == [number, "inner block"]


class SendsWhenForgotten:
    def __del__(self):
        send(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_swallowed_is_not_lost(capsys):
    """An exception cannot leave `__del__`, nor the callback of a weak reference: there Python
    prints it and goes on.
    """
    done = []

    def command():
        SendsWhenForgotten()
        done.append("went on")
        with defer_signals():
            done.append("a step")
        done.append("never")

    assert run_command(command) == 143 and done == ["went on", "a step"]


def test_a_command_begins_without_the_signals_of_the_one_before():
    def stopped():
        raise Stopped(signal.SIGTERM)

    def command():
        with defer_signals():
            pass

    assert run_command(stopped) == 143 and run_command(command) == 0


def test_a_path_that_no_system_takes_leaves_the_reason_in_sight(capsys, tmp_path):
    long = tmp_path.joinpath(*["a" * 200] * 25)
    for command in (long.mkdir, lambda: refused(long)):
        assert run_command(command) == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {tmp_path}/aaa") and printed.endswith("too long)\n")
        assert len(printed) < 400 and f"[...{len(str(long)) + 1} characters...]" in printed
    assert not without_long_words("a " * 9999).count("[")


def refused(path):
    with refused_by_system(path):
        path.mkdir()
