"""Runs the steps one after another, each in a process of its own with a time limit.

A step is a module of benchmarks/gpu/steps with a function `run(setup)` that yields figures. Each
figure is kept at once, so that a step that is stopped, or that crashes, keeps what it measured.
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.figures import Figure, Setup

# imported once, before the first step: each step's process is forked from one that has them
PRELOADED = ["torch", "onnxruntime", "benchmarks.training", "export_onnx_fullimage"]
FIGURES, OUTPUT = "figures.jsonl", "output.txt"  # files of a step, in its folder
LEAST_SECONDS = 10  # with less time left, a step is not started


@dataclass(frozen=True)
class Step:
    """A step: its module, what it shows, and its time limit in seconds on a GPU."""

    name: str
    shows: str
    limit: float


@dataclass(frozen=True)
class Outcome:
    """What a step's process left: how it ended ("" means well), its time, and all its output."""

    ending: str
    seconds: float
    output: str


def run_step(step: Step, is_dry: bool, limit: float, lines: list[str]) -> Outcome:
    """Run a step in a process of its own, for `limit` seconds at most.

    Appends the figures to `lines`, one JSON object for each.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"gpu_{step.name}_"))
    started = time.monotonic()
    process = _forking_context().Process(target=_work, args=(step.name, folder, is_dry))
    process.start()
    process.join(limit)
    is_late = process.is_alive()
    _end_group(process.pid)
    process.kill()  # where it has had no time to make a group of its own
    process.join()
    seconds = time.monotonic() - started
    if (folder / FIGURES).exists():
        lines += (folder / FIGURES).read_text().splitlines()
    output = (folder / OUTPUT).read_text(errors="replace") if (folder / OUTPUT).exists() else ""
    shutil.rmtree(folder, ignore_errors=True)
    if is_late:
        return Outcome(f"stopped after {limit:.0f} s", seconds, output)
    if process.exitcode:
        return Outcome(f"failed with exit code {process.exitcode}", seconds, output)
    return Outcome("", seconds, output)


def _forking_context() -> multiprocessing.context.ForkServerContext:
    # The server never touches the GPU: a process that is forked after that could not use it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _work(name: str, folder: Path, is_dry: bool) -> None:
    """The process of a step: its figures and its output go into files of the folder."""
    os.setsid()  # so that all that it starts can be ended with it
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    (folder / "work").mkdir()
    with (folder / FIGURES).open("w") as file:
        for figure in _figures(name, Setup(folder / "work", is_dry)):
            print(figure.as_json(name), file=file, flush=True)


def _figures(name: str, setup: Setup) -> Iterator[Figure]:
    return importlib.import_module(f"benchmarks.gpu.steps.{name}").run(setup)


def _end_group(number: int) -> None:
    """End a step's process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
