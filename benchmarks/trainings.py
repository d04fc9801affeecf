"""The trainings of a benchmark: finished ones are kept, interrupted ones are resumed."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.command_line import FIRST_RECIPE, FULL_PRECISION, ROOT

INTERRUPTED = (
    "interrupted: finished work is kept, and the next call resumes the training that was running"
)


def find_demo_strips(folder: Path, parts: tuple[str, ...]) -> Path:
    """The folder of demo strips to train on; makes them in `folder` where they are missing.

    Only `parts` of the demo data set are linked beside it, never valid/. The trainer then sets a
    tenth of the training strips aside, six instead of sixty, and validation is quick.
    """
    if not (folder / "demo").exists():
        run_script(ROOT / "prepare_dataset.py", "demo", "--output", folder / "demo")
    (folder / "strips").mkdir(exist_ok=True)
    for part in parts:
        link = folder / "strips" / part
        if not link.exists():
            link.symlink_to(folder / "demo" / part)
    return folder / "strips" / "train" / "good"


def train(run: Path, strips: Path, flags: list[object], log: Path | None = None) -> None:
    """Train to the end in the folder `run`; resumes the run that is there, if any.

    The trainer's output goes into `log`, if given.
    """
    if list(run.glob("BgRemoval_*.pth")):
        words = ["--resume", run]
    else:
        words = ["--training_dataset_path", strips, "--checkpoint_path", run]
        words += [*FIRST_RECIPE, *FULL_PRECISION, *flags]
    run_script(ROOT / "trainer.py", *words, log=log)


def is_finished(run: Path) -> bool:
    """Whether the run in a folder has trained all of its epochs."""
    arguments = list(run.glob("*_arguments.json"))
    history = list(run.glob("*_metrics.jsonl"))
    return (
        bool(arguments and history)
        and len(history[0].read_text().splitlines())
        == json.loads(arguments[0].read_text())["epochs"]
    )


def run_script(*words: object, log: Path | None = None) -> None:
    """Run a script of the repository with Python.

    Exits with one line when the script fails. On Ctrl-C the script saves its state first.
    """
    output = log.open("a") if log else None
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=output, stderr=output)
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait()  # the terminal has sent the signal to the script as well
        raise
    finally:
        if output:
            output.close()
    if process.returncode:
        details = f": see {log}" if log else ""
        sys.exit(f"error: {words[0]} ended with exit code {process.returncode}{details}")
