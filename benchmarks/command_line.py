"""The command lines of the benchmarks: a parser, and the flags that several of them share."""

import argparse
import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Flags of trainer.py for the first recipe, from which trainings that are compared depart by further
# flags. They are in full, so that a default that changes changes no table.
FIRST_RECIPE = (
    *("--recipe", "classic", "--align", "none", "--weighting", "none", "--arch", "unet"),
    *("--num_defects_range", 3, 8, "--base_channels", 64, "--epochs", 30, "--cache_size", 0),
)
FULL_PRECISION = ("--amp", "False")


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose --help shows a module's docstring with its own line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_training_flags(
    parser: argparse.ArgumentParser, folder: str, content: str, runs: int = 1000
) -> None:
    """Add --output, --runs and --amp, the flags of each benchmark that trains networks.

    Args:
        parser: gets the flags.
        folder: default of --output, below output/ of the repository.
        content: what --output contains, for its help text.
        runs: default of --runs.
    """
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / folder, help=f"folder for {content}"
    )
    parser.add_argument(
        "--runs", type=int, default=runs, help="largest number of trainings to start this time"
    )
    parser.add_argument("--amp", action="store_true", help="train in bfloat16")


def as_words(*flags: object) -> list[str]:
    """A command line."""
    return [str(flag) for flag in flags]


def digest(content: object) -> str:
    """A short name for plain data: other data has another one."""
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:10]
