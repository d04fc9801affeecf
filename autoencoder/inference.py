"""Score a folder of pictures without references.

    # the newest best checkpoint, on the test pictures of the data set that it was trained on
    python -m autoencoder.inference

    # three scales; an ensemble of three models
    python -m autoencoder.inference --models A_best.pth B_best.pth C_best.pth \\
        --windows 128 256 512 --test_path /data/parts/test --output_dir output/mine

    # a feature library; the threshold from the folder's own scores, without good pictures of it
    python -m autoencoder.inference --library library.pth --test_path /data/new --first_jump

Writes the heatmap (float32 TIFF) and a picture of panels for each picture. For the folder it writes
verdicts (scores.csv), detections (.csv and .json), metrics (metrics.json), a report (report.html),
and scores for other programs (submission.csv: id, score, label).
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from pathlib import Path

from arguments import add_true_or_false, from_0_to_1, is_given, positive, whole_number
from autoencoder.first_jump import BASE, FACTOR
from autoencoder.folder_scoring import FolderScoring, score_taken_in, take_in_pictures
from autoencoder.held_out import default_test_folder
from autoencoder.loaded import calibrate, load_scorers
from autoencoder.nearest_good import NearestGood
from autoencoder.predictor import PicturePredictor
from autoencoder.score_flags import SCORE_GROUPS, add_score_flags
from common.command_parser import command_parser, group_flags
from common.device import choose_device
from common.errors import run_command
from common.settings import from_values
from evaluation.matching import MATCH_RADIUS

FLAG_GROUPS = {
    "what to score, and with what": "test_path output_dir img_format use_ground_truth_mask",
    **SCORE_GROUPS,
    "threshold": "target_false_alarms good_path threshold first_jump jump_base jump_factor",
    "detections and metrics": "min_area match_radius pictures_per_kind",
    "machine": "gpu_id",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_score_flags(parser)
    parser.add_argument(
        "--test_path",
        type=Path,
        help="folder of pictures, one picture, or ROOT of a data set; default: test/ of the data "
        "set of the training",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("./output/autoencoder"),
        help="folder for verdicts, heatmaps and the report",
    )
    add_true_or_false(
        parser,
        "--use_ground_truth_mask",
        help="compute the metrics with the masks beside the folder",
    )
    add_threshold_flags(parser)
    parser.add_argument(
        "--min_area",
        type=whole_number(1),
        default=1,
        help="smallest detection, in pixels above the threshold",
    )
    parser.add_argument(
        "--match_radius",
        type=positive,
        default=MATCH_RADIUS,
        help="largest distance in pixels between a true defect and its detection",
    )
    parser.add_argument(
        "--pictures_per_kind",
        type=whole_number(0),
        help="draw panels for the first so many pictures of each kind; default: for all",
    )
    parser.add_argument(
        "--gpu_id", type=whole_number(-1), help="-1: CPU; default: the first GPU, else the CPU"
    )
    group_flags(parser, FLAG_GROUPS)
    parsed = parser.parse_args(arguments)
    if parsed.first_jump and parsed.threshold is not None:
        parser.error("found --first_jump beside --threshold, expected one of them")
    for flag in ("--jump_base", "--jump_factor"):
        if is_given(flag, arguments) and not parsed.first_jump:
            parser.error(f"found {flag} without --first_jump, expected both")
    return parsed


def add_threshold_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that set another threshold than that of held-out good pictures."""
    parser.add_argument(
        "--threshold",
        type=from_0_to_1,
        help="fixed threshold on the score; its share of good pictures is then unknown",
    )
    parser.add_argument(
        "--first_jump",
        action="store_true",
        help="set the threshold at the first jump in the folder's sorted scores, for which all "
        "pictures are scored twice",
    )
    parser.add_argument(
        "--jump_base",
        type=whole_number(2),
        default=BASE,
        help="lowest scores of the folder, whose mean gap a jump is compared with",
    )
    parser.add_argument(
        "--jump_factor",
        type=positive,
        default=FACTOR,
        help="a jump is a gap of more than so many mean gaps",
    )


def infer(arguments: argparse.Namespace) -> int:
    """Score the folder and return the exit code: 1 when some pictures could not be used, else 0.

    Raises `UserError` when the models, the library or the device cannot be used, or no picture can.
    """
    device = choose_device(arguments.gpu_id)
    loaded = load_scorers(arguments, device)
    folder = arguments.test_path or default_test_folder(loaded.learned[0].training_dataset_path)
    print(f"{loaded.name} on {device}, pictures of {folder}")
    values = {"channels": loaded.channels, "input_max": loaded.input_max}
    settings = from_values(FolderScoring, vars(arguments) | values)
    intake = take_in_pictures(folder, settings)
    _, good = calibrate(loaded, arguments)
    nearest = NearestGood(loaded.libraries[0]) if loaded.libraries else None
    return score_taken_in(
        intake,
        lambda thresholds, has_panels: PicturePredictor(
            loaded.scorers, thresholds, nearest, has_panels
        ),
        loaded.name,
        good,
        settings,
        loaded.settings_shown(),
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: infer(parse_args())))
