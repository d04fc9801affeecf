"""Progress bars on a terminal of 80 columns, as it shows them."""

import contextlib
import fcntl
import os
import pty
import struct
import termios
from types import SimpleNamespace

from common.progress import progress_bar
from training.run_reporter import RunReporter

TASK = SimpleNamespace(scheduled=lambda epoch: {"gamma": 1.0 + epoch}, headlines=())
# a process that draws a bar and writes no files
PROCESS = SimpleNamespace(is_main=False, hides_progress=False)


@contextlib.contextmanager
def terminal():
    """Make stderr a terminal of 80 columns; yields a function that reads its last line."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with os.fdopen(its, "w", encoding="utf-8") as screen, contextlib.redirect_stderr(screen):

        def last_line():
            print("\rEND", end="", file=screen, flush=True)  # a terminal delivers in parts
            text = b""
            while not text.endswith(b"END"):
                text += os.read(ours, 65536)
            return [part for part in text.decode().split("\r")[:-1] if part.strip()][-1].rstrip()

        yield last_line
    os.close(ours)


def test_a_training_shows_loss_and_time_left():
    reporter = RunReporter(TASK, SimpleNamespace(epochs=300), PROCESS, None)
    with terminal() as last_line, reporter.open([], 0, 300_000):
        reporter.begin_epoch(99, 0.00123)
        reporter.show_loss(1.234e-3, 1)
        reporter._progress.update(99_000)
        reporter._progress.refresh()
        line = last_line()
    assert len(line) <= 80 and line.startswith("epoch 100/300:  33%|")
    assert " left, loss 1.23e-03, gamma 100.00" in line


def test_the_longest_label_leaves_room_for_the_time_left():
    label = "choosing a Gaussian for likelihood"
    with terminal() as last_line, progress_bar(total=40, desc=label, unit="strip") as bar:
        bar.update(10)
        bar.refresh()
        line = last_line()
    assert len(line) <= 80 and line.startswith(f"{label}:  25%|") and " left, 10/40" in line
