"""Flags that several commands have: what an exported file takes, and how a file is run."""

import argparse

from arguments import whole_number
from deploy.export_module import INPUTS
from deploy.session import DEVICES, LARGEST_BATCH, MOST_THREADS

LONGEST_SIDE = 65_535  # pixels of --image_size


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add the flag of what the exported file takes, one of INPUTS."""
    parser.add_argument(
        "--input",
        choices=INPUTS,
        default="unit",
        help="unit: float32 0-1; raw: float32 as the camera delivers it; uint8: the same as uint8",
    )


def add_image_size(parser: argparse.ArgumentParser, reason: str, help: str) -> None:
    """Add --image_size of an exported file; `reason` is that of the limit LONGEST_SIDE."""
    parser.add_argument(
        "--image_size",
        type=whole_number(1, LONGEST_SIDE, reason),
        nargs=2,
        metavar=("H", "W"),
        help=help,
    )


def add_session(
    parser: argparse.ArgumentParser, batch_flag: str, batch: int, threads_help: str
) -> None:
    """Add the flags of a session of ONNX Runtime: the device, strips per call, and threads.

    `batch_flag` is the name of the flag of strips per call, `batch` its default.
    """
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto: cuda where it can compute the model, else cpu",
    )
    parser.add_argument(
        batch_flag,
        type=whole_number(1, LARGEST_BATCH, "a call needs memory for all of them at once"),
        default=batch,
        help="strips per call",
    )
    parser.add_argument(
        "--threads",
        type=whole_number(1, MOST_THREADS, "each needs a core, and memory of its own"),
        help=threads_help,
    )
