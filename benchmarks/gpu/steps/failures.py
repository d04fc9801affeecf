"""What a user meets on a bad day: the doctor's report, a full GPU, Ctrl-C."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks.command_line import FIRST_RECIPE, ROOT
from benchmarks.gpu.figures import Figure, Setup, attempt, is_so
from benchmarks.gpu.materials import INTERPRETER, run_python, write_strips
from benchmarks.gpu.steps.training_run import last_checkpoint, small_flags
from common.files import file_hash
from training.checkpoint import load_checkpoint

LEFT_ON_GPU = 4 * 2**30  # bytes that another process leaves: enough for libraries, for no batch
ADDRESS_SPACE = 4 * 2**30  # bytes of a process on the CPU of a dry run


def run(setup: Setup) -> Iterator[Figure]:
    """Yield what the doctor says, and how a training ends without memory and by Ctrl-C."""
    done = run_python("inference_onnx.py", "--doctor")
    findings = [line for line in done.stdout.splitlines() if line.strip()]
    yield Figure("`python inference_onnx.py --doctor`", " / ".join(findings))
    strips = write_strips(setup, 4)
    flags = ["--training_dataset_path", strips, "--checkpoint_path", setup.folder / "run"]
    flags += [*FIRST_RECIPE, "--arch", "difference", *small_flags(setup)]
    yield from attempt("Ctrl-C", partial(interrupt, setup, flags))
    yield from attempt("a full GPU", partial(run_out_of_memory, setup, flags))


def interrupt(setup: Setup, flags: list[object]) -> Iterator[Figure]:
    """Interrupt a training of many epochs, and resume it."""
    command = ["trainer.py", *flags, "--epochs", 1000, "--save_every", 0.001]
    process = subprocess.Popen(
        [INTERPRETER, *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not last_checkpoint(setup.folder / "run") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    print(errors)
    is_clean = process.returncode == 130 and "to go on: python" in errors
    yield is_so("Ctrl-C saves, and says how to go on", is_clean and "Traceback" not in errors)


def run_out_of_memory(setup: Setup, flags: list[object]) -> Iterator[Figure]:
    """Start a training that cannot fit beside the run of before, then check that run's files."""
    folder = setup.folder / "run"
    before = hashes(folder)
    large = ["--bs", 64, "--base_channels", setup.choose(64, 512), "--arch", "unet"]
    with little_memory(setup):
        done = run_python(
            *("trainer.py", *flags, *large),
            preexec_fn=limit_address_space if setup.is_dry else None,
            interpreter=sys.executable,  # the limit is of the process that trains
        )
    last = (done.stderr.strip().splitlines() or [""])[-1]
    is_named = done.returncode == 1 and "out of memory with --bs 64: expected" in last
    name = "a batch that cannot fit is named in the last line"
    yield is_so(name, is_named and "Traceback" not in done.stderr, last)
    after = hashes(folder)
    yield is_so("the other run is as before", before == {name: after[name] for name in before})
    run = last_checkpoint(folder)
    more = load_checkpoint(run)["epoch"] + 1
    resumed = run_python("trainer.py", "--resume", run, "--epochs", more)
    yield is_so("and it can be resumed", resumed.returncode == 0)


def hashes(folder: Path) -> dict[str, str]:
    """The hash of each checkpoint in a folder, by its name."""
    return {path.name: file_hash(path) for path in folder.glob("*.pth")}


@contextmanager
def little_memory(setup: Setup) -> Iterator[None]:
    """Hold all but LEFT_ON_GPU of the GPU's memory for the block, as another process would."""
    if setup.is_dry:
        yield
        return
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - LEFT_ON_GPU), dtype=torch.uint8, device=setup.device)
    yield
    del held
    torch.cuda.empty_cache()


def limit_address_space() -> None:
    """Leave the process ADDRESS_SPACE."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
