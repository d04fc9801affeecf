"""`bash train.sh` to its end; a training that is killed and resumed; equal weights."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import trainer
from benchmarks.command_line import ROOT
from benchmarks.gpu.figures import Figure, attempt, is_so
from benchmarks.gpu.materials import (
    DIFFERENT,
    INTERPRETER,
    require_success,
    run_python,
    same_weights,
    write_strips,
)
from benchmarks.gpu.setup import Setup
from common.errors import run_command
from training.checkpoint import BEST_SUFFIX


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the figures of train.sh and of three deterministic trainings."""
    yield from attempt("`bash train.sh`", partial(train_to_the_end, setup))
    yield from attempt("kill and resume", partial(kill_and_resume, setup))


def train_to_the_end(setup: Setup) -> Iterator[Figure]:
    """Run the wrapper with its full preset, as a user does, for two epochs of the demo strips."""
    started = time.monotonic()
    demo = ROOT / "dataset" / "demo"
    if not setup.is_dry and not demo.exists():
        require_success(run_python(setup, "prepare_dataset.py", "demo", "--output", demo))
        yield Figure("making the demo strips", time.monotonic() - started, "s")
    small = ["--training_dataset_path", write_strips(setup, 4), *small_flags(setup)]
    words = ["--epochs", 2, "--checkpoint_path", setup.folder / "run", *setup.choose([], small)]
    started = time.monotonic()
    lines = []
    with subprocess.Popen(
        ["bash", ROOT / "train.sh", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHON": INTERPRETER},
    ) as process:
        for line in process.stdout:
            lines.append((time.monotonic() - started, line))
            print(f"{lines[-1][0]:6.1f} {line}", end="")
    yield is_so("`bash train.sh` ends well", process.returncode == 0)
    yield Figure("two epochs, test strips scored", time.monotonic() - started, "s")
    ends = [seconds for seconds, line in lines if line.startswith("epoch ")]
    yield Figure("the second epoch with its validation", ends[1] - ends[0], "s")
    for summary in (setup.folder / "run").glob("*_test/metrics.json"):
        metrics = json.loads(summary.read_text())
        for name in ("image_auroc", "pixel_average_precision"):
            yield Figure(f"test strips: {name}", metrics[name])


def kill_and_resume(setup: Setup) -> Iterator[Figure]:
    """Train twice with --deterministic; the second is killed within an epoch, and resumed."""
    strips = write_strips(setup, setup.choose(DIFFERENT, 4))
    flags = ["--training_dataset_path", strips, "--epochs", setup.choose(2, 1)]
    flags += ["--save_every", 0.001]
    flags += ["--recipe", "robust", "--arch", "difference", "--deterministic"]
    flags += ["--align", "fine", "--weighting", "strong_likelihood"]
    flags += setup.choose(["--amp", "--base_channels", 16], small_flags(setup))
    whole, killed = setup.folder / "whole", setup.folder / "killed"
    require_success(run_python(setup, "trainer.py", *flags, "--checkpoint_path", whole))
    # forked, as the signal must meet the process that trains; this one has not touched the GPU
    process = multiprocessing.get_context("fork").Process(
        target=train, args=([*flags, "--checkpoint_path", killed],)
    )
    process.start()
    wait_for_checkpoint(setup, killed, process.is_alive)
    process.kill()
    process.join(setup.longest_command)
    yield is_so("killed in the middle", process.exitcode == -signal.SIGKILL)
    require_success(run_python(setup, "trainer.py", "--resume", killed))
    yield is_so(
        "a killed and resumed run has the weights of another, whole run (--deterministic)",
        same_weights(last_checkpoint(whole), last_checkpoint(killed)),
    )


def train(flags: list[object]) -> None:
    """Do in this process what `python trainer.py FLAG...` does, to its end."""
    sys.argv = ["trainer.py", *map(str, flags)]
    sys.exit(run_command(trainer.main))


def wait_for_checkpoint(setup: Setup, folder: Path, is_running: Callable[[], bool]) -> None:
    """Return when a process has written its first checkpoint, has ended, or takes too long."""
    end = time.monotonic() + setup.longest_command
    while not last_checkpoint(folder) and is_running() and time.monotonic() < end:
        time.sleep(0.01)


def small_flags(setup: Setup) -> list[object]:
    """Flags of trainer.py that make a dry run quick."""
    size = ["--base_channels", 2, "--bs", 6, "--gpu_id", -1]
    # the registration of strips is a third of a run's time, and no different on a GPU's machine
    return [*size, "--align", "none", "--weighting", "none"] if setup.is_dry else []


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of the only run in a folder, or None."""
    found = [path for path in folder.glob("*.pth") if not path.name.endswith(BEST_SUFFIX)]
    return found[0] if found else None
