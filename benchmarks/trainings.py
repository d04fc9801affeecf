"""The trainings that a benchmark starts: what is finished stays, and what was interrupted goes on
where it was.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = (
    "interrupted: what is finished is kept, and the training at hand goes on the next time"
)


def demo_strips(folder: Path, parts: tuple[str, ...]) -> Path:
    """The demo strips to train on, made in `folder` and linked with some of their `parts`, but
    without a valid/.

    Then a tenth of them is set aside, six strips instead of sixty, and validation is quick.
    """
    if not (folder / "demo").exists():
        command(ROOT / "prepare_dataset.py", "demo", "--output", folder / "demo")
    (folder / "strips").mkdir(exist_ok=True)
    for part in parts:
        link = folder / "strips" / part
        if not link.exists():
            link.symlink_to(folder / "demo" / part)
    return folder / "strips" / "train" / "good"


def train(run: Path, strips: Path, flags: list[object], log: Path | None = None) -> None:
    """One training in the folder `run` to its end, from where it was; what it prints goes into
    `log`, if given.
    """
    if list(run.glob("BgRemoval_*.pth")):
        words = ["--resume", run]
    else:
        words = ["--training_dataset_path", strips, "--checkpoint_path", run, *flags]
    command(ROOT / "trainer.py", *words, log=log)


def command(*words: object, log: Path | None = None) -> None:
    """A script of the repository.

    Ends the process with one line when it fails; lets it save what it has on Ctrl-C.
    """
    output = log.open("a") if log else None
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=output, stderr=output)
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait()  # the terminal has told it, too
        raise
    finally:
        if output:
            output.close()
    if process.returncode:
        sys.exit(
            f"error: {words[0]} ended with exit code {process.returncode}{f': see {log}' if log else ''}"
        )
