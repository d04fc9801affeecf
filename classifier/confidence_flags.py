"""The flags of how a trained classifier answers: over flips, and when it is unsure or unknown."""

import argparse
from pathlib import Path

from arguments import from_0_to_1


def add_average_flips(parser: argparse.ArgumentParser) -> None:
    """Add the flag that averages answers over flips."""
    parser.add_argument(
        "--average_flips",
        action="store_true",
        help="answer with the mean over the image and its three mirror images: fewer mistakes at "
        "four times the computation; needs the training's data set or --data_root",
    )


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
