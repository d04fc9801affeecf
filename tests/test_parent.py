"""A process ends with the one that started it, also where that is killed and says nothing."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such parents")

CHILD = """
import sys, time
from common import parent
if sys.argv[1] == "polled":
    parent._ask_system, parent.POLL_SECONDS = lambda: False, 0.05
parent.end_with_parent(int(sys.argv[2]) or None)
print("watching", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(child.pid, flush=True)
child.wait()
"""


def start(way: str, expected: int = 0) -> subprocess.Popen:
    """A parent with a child that watches it; both write to one pipe."""
    command = [sys.executable, "-c", PARENT, CHILD, way, str(expected)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("way", ["told by the system", "polled"])
def test_the_child_of_a_killed_process_ends(way):
    process = start(way)
    child = int(process.stdout.readline())
    assert process.stdout.readline() == "watching\n"
    os.kill(child, 0)  # it is there
    process.send_signal(signal.SIGKILL)
    # the pipe ends when the last process that could write to it has ended
    assert process.stdout.read() == ""
    process.wait()


def test_a_process_whose_parent_ended_before_it_could_watch_ends_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    process = start("told by the system", gone.pid)
    process.stdout.readline()
    assert process.stdout.read() == "" and process.wait() == 0
