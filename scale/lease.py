"""One job at a time in an output folder: a lease that its job renews while it is at work.

A folder in object storage knows no locks, so the lease is a file. It counts as given up when its
process is gone, or when nobody renewed it for EXPIRES_AFTER seconds: on another machine nobody can
see whether the process lives.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError
from scale.output_folder import LEASE, OutputFolder

RENEWED_EVERY, EXPIRES_AFTER = 30.0, 300.0  # seconds
# Seconds until a lease is read back: of two jobs that begin at once, the one that wrote last has it
SETTLES_AFTER = 0.3


class Lease:
    """The lease of this process on a folder."""

    def __init__(self, output: OutputFolder):
        self.output, self.token = output, uuid.uuid4().hex
        self._stopped = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def require_own(self) -> None:
        """Raise `UserError` where another job has taken the folder over."""
        found = self.output.read_notes(LEASE)
        if not isinstance(found, dict) or found.get("token") != self.token:
            raise UserError(
                f"{self.output}: found that another job has taken it over, "
                "expected one at a time: what it lacks, that job does"
            )

    def _write(self, is_at_work: bool = True) -> None:
        content = {
            "token": self.token,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "began": process_start(os.getpid()),
            "renewed": time.time(),
            "is_at_work": is_at_work,
        }
        self.output.write_notes(LEASE, content)

    def _renew(self) -> None:
        while not self._stopped.wait(RENEWED_EVERY):
            with suppress(UserError):  # a later renewal, or the next shard, tells
                self.require_own()
                self._write()

    def take(self) -> None:
        """Take the lease and renew it from now on. Raises `UserError` where another job has it."""
        found = self.output.read_notes(LEASE)
        if isinstance(found, dict) and _is_held(found):
            seconds = max(0, round(time.time() - found["renewed"]))
            raise UserError(
                f"{self.output}: found another job at work there (process {found.get('process')} "
                f"on {found.get('host')}, seen {seconds} s ago), expected one at a time: "
                "wait for it, or give another --output"
            )
        self._write()
        time.sleep(SETTLES_AFTER)
        self.require_own()
        self._renewing.start()

    def give_back(self) -> None:
        """End the lease, if it is still this job's."""
        self._stopped.set()
        self._renewing.join()
        with suppress(UserError):
            self.require_own()
            self._write(is_at_work=False)


@contextmanager
def leased(output: OutputFolder) -> Iterator[Lease]:
    """Have the folder for one job alone, during the block. Raises `UserError` as `take`."""
    lease = Lease(output)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def process_start(process: int) -> str:
    """What tells a process from a later one with its number, on Linux.

    It is empty for one that has ended, also where its parent has not asked for its end yet.
    """
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]  # clock ticks since the machine started


def _is_held(found: dict[str, Any]) -> bool:
    """Whether the job that wrote a lease may still be at work."""
    renewed, process = found.get("renewed"), found.get("process")
    if not found.get("is_at_work") or not isinstance(renewed, float):
        return False
    if found.get("host") == socket.gethostname() and isinstance(process, int):
        return is_alive(process, found.get("began"))
    return time.time() - renewed < EXPIRES_AFTER


def is_alive(process: int, began: object) -> bool:
    """Whether a process that has `process_start` as `began` still runs."""
    if os.name != "nt" and Path("/proc/self/stat").exists():
        return bool(began) and process_start(process) == began
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
