"""One job of scale.score_archive, measured from outside; needs Linux."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command_line import ROOT, as_words
from benchmarks.training_memory import children, proportional_memory
from common.errors import UserError

SAMPLING, SAMPLING_OF_MEMORY = 0.1, 1.0  # seconds between two looks at the processes
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # a second
# what tells a process that scores, in its command line: Ray's actors, and workers of a pool
WORKERS = (b"ray::MapWorker", b"ray::_MapWorker", b"spawn_main")
LONGEST_END = 60.0  # seconds that a job may take to end after a signal


@dataclass
class Measured:
    """A job's figures; rates are those of its second half, when all workers are at work.

    Milliseconds are processor time a strip, of the workers and of the process that hands out and
    writes. Memory is MB of proportional share at its peak: of a worker, and of all other processes
    together.
    """

    seconds: float  # the whole job
    first: float  # seconds until the first shard is written
    rate: float  # strips/s
    worker_ms: float
    driver_ms: float
    worker_memory: float
    other_memory: float


@dataclass
class _Sample:
    """A look at a job: its process and its workers by id, with seconds of processor time."""

    at: float  # as files' times
    driver: float
    workers: dict[int, float]


def job_words(model: Path, strips: Path | str, output: Path, *more: object) -> list[str]:
    """The command line of a job on the CPU."""
    flags = ("--model", model, "--input", strips, "--output", output, "--device", "cpu")
    return [sys.executable, "-m", "scale.score_archive", *as_words(*flags, *more)]


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen]:
    """A process in a session of its own, which ends with the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, cwd=ROOT, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=LONGEST_END)
        process.kill()
        process.communicate()


def measure(model: Path, strips: Path | str, output: Path, *more: object) -> Measured:
    """Run a job to its end. Raises `UserError` where it fails."""
    samples, memory, weighed = [], {}, 0.0
    began = time.time()
    with started(job_words(model, strips, output, *more)) as process:
        while process.poll() is None:
            samples.append(_look(process.pid))
            if samples[-1].at - weighed > SAMPLING_OF_MEMORY:
                weighed = samples[-1].at
                _weigh(process.pid, memory)
            time.sleep(SAMPLING)
        ended = time.time()
        if process.returncode:
            raise UserError(f"a job ended with {process.returncode}: {process.stderr.read()}")
    return _figures(output, began, ended, samples, memory)


def _look(driver: int) -> _Sample:
    workers = {it: processor_seconds(it) for it in descendants(driver) if _is_worker(it)}
    return _Sample(time.time(), processor_seconds(driver), workers)


def _weigh(driver: int, memory: dict[str, float]) -> None:
    """Keep the peaks of the memory of a worker, and of all other processes of a job."""
    others = proportional_memory(driver)
    for process in descendants(driver):
        share = proportional_memory(process)
        if _is_worker(process):
            memory["worker"] = max(memory.get("worker", 0), share / 1e6)
        else:
            others += share
    memory["other"] = max(memory.get("other", 0), others / 1e6)


def _is_worker(process: int) -> bool:
    return any(mark in command_line(process) for mark in WORKERS)


def _figures(
    output: Path, began: float, ended: float, samples: list[_Sample], memory: dict[str, float]
) -> Measured:
    done = sorted((path.stat().st_mtime, path.name) for path in (output / "_done").iterdir())
    times = [at for at, _ in done]
    counts = [int(name.split(".")[1]) for _, name in done]
    half = len(done) // 2 - 1
    strips = sum(counts[half + 1 :])
    # the looks at the ends of that half
    inside = [sample for sample in samples if times[half] <= sample.at <= times[-1]]
    first, last = inside[0], inside[-1]
    scored = strips * (last.at - first.at) / (times[-1] - times[half])
    used = {it: seconds for sample in inside for it, seconds in sample.workers.items()}
    workers = sum(seconds - first.workers.get(it, 0) for it, seconds in used.items())
    return Measured(
        seconds=ended - began,
        first=times[0] - began,
        rate=strips / (times[-1] - times[half]),
        worker_ms=1000 * workers / scored,
        driver_ms=1000 * (last.driver - first.driver) / scored,
        worker_memory=memory.get("worker", 0),
        other_memory=memory["other"],
    )


def descendants(process: int) -> list[int]:
    """The processes below a process, on Linux."""
    below = children(process)
    return [*below, *(it for child in below for it in descendants(child))]


def command_line(process: int) -> bytes:
    """The command line of a process; nothing once it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def processor_seconds(process: int) -> float:
    """The processor time of all threads of a process; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def cores_in_use(seconds: float = 1.0) -> float:
    """How many cores all processes of this machine use now, the mean over `seconds`."""
    began, idle = time.monotonic(), _idle_seconds()
    time.sleep(seconds)
    waited = (_idle_seconds() - idle) / (time.monotonic() - began)
    return max(0.0, (os.cpu_count() or 1) - waited)


def _idle_seconds() -> float:
    """The seconds that the cores did nothing or waited for a disk, summed, since a start."""
    fields = Path("/proc/stat").read_text().split()
    return (int(fields[4]) + int(fields[5])) / TICKS
