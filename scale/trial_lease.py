"""Leases: which process works on which trial, as files beside the study.

A journal does not know whether the process of a running trial is still alive. A lease names the
process, its host and the time, which the owner renews.
"""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from common.files import atomic_write, read_notes
from scale.lease import RENEWED_EVERY, is_alive, process_start

EXPIRES_AFTER = 600.0  # seconds without renewal, of an owner on another host


class Lease:
    """The lease of this process on one trial, in the file `path`."""

    def __init__(self, path: Path):
        self.path, self._renewed = path, -RENEWED_EVERY
        self.training: int | None = None  # the process id of the trial's training

    def renew(self, now: bool = False) -> None:
        """Write the file if it is due, or `now`. Raises `UserError` where that is refused."""
        if not now and time.monotonic() - self._renewed < RENEWED_EVERY:
            return
        processes = [pid for pid in (os.getpid(), self.training) if pid is not None]
        content = {
            "host": socket.gethostname(),
            "processes": {str(pid): process_start(pid) for pid in processes},
            "time": time.time(),
        }
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(content) + "\n")
        self._renewed = time.monotonic()

    def release(self) -> None:
        """Remove the file: the trial has ended, or another process may take it."""
        with suppress(OSError):
            self.path.unlink()


def has_living_owner(path: Path) -> bool:
    """Whether a process works on the trial whose lease is at `path`, or its training still runs.

    On this host its processes are looked up; one on another host must have renewed the lease within
    EXPIRES_AFTER seconds.
    """
    content = read_notes(path)
    if not isinstance(content, dict):
        return False
    if content.get("host") != socket.gethostname():
        renewed = content.get("time")
        return isinstance(renewed, int | float) and time.time() - renewed < EXPIRES_AFTER
    processes = content.get("processes")
    return isinstance(processes, dict) and any(
        pid.isdecimal() and is_alive(int(pid), began) for pid, began in processes.items()
    )
