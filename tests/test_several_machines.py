"""A training on two machines, here two agents on the loopback: one is lost and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, arguments_for, weights, without_test

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
EPOCHS = 60
LOST = (1, 0, 1, 0, 1)  # who is killed, in turn; the first one has the address where they meet
NAME = f"BgRemoval_lr0.001_ep{EPOCHS}_bs2_200x150_strip"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Machine:
    """An agent with one worker, in an environment of its own."""

    def __init__(self, dataset: Path, folder: Path, log: Path, **environment: object):
        flags = arguments_for(dataset, folder, "--bs", 2, "--epochs", EPOCHS, "--resume", "auto")
        processes = environment.pop("NPROC", 1)
        command = [sys.executable, "training/launch.py", str(processes), "trainer.py", *flags]
        values = {name: str(value) for name, value in environment.items()}
        with log.open("a") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | values,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def kill(self, whole: bool) -> None:
        """Kill agent and worker at once, or, not `whole`, the agent alone: its worker notices."""
        workers = self.workers()
        for victim in [self.process.pid, *(workers if whole else [])]:
            os.kill(victim, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(map(is_alive, workers)), 20)


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_error_of_the_input_ends_the_launcher_instead_of_coming_again(tmp_path):
    meeting = {"NNODES": 1, "RENDEZVOUS": f"127.0.0.1:{free_port()}"}
    log = tmp_path / "log"
    machine = Machine(tmp_path / "nothing", tmp_path / "runs", log, **meeting)
    try:
        assert machine.process.wait(timeout=120) == 1, log.read_text()
    finally:
        machine.process.kill()
    assert log.read_text().count("found no such path") == 1


@pytest.mark.long
def test_a_machine_that_is_lost_and_comes_back_changes_no_bit_of_the_weights(dataset, tmp_path):
    dataset = without_test(dataset, tmp_path / "strips")
    whole = Machine(dataset, tmp_path / "whole", tmp_path / "whole.log", NPROC=2)
    assert whole.process.wait(timeout=600) == 0, (tmp_path / "whole.log").read_text()
    meeting = {"NNODES": 2, "RENDEZVOUS": f"127.0.0.1:{free_port()}"}
    folder, log = tmp_path / "disturbed", tmp_path / "disturbed.log"
    last, generator = folder / f"{NAME}.pth", np.random.default_rng(3)
    machines = [Machine(dataset, folder, log, **meeting) for _ in range(2)]
    try:
        for number, lost in enumerate(LOST):
            before = last.stat().st_mtime_ns if last.exists() else 0
            wait_until(lambda: last.exists() and last.stat().st_mtime_ns > before, 300)  # noqa: B023
            time.sleep(float(generator.uniform(0, 1)))
            assert machines[lost].process.poll() is None, log.read_text()
            machines[lost].kill(whole=number % 2 == 0)
            machines[lost] = Machine(dataset, folder, log, **meeting)
        assert [machine.process.wait(timeout=900) for machine in machines] == [0, 0], (
            log.read_text()
        )
    finally:
        for machine in machines:
            machine.process.send_signal(signal.SIGKILL)
    assert log.read_text().count("going on from") >= len(LOST)
    assert weights(last) == weights(tmp_path / "whole" / f"{NAME}.pth")
