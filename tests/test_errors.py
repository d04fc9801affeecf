import os
import signal

import pytest

from common.errors import Stopped, defer_signals, run_command


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
