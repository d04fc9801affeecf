"""The command lines of the benchmarks: a parser, and the flags that several of them share."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
