"""A process that must not outlive the process that started it."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends
POLL_SECONDS = 1.0


def end_with_parent(parent: int | None = None) -> None:
    """Have this process killed when its parent ends, however that ends.

    A parent that is killed with SIGKILL tells nobody, and its children live on: a worker would keep
    its GPU. `parent` is the id of the parent (None: the one of now); if that one has ended already,
    this process is killed at once. SIGKILL is used because a process that waits for others handles
    no other signal; files are written atomically, so none is left half written.

    Linux sends the signal when the *thread* ends that started this process. Other systems have no
    such signal: there a thread looks for the parent every POLL_SECONDS. Windows has neither.
    """
    if os.name == "nt":
        return
    parent = parent or os.getppid()
    is_told = sys.platform == "linux" and _ask_system()
    if os.getppid() != parent:
        _end()
    if not is_told:
        threading.Thread(target=_poll, args=(parent,), daemon=True).start()


def _ask_system() -> bool:
    return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0


def _poll(parent: int) -> None:
    while os.getppid() == parent:  # an orphan gets another parent
        time.sleep(POLL_SECONDS)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
