"""The flags of the training loop's settings, which every tool's trainer has."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arguments import (
    CHECKPOINT_FOLDER,
    LARGEST_SEED,
    positive,
    run_name,
    true_or_false,
    whole_number,
)
from training.schedules import LEARNING_RATE_SCHEDULES

NOT_GIVEN = object()  # marks a flag that the command line does not have
NAME_HELP = "name of the run's files; default: one made of its settings"
RESUME_HELP = (
    "go on from this checkpoint; default: the last one in --checkpoint_path; auto: that, or begin "
    "where there is none. "
    "The run keeps its settings"
)


def given_flags(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The defaults of all flags, and the values of those that a command line sets, by name."""
    defaults = vars(parser.parse_args([]))
    given = vars(
        parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(defaults, NOT_GIVEN)))
    )
    return defaults, {name: value for name, value in given.items() if value is not NOT_GIVEN}


def add_loop_flags(
    parser: argparse.ArgumentParser,
    epochs: str,
    by_device: dict[str, str] | None = None,
    has_name: bool = True,
    location: Callable[[str], Path | str] = Path,
) -> None:
    """Add the flags of `LoopSettings` and of `Start`, and --name where runs of a tool `has_name`.

    `epochs` is the help of --epochs. Where the defaults of --bs, --lr and --lr_schedule depend on
    the device, `by_device` has what the help says of them, by name. `location` is the type of flags
    that name a run's folder.
    """
    number = whole_number
    notes = {name: f"; default: {text}" for name, text in (by_device or {}).items()}
    parser.add_argument(
        "--checkpoint_path",
        type=location,
        default=CHECKPOINT_FOLDER,
        help="folder for the run's files",
    )
    parser.add_argument(
        "--bs",
        type=number(1),
        default=None if by_device else 16,
        help=f"patches per batch (and process){notes.get('bs', '')}",
    )
    parser.add_argument(
        "--accumulate",
        type=number(1),
        default=1,
        help="batches whose gradients are added up in one step",
    )
    parser.add_argument(
        "--lr",
        type=positive,
        default=None if by_device else 0.001,
        help=f"largest learning rate of Adam{notes.get('lr', '')}",
    )
    parser.add_argument(
        "--lr_schedule",
        choices=LEARNING_RATE_SCHEDULES,
        default=None if by_device else "steps",
        help=f"how the learning rate changes{notes.get('lr_schedule', '')}",
    )
    parser.add_argument("--epochs", type=number(1), default=None, help=epochs)
    parser.add_argument(
        "--gpu_id",
        type=number(-1),
        default=None,
        help="-1: CPU; default: the first GPU, else the CPU",
    )
    if has_name:
        parser.add_argument("--name", type=run_name, help=NAME_HELP)
    parser.add_argument(
        "--seed",
        type=number(0, LARGEST_SEED),
        default=42,
        help="the same seed gives the same run with any number of workers",
    )
    parser.add_argument(
        "--num_workers",
        type=number(0, 256),
        default=None,
        help="loader processes; default: 8 on a GPU, at most one a core; 0 on the CPU",
    )
    parser.add_argument(
        "--resume", nargs="?", const=True, type=location, metavar="PATH", help=RESUME_HELP
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a run of the same name in --checkpoint_path",
    )
    parser.add_argument(
        "--save_every",
        type=positive,
        default=5.0,
        metavar="MINUTES",
        help="interval of writing the last checkpoint, within an epoch too",
    )
    parser.add_argument(
        "--patience",
        type=number(1),
        metavar="EPOCHS",
        help="stop after this many epochs without a better one",
    )
    parser.add_argument(
        "--amp",
        type=true_or_false,
        nargs="?",
        const=True,
        default=None,
        metavar="{True,False}",
        help="compute in bfloat16 where that is safe; for GPUs, and CPUs that have it; "
        "default: on GPUs that have it",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first: minutes, then faster steps on a GPU",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="reproduce the same weights on a GPU, too; slower",
    )
    parser.add_argument(
        "--sync_batch_norm",
        action="store_true",
        help="batch norm over all processes' patches; GPUs only",
    )
