"""Review the strip detector's detections with a classifier that was trained on crops of them.

    # strips that are labelled and that the classifier has not learnt from decide about its weight
    python -m classifier.review_detections --checkpoint checkpoints/crops \\
        --detections output/test/detections.csv --strips dataset/demo/test \\
        --valid_detections output/valid/detections.csv --valid_strips dataset/demo/valid \\
        --output_dir output/reviewed
    # beside boosted trees on hand-made measures of the same crops
    python -m classifier.review_detections --checkpoint checkpoints/crops \\
        --detections output/test/detections.csv --strips dataset/demo/test \\
        --valid_detections output/valid/detections.csv --valid_strips dataset/demo/valid \\
        --rival trees --output_dir output/reviewed

Detections are made with `inference_onnx.py --target_false_alarms 10`: what the detector does not
report, no review can find. The new score is the detector's margin plus a weight times the
classifier's logit. The weight is chosen at --target_false_alarms on the held-out strips; it is 0,
the detector alone, where they do not prove a gain, and where there are none.
"""

if __name__ == "__main__":
    if not __package__:  # started as a file: modules are found beside this file's folder
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from functools import partial
from pathlib import Path

from arguments import add_channels, add_img_format, add_target_false_alarms, camera_range
from classifier.cut_detections import CropSettings
from classifier.defect_checkpoint import checkpoint_in, load_defect_model
from classifier.review_report import describe, write_review
from classifier.review_result import choose_limits, choose_weights, recall_rows, review
from classifier.review_strips import (
    BOTH,
    NETWORK,
    TREES,
    ScoredFolder,
    crop_facts,
    cut_places,
    learn_trees,
    require_review_model,
    review_folder,
)
from common.command_parser import command_parser, group_flags
from common.errors import UserError, run_command
from common.files import new_folder
from data.image_files import DEFAULT_INPUT_MAX
from evaluation.metrics import FALSE_ALARM_RATES
from evaluation.thresholds import DEFAULT_RATE

REVIEWS = (NETWORK, TREES, BOTH)
SCORES = dict(zip(("network", "trees", "both"), REVIEWS))  # of --score_by
GROUPS = {
    "what to review": "checkpoint detections strips heatmaps output_dir",
    "held-out strips": "valid_detections valid_strips valid_heatmaps",
    "choice": "target_false_alarms",
    "rival": "rival score_by crops",
    "files": "img_format channels input_max",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process). A wrong one ends the process."""
    parser = command_parser(__doc__)
    add_flags(parser)
    group_flags(parser, GROUPS)
    parsed = parser.parse_args(arguments)
    if (parsed.valid_detections is None) != (parsed.valid_strips is None):
        parser.error("--valid_detections, --valid_strips: found one of them, expected both")
    if parsed.score_by != "network" and not parsed.rival:
        parser.error(f"--score_by {parsed.score_by}: found no --rival trees, expected it, too")
    return parsed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags."""
    for flag, text in (
        ("checkpoint", "classifier of crops: a checkpoint, or the folder of its run"),
        ("detections", "detections.csv or candidates.csv of the scored strips"),
        ("strips", "the folder that was scored"),
        ("output_dir", "new folder for the results"),
    ):
        parser.add_argument(f"--{flag}", type=Path, required=True, help=text)
    parser.add_argument(
        "--heatmaps",
        type=Path,
        help="folder that the scoring wrote; default: that of --detections",
    )
    parser.add_argument(
        "--valid_detections",
        type=Path,
        help="the same of labelled strips that the classifier has not learnt from: they decide "
        "about its weight and about the verdicts",
    )
    parser.add_argument("--valid_strips", type=Path, help="the folder of these strips")
    parser.add_argument(
        "--valid_heatmaps",
        type=Path,
        help="folder that their scoring wrote; default: that of --valid_detections",
    )
    add_target_false_alarms(parser, DEFAULT_RATE)
    parser.add_argument(
        "--rival",
        choices=(TREES,),
        help="show boosted trees on hand-made measures beside the classifier, and both together",
    )
    parser.add_argument(
        "--score_by",
        choices=SCORES,
        default="network",
        help="the review that makes the new scores; trees and both need --rival trees",
    )
    parser.add_argument(
        "--crops",
        type=Path,
        help="set of crops that the rival learns from; default: that of the checkpoint",
    )
    add_img_format(parser, None)
    add_channels(parser, "target,ref1,ref2")
    parser.add_argument(
        "--input_max",
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest value that the camera can deliver",
    )


def review_detections(arguments: argparse.Namespace) -> int:
    """Review the detections, write and print what changes, and return the exit code.

    Raises `UserError` for input that cannot be reviewed.
    """
    model = load_defect_model(checkpoint_in(arguments.checkpoint))
    require_review_model(model)
    facts = crop_facts(model)
    settings = CropSettings(
        facts.size,
        facts.align,
        arguments.input_max,
        arguments.img_format,
        arguments.channels,
    )
    trees = None
    if arguments.rival:
        trees = learn_trees(arguments.crops or Path(model.settings["data_root"]), model)
    scored = folder_of(arguments.detections, arguments.strips, arguments.heatmaps)
    held = []
    if arguments.valid_strips:
        valid = folder_of(
            arguments.valid_detections, arguments.valid_strips, arguments.valid_heatmaps
        )
        if valid.strips.resolve() == scored.strips.resolve():
            raise UserError(
                f"--valid_strips {valid.strips}: found the strips to review, expected others: "
                "a weight that is chosen on them proves nothing"
            )
        held = review_folder(valid, settings, model, trees, facts.strips)
    with new_folder(arguments.output_dir) as folder:
        rate = arguments.target_false_alarms
        names = REVIEWS if trees else (NETWORK,)
        choices, used = choose_weights(held, names, rate), SCORES[arguments.score_by]
        limits = choose_limits(held, used, choices[used].weight, rate)
        result = review(review_folder(scored, settings, model, trees), choices, limits, used)
        shown = {name: value for name, value in vars(arguments).items() if value is not None}
        write_review(folder, result, model.kinds, partial(cut_places, scored, settings), shown)
    print("\n".join(describe(result)))
    for name, *cells in recall_rows(result.froc):
        recalls = (f"{cell} at {rate:g}" for cell, rate in zip(cells, FALSE_ALARM_RATES))
        print(f"{name}: recall {', '.join(recalls)} false alarms per strip")
    print(f"report: {arguments.output_dir / 'report.html'}")
    return 0


def folder_of(detections: Path, strips: Path, heatmaps: Path | None) -> ScoredFolder:
    """The scored folder that flags name."""
    return ScoredFolder(detections, strips, heatmaps or detections.parent)


if __name__ == "__main__":
    sys.exit(run_command(lambda: review_detections(parse_args())))
