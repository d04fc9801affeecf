"""Commands in forked processes: what they printed, how they ended, what they took and wrote."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import run_command

LONGEST = 20.0  # seconds
# Address space of a child, so that no damaged file takes the machine's memory. Libraries reserve
# more than they use.
MOST_ADDRESSES = 12 * 2**30
POLLING = 0.02  # seconds


@dataclass(frozen=True)
class Job:
    """A command to run in the working folder `folder`, a new one.

    `files` is the number of damaged files that the command meets. The command may write into the
    folders of `allowed`, relative to `root`, which contains `folder`.
    """

    name: str
    command: Callable[[], int | None]
    root: Path
    folder: Path
    allowed: tuple[str, ...]
    files: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `signal` is the number of the signal that ended it, 0 for none."""

    job: Job
    code: int
    signal: int
    seconds: float
    peak_bytes: int
    printed: str
    outside: tuple[str, ...]

    @property
    def is_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.printed

    @property
    def is_hang(self) -> bool:
        return self.seconds > LONGEST


def run_jobs(jobs: Iterable[Job], at_once: int) -> Iterator[Outcome]:
    """Run jobs in forked processes, some at once, and yield their outcomes as they end."""
    running: dict[int, tuple[Job, float, set[str]]] = {}
    waiting = iter(jobs)
    job = next(waiting, None)
    while job or running:
        while job and len(running) < at_once:
            before = _listed(job)
            running[_fork(job)] = (job, time.monotonic(), before)
            job = next(waiting, None)
        time.sleep(POLLING)
        for process in list(running):
            entry, started, before = running[process]
            seconds = time.monotonic() - started
            if seconds > LONGEST:
                os.kill(process, 9)
            ended, status, usage = os.wait4(process, os.WNOHANG)
            if ended:
                del running[process]
                yield _outcome(entry, status, usage, seconds, before)


def _fork(job: Job) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.chdir(job.folder)
        output = os.open(job.root / "printed", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
        try:
            code = run_command(job.command)
        except SystemExit as stop:  # of argparse
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _listed(job: Job) -> set[str]:
    """The files below the job's root that are not where it may write."""
    found = set()
    for path in job.root.rglob("*"):
        name = path.relative_to(job.root).as_posix()
        if path.is_file() and name != "printed" and not name.startswith(job.allowed):
            status = path.stat()
            found.add(f"{name} {status.st_size} {status.st_mtime_ns}")
    return found


def _outcome(
    job: Job, status: int, usage: resource.struct_rusage, seconds: float, before: set[str]
) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    printed = (job.root / "printed").read_text(errors="replace")
    outside = tuple(sorted(_listed(job) ^ before))
    return Outcome(
        job, max(code, 0), max(-code, 0), seconds, usage.ru_maxrss * 1024, printed, outside
    )
