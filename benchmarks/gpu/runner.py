"""Runs the steps one after another, each in a process of its own with a time limit.

A step is a module of benchmarks/gpu/steps with a function `run(setup)` that yields figures. Each
figure is written at once, so that a step that is stopped, or that crashes, keeps what it measured.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import Figure

# Imported once, before the first step: each step's process is forked from one that has them, and
# the process that starts the steps needs none.
PRELOADED = ["torch", "onnxruntime", "benchmarks.gpu.materials", "export_onnx_fullimage"]
OUTPUT = "output.txt"  # what a step prints, in its folder
LEAST_SECONDS = 10  # with less time left, a step is not started
LONGEST_END = 10  # seconds to wait for a killed process, which may hang in the driver


@dataclass(frozen=True)
class Step:
    """A step: its module, and its time limit in seconds on a GPU."""

    name: str
    limit: float


@dataclass(frozen=True)
class Outcome:
    """What a step's process left: how it ended ("" means well), its time, and all its output."""

    ending: str
    seconds: float
    output: str


def run_step(step: Step, is_dry: bool, limit: float, results: Path) -> Outcome:
    """Run a step in a process of its own, for `limit` seconds at most.

    The process appends each figure to the file `results` at once, as a line of JSON.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"gpu_{step.name}_"))
    started = time.monotonic()
    process = _forking_context().Process(target=_work, args=(step.name, folder, is_dry, results))
    process.start()
    process.join(limit)
    is_late = process.is_alive()
    _end_group(process.pid)
    process.kill()  # where it has had no time to make a group of its own
    process.join(LONGEST_END)
    seconds = time.monotonic() - started
    output = (folder / OUTPUT).read_text(errors="replace") if (folder / OUTPUT).exists() else ""
    shutil.rmtree(folder, ignore_errors=True)
    if is_late:
        return Outcome(f"stopped after {limit:.0f} s", seconds, output)
    if process.exitcode:
        return Outcome(f"failed with exit code {process.exitcode}", seconds, output)
    return Outcome("", seconds, output)


def ask(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns in a process of its own, which has PRELOADED.

    Raises `EOFError` where that process fails.
    """
    context = _forking_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join(LONGEST_END)


def _answer(sender: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    sender.send(function(*arguments))


def _forking_context() -> multiprocessing.context.ForkServerContext:
    # The server never touches the GPU: a process that is forked after that could not use it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _work(name: str, folder: Path, is_dry: bool, results: Path) -> None:
    """The process of a step: figures go to `results`, what it prints into a file of the folder."""
    os.setpgrp()  # so that all that it starts can be ended with it
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    (folder / "work").mkdir()
    with results.open("a") as file:
        for figure in _figures(name, folder / "work", is_dry):
            print(figure.as_json(name), file=file, flush=True)


def _figures(name: str, folder: Path, is_dry: bool) -> Iterator[Figure]:
    from benchmarks.gpu.setup import Setup  # torch, which the process of the caller does without

    return importlib.import_module(f"benchmarks.gpu.steps.{name}").run(Setup(folder, is_dry))


def _end_group(number: int) -> None:
    """End a step's process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
