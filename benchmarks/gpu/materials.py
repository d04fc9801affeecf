"""What several steps need: strips on disk, networks with random weights, commands, times."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
import torch

from benchmarks.command_line import ROOT
from benchmarks.gpu.setup import Setup
from benchmarks.training import OurLoop, make_arguments, make_dataset, synchronize
from data.demo_strips import make_strip
from data.image_files import to_unit_range
from data.splits import Dataset
from model import ARCHITECTURES, SegmentationNetwork
from ops.tiling import PATCH_SIZES
from training.checkpoint import load_checkpoint

# of the commands that a step starts, as for the shell wrappers
INTERPRETER = os.environ.get("PYTHON", sys.executable)
PATCH = PATCH_SIZES["strip"]
DIFFERENT = 8  # strips that are drawn; further ones repeat them
STEPS = 150  # of a short training
LEAST_TIMED, LONGEST_TIMING = 10, 0.3  # calls and seconds of one measurement of time
WARM_UPS = 3  # untimed calls before it


def write_strips(setup: Setup, count: int) -> Path:
    """A folder train/good with `count` demo strips of the setup's size."""
    folder = setup.folder / "strips" / "train" / "good"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        strip = draw_strip(number, setup.strip_size)
        tifffile.imwrite(folder / f"{number}.tiff", strip, photometric="minisblack")
    return folder


@lru_cache(maxsize=64)
def draw_strip(number: int, size: tuple[int, int]) -> np.ndarray:
    """A demo strip (3, H, W); drawing one takes longer than most of what is measured with it."""
    return make_strip(np.random.default_rng(number), size)


def make_batch(setup: Setup, count: int) -> torch.Tensor:
    """Demo strips (count, 3, H, W), values 0-1, on the CPU; at most eight differ."""
    strips = [draw_strip(number % DIFFERENT, setup.strip_size) for number in range(count)]
    return torch.from_numpy(to_unit_range(np.stack(strips)))


def repeated_dataset(setup: Setup, count: int) -> Dataset:
    """A data set of `count` training strips, of which at most DIFFERENT differ."""
    dataset = make_dataset(setup.folder, min(count, DIFFERENT), size=setup.strip_size)
    repeats = -(-count // len(dataset.train))
    return replace(dataset, train=(dataset.train * repeats)[:count])


def make_network(architecture: str, base_channels: int) -> SegmentationNetwork:
    """A network in evaluation mode with random weights: it takes as long as a trained one."""
    torch.manual_seed(0)
    return ARCHITECTURES[architecture](base_channels=base_channels).eval()


def train_network(setup: Setup, architecture: str, base_channels: int) -> SegmentationNetwork:
    """A network in evaluation mode, on the CPU, after STEPS steps on the setup's device.

    A network with random weights shows no difference of precision: its heatmap hardly varies, or,
    with the batch norm of real strips, noise dominates it.
    """
    dataset = repeated_dataset(setup, setup.choose(32, 1))
    flags = ["--arch", architecture, "--base_channels", base_channels, "--recipe", "robust"]
    arguments = make_arguments(setup.folder, *flags, "--bs", setup.choose(16, 2))
    loop = OurLoop(arguments, dataset, setup.device)
    batches = loop.batches()
    for _ in range(setup.choose(STEPS, 2)):
        loop.step(next(batches))
    loop.close()
    return loop.network.eval().cpu()


def run_python(
    setup: Setup, *words: object, interpreter: str = INTERPRETER, **options: object
) -> subprocess.CompletedProcess:
    """Run a script of the repository, and print what it printed.

    Raises `subprocess.TimeoutExpired` after the setup's longest command.
    """
    done = subprocess.run(
        [interpreter, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=setup.longest_command,
        **options,
    )
    print(f"$ {' '.join(map(str, words))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def require_success(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """The process that has ended. Raises `RuntimeError` unless its exit code is 0."""
    if done.returncode:
        raise RuntimeError(f"{done.args}: exit code {done.returncode}")
    return done


def same_weights(path: Path, other: Path) -> bool:
    """Whether two checkpoints have the same weights, bit for bit."""
    return equal_tensors(*(load_checkpoint(each)["model_state_dict"] for each in (path, other)))


def equal_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether both have the same names and tensors, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def milliseconds(call: Callable[[], object], device: torch.device, is_dry: bool = False) -> float:
    """The median time of a call with all its work on the device, after untimed calls.

    A dry run makes two calls and times the second.
    """
    for _ in range(1 if is_dry else WARM_UPS):
        call()
    synchronize(device)
    times, started = [], time.perf_counter()
    while not times or not (is_dry or is_enough(len(times), time.perf_counter() - started)):
        before = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - before)
    return 1000 * statistics.median(times)


def is_enough(count: int, seconds: float) -> bool:
    """Whether so many calls in so many seconds are a measurement."""
    return seconds > LONGEST_TIMING and (count >= LEAST_TIMED or seconds > 5 * LONGEST_TIMING)
