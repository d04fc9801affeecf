"""Several processes: NCCL with one process, gloo with two on one GPU, train.sh's NPROC."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.command_line import ROOT
from benchmarks.gpu.figures import Figure, attempt, is_so
from benchmarks.gpu.materials import (
    INTERPRETER,
    PATCH,
    make_network,
    require_success,
    run_python,
    write_strips,
)
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps.training_run import last_checkpoint, small_flags
from benchmarks.training import make_arguments, make_dataset
from common.distributed import ProcessGroup
from common.settings import from_values
from training.loop import Training
from training.run_folder import RunFolder
from training.strip_settings import TrainingSettings
from training.strip_task import StripTask

# for the other process, which may have failed
LONGEST_WAIT = timedelta(seconds=30)
UNEQUAL = 3  # exit code of a process whose weights are not those of the first one


def run(setup: Setup) -> Iterator[Figure]:
    """Yield whether each kind of process group trains."""
    # first, as their processes are forked from this one, which has not touched the GPU yet
    for is_synchronized in setup.choose((False, True), (False,)):
        name = "two processes on one device, gloo"
        if is_synchronized:
            name += ", --sync_batch_norm"
        yield from attempt(name, partial(two_processes, setup, is_synchronized, name))
    name = f"a step of DDP in one process, {setup.choose('NCCL', 'gloo')}"
    yield from attempt(name, partial(one_process, setup, name))
    strips = write_strips(setup, 4)
    flags = ["--training_dataset_path", strips, "--epochs", 1, *small_flags(setup)]
    yield from attempt("NPROC=2 bash train.sh", partial(nproc, setup, flags))
    if not setup.is_dry:  # NPROC has launched two there
        yield from attempt("torchrun with one process", partial(torchrun, setup, flags))


def torchrun(setup: Setup, flags: list[object]) -> Iterator[Figure]:
    """A training in a group of one process."""
    alone = setup.folder / "alone"
    words = ["training/launch.py", 1, "trainer.py", *flags, "--sync_batch_norm"]
    require_success(run_python(setup, *words, "--checkpoint_path", alone))
    yield is_so("torchrun with one process trains", last_checkpoint(alone) is not None)


def one_process(setup: Setup, name: str) -> Iterator[Figure]:
    """Whether a gradient goes through a group of one process."""
    join(setup, 0, 1, "alone", setup.choose("nccl", "gloo"))
    network = make_network("difference", setup.choose(16, 2)).to(setup.device)
    ddp = DistributedDataParallel(network.train())
    ddp(torch.rand(2, 3, PATCH, PATCH, device=setup.device)).mean().backward()
    is_whole = all(parameter.grad.isfinite().all() for parameter in network.parameters())
    distributed.destroy_process_group()
    yield is_so(name, is_whole)


def two_processes(setup: Setup, is_synchronized: bool, name: str) -> Iterator[Figure]:
    """Whether two processes that train on one device have equal weights after some steps."""
    context = multiprocessing.get_context("fork")  # they need no imports of their own
    setup = replace(setup, folder=setup.folder / f"two_{is_synchronized}")
    setup.folder.mkdir()
    children = [
        context.Process(target=train_together, args=(setup, rank, is_synchronized))
        for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(setup.longest_command)
    codes = [child.exitcode for child in children]
    if set(codes) - {0, UNEQUAL}:
        raise RuntimeError(f"found exit codes {codes}, expected 0 or {UNEQUAL}")
    yield is_so(f"{name}: equal weights", not any(codes))


def train_together(setup: Setup, rank: int, is_synchronized: bool) -> None:
    """One of two processes: trains a few steps and compares its weights with the first one's.

    Ends with the exit code UNEQUAL where a bit differs.
    """
    join(setup, rank, 2, "both", "gloo")
    own = setup.folder / f"strips{rank}"
    own.mkdir()
    dataset = make_dataset(own, setup.choose(1, 3), size=setup.strip_size)
    flags = ["--base_channels", setup.choose(16, 2), "--bs", 2, "--arch", "difference"]
    values = vars(make_arguments(own, *flags)) | {"sync_batch_norm": is_synchronized}
    settings = from_values(TrainingSettings, values)
    processes = ProcessGroup(setup.device, rank, 2, distributed.group.WORLD)
    task = StripTask(settings, dataset, setup.device)
    training = Training(task, settings, processes, RunFolder(own, "together"))
    training.network.train()
    for batches in training.loader.steps(0, len(training.loader) - 3):
        training.take_step(batches)
    training.loader.close()
    tensors = [tensor.detach().cpu() for tensor in training.network.parameters()]
    weights = torch.cat([tensor.flatten() for tensor in tensors])
    first = weights.clone()
    distributed.broadcast(first, 0)
    distributed.destroy_process_group()
    sys.exit(0 if torch.equal(weights, first) else UNEQUAL)


def join(setup: Setup, rank: int, count: int, name: str, backend: str) -> None:
    """Join a process group that meets in a file of the folder."""
    if setup.device.type == "cuda":
        torch.cuda.set_device(setup.device)
    place = f"file://{setup.folder / name}_group"
    distributed.init_process_group(
        backend, init_method=place, rank=rank, world_size=count, timeout=LONGEST_WAIT
    )


def nproc(setup: Setup, flags: list[object]) -> Iterator[Figure]:
    """NPROC=2 train.sh: trains on two GPUs or the CPU, and is refused in one line on one GPU."""
    words = ["bash", ROOT / "train.sh", *flags, "--checkpoint_path", setup.folder / "nproc"]
    environment = os.environ | {"PYTHON": INTERPRETER, "NPROC": "2"}
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        env=environment,
        timeout=setup.longest_command,
    )
    print(f"$ NPROC=2 train.sh: {done.returncode}\n{done.stdout}{done.stderr}")
    if setup.is_dry or torch.cuda.device_count() > 1:
        yield is_so("NPROC=2 bash train.sh trains", done.returncode == 0)
        return
    last = done.stderr.strip().splitlines()[-1]
    is_refused = done.returncode == 1 and "Traceback" not in done.stderr
    name = "NPROC=2 bash train.sh on one GPU is refused"
    yield is_so(name, is_refused and "expected a GPU for each" in last, last)
