"""The flags of what scores pictures: models, maps and how they become a score."""

import argparse
from pathlib import Path

from arguments import (
    CHECKPOINT_FOLDER,
    add_img_format,
    from_0_to_1,
    positive,
    share,
    whole_number,
)
from autoencoder.maps import LIBRARY_TOP_SHARE, MAPS, PATCHES_TOP_SHARE, NetworkMaps
from autoencoder.model import TOOL
from autoencoder.scales import WINDOW_MODES
from autoencoder.scorer import MERGES, ScoreSettings

PADDINGS = ("reflect", "constant", "none")
LARGEST_WINDOW = 65_535  # pixels: no picture is longer
DEFAULT_TARGET = 0.05  # share of good pictures
# the flags of `add_score_flags`, by group
SCORE_GROUPS = {
    "models": "models library",
    "score": "score windows stride_share window_mode padding merge smoothing top_share",
    "threshold": "target_false_alarms good_path img_format",
}


def add_score_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of models, maps and thresholds, which inference and export share."""
    usual = ScoreSettings()
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        metavar="CHECKPOINT",
        help="checkpoints, or a folder whose newest best one is used; several are an ensemble; "
        f"default: {CHECKPOINT_FOLDER / TOOL}, or none with a --library",
    )
    parser.add_argument(
        "--library",
        type=Path,
        nargs="+",
        help="feature library, of python -m autoencoder.feature_library; several of the same "
        "clusters are an ensemble, whose first one routes pictures",
    )
    parser.add_argument(
        "--score",
        choices=MAPS,
        nargs="+",
        help="maps to score by; default: mask of --task segment, pixel of the others, library of "
        "a library, and patches where they found more painted damage when it was built",
    )
    parser.add_argument(
        "--windows",
        type=whole_number(1, LARGEST_WINDOW),
        nargs="+",
        metavar="SIDE",
        help="sides of windows in pixels, each of its own scale; default: the side that shows "
        "pictures at the scale of the training, of a library those that it was built from",
    )
    parser.add_argument(
        "--stride_share",
        type=_stride_share,
        default=usual.stride_share,
        help="stride of the windows as a share of their side, above 0",
    )
    parser.add_argument(
        "--window_mode",
        choices=WINDOW_MODES,
        help="pyramid: the whole picture once at each scale, without overlaps; default: sliding, "
        "of a library pyramid",
    )
    parser.add_argument(
        "--padding",
        choices=PADDINGS,
        default=usual.padding,
        help="of windows that end beyond the picture; none: they are moved back",
    )
    parser.add_argument(
        "--merge", choices=MERGES, default=usual.merge, help="of the z-scores of maps and scales"
    )
    parser.add_argument(
        "--smoothing",
        type=_not_negative,
        default=usual.smoothing,
        help="sigma of the Gaussian over the heatmap, in pixels; 0: none",
    )
    parser.add_argument(
        "--top_share",
        type=share,
        help="share of a picture's pixels, the most unusual ones, that its score is the mean of; "
        f"default: {NetworkMaps.top_share:g}, of a library alone {LIBRARY_TOP_SHARE:g}, "
        f"with its patches {PATCHES_TOP_SHARE:g}",
    )
    parser.add_argument(
        "--target_false_alarms",
        type=share,
        default=DEFAULT_TARGET,
        help="share of good pictures above the threshold",
    )
    parser.add_argument(
        "--good_path",
        type=Path,
        help="folder of good pictures to set statistics and threshold on; default: those that the "
        "training held out",
    )
    add_img_format(parser, default=None)


def _stride_share(text: str) -> float:
    """Parse a share above 0. Raises `ValueError` or `argparse.ArgumentTypeError` for others."""
    if (value := from_0_to_1(text)) == 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0, up to 1")
    return value


def _not_negative(text: str) -> float:
    """Parse a number from 0 on. Raises `ValueError` or `argparse.ArgumentTypeError` for others."""
    return 0.0 if float(text) == 0 else positive(text)
