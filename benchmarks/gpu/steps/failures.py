"""What a user meets on a bad day: the doctor's report, a full GPU, Ctrl-C."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks.command_line import FIRST_RECIPE, ROOT
from benchmarks.gpu.figures import Figure, attempt, is_so
from benchmarks.gpu.materials import INTERPRETER, run_python, write_strips
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps.training_run import small_flags, wait_for_checkpoint
from common.files import file_hash
from training.checkpoint import BEST_SUFFIX, load_checkpoint

# Bytes that another process leaves: enough for libraries and the network, for no batch. bfloat16
# needs half of what float32 does: with 64 channels, 64 patches fit into 4 GiB.
LEFT_ON_GPU = 3 * 2**30
# trainer.py in a dry run: the process may take a GiB beside what it has when it begins
WITH_LITTLE_MEMORY = """
import resource, sys, trainer
from common.errors import run_command
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
sys.exit(run_command(trainer.main))
"""


def run(setup: Setup) -> Iterator[Figure]:
    """Yield what the doctor says, and how a training ends without memory and by Ctrl-C."""
    done = run_python(setup, "inference_onnx.py", "--doctor")
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
    wait_for_checkpoint(setup, setup.folder / "run", lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=setup.longest_command)
    finally:
        process.kill()  # where it has not ended by itself
    print(errors)
    is_clean = process.returncode == 130 and "to go on: python" in errors
    yield is_so("Ctrl-C saves, and says how to go on", is_clean and "Traceback" not in errors)


def run_out_of_memory(setup: Setup, flags: list[object]) -> Iterator[Figure]:
    """Start a training that cannot fit beside the run of before, then check that run's files."""
    folder = setup.folder / "run"
    before = hashes(folder)
    large = ["--bs", 64, "--base_channels", setup.choose(128, 512), "--arch", "unet"]
    large += ["--epochs", 1]  # where it fits after all
    script = ["-c", WITH_LITTLE_MEMORY] if setup.is_dry else ["trainer.py"]
    with little_memory(setup):
        done = run_python(setup, *script, *flags, *large)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    is_named = done.returncode == 1 and "out of memory with --bs 64: expected" in last
    name = "a batch that cannot fit is named in the last line"
    yield is_so(name, is_named and "Traceback" not in done.stderr, last)
    after = hashes(folder)
    is_kept = before == {name: after.get(name) for name in before}
    yield is_so("the other run is as before", bool(before) and is_kept)
    (run,) = [folder / name for name in before if not name.endswith(BEST_SUFFIX)]
    more = load_checkpoint(run)["epoch"] + 1
    resumed = run_python(setup, "trainer.py", "--resume", run, "--epochs", more)
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
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()
