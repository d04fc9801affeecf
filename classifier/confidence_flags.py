"""The flags of when a classified image is unsure or unknown."""

import argparse
from pathlib import Path

from arguments import from_0_to_1


def add_confidence(parser: argparse.ArgumentParser, target_error_help: str) -> None:
    """Add the flags of what confidences are set on, and of how many mistakes they allow.

    `target_error_help` says what the command does with --target_error.
    """
    parser.add_argument(
        "--data_root",
        type=Path,
        help="data set on whose valid/ and train/ confidences are set anew; default: as the "
        "checkpoint holds them, else the training's",
    )
    parser.add_argument("--target_error", type=from_0_to_1, help=target_error_help)
    parser.add_argument(
        "--target_unknown",
        type=from_0_to_1,
        default=0.01,
        help="share of images like those of the training that may be called unknown",
    )
