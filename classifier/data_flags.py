"""The flags of prepare_defect_data.py."""

import argparse
import re
from pathlib import Path

from arguments import (
    LARGEST_SEED,
    add_channels,
    add_img_format,
    camera_range,
    false_alarm_rate,
    whole_number,
)
from data.image_files import DEFAULT_INPUT_MAX
from data.recipes import RECIPES
from ops.classical import METHODS
from ops.registration import ALIGN_MODES

DESCRIPTIONS = {
    "organize": "a data set of folders of defective and of good pictures",
    "crops": "cut-outs of Target, aligned references and heatmap around detections",
    "deeppcb": "defects of DeepPCB by kind, as crops of board and template",
    "dummy": "small grey pictures of four surfaces, good and with four kinds of defect",
}


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add --check_data with its flags, and the commands."""
    parser.add_argument(
        "--check_data",
        action="store_true",
        help="check the data set --data_root, or what `organize` would write, and write nothing: "
        "exit code 1 where something is wrong",
    )
    parser.add_argument(
        "--data_root",
        "--output_dir",
        dest="checked_root",
        type=Path,
        help="data set for --check_data alone",
    )
    add_input_max(parser, "checked_input_max")
    commands = parser.add_subparsers(dest="command")
    for name, text in DESCRIPTIONS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        command.add_argument(
            "--output_dir", type=Path, required=True, help="new folder for the data set"
        )
        ADD_FLAGS[name](command)
        command.add_argument(
            "--seed",
            type=whole_number(0, LARGEST_SEED),
            default=42,
            help="of everything that is random",
        )


def require_consistent(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the process with a usage message for flags that do not go together."""
    require_order(parser, parsed)
    if parsed.command == "crops":
        require_one_way(parser, parsed)
    if getattr(parsed, "valid_share", 0) + getattr(parsed, "test_share", 0) >= 1:
        parser.error("--valid_share and --test_share: found 1 or more together, expected less")


def require_order(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the process with a usage message for neither command nor check, or both in disorder."""
    is_check_alone = parsed.check_data and parsed.checked_root
    if parsed.command is None and not is_check_alone:
        parser.error(f"expected one of {', '.join(DESCRIPTIONS)}, or --check_data --data_root ROOT")
    if parsed.command and (parsed.checked_root or parsed.checked_input_max != DEFAULT_INPUT_MAX):
        parser.error(f"found flags before {parsed.command}, expected them after it")
    if parsed.command not in (None, "organize") and parsed.check_data:
        parser.error(f"--check_data: found {parsed.command}, expected organize or no command")


def require_one_way(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the process with a usage message unless the crops have one source."""
    of_scored = parsed.detections, parsed.strips
    if parsed.from_good:
        if any((*of_scored, parsed.labels, parsed.heatmaps)):
            parser.error("--from_good: found flags of scored strips beside it, expected it alone")
        if bool(parsed.model_path) == bool(parsed.method):
            parser.error("--from_good: expected either --model_path or --method")
        return
    if not all(of_scored):
        parser.error("crops: expected --detections and --strips, or --from_good")
    if parsed.model_path or parsed.method:
        parser.error("found --model_path or --method without --from_good, which they score")


def add_input_max(parser: argparse.ArgumentParser, place: str = "input_max") -> None:
    """Add --input_max, whose value goes to `place`."""
    parser.add_argument(
        "--input_max",
        dest=place,
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest value that the files can have",
    )


def add_shares(parser: argparse.ArgumentParser) -> None:
    """Add the shares of valid/ and test/."""
    for split, of in (("valid", "to validate on"), ("test", "to test")):
        parser.add_argument(
            f"--{split}_share", type=share, default=0.2, help=f"of each kind, pictures {of}"
        )


def add_group_by(parser: argparse.ArgumentParser, of: str) -> None:
    """Add --group_by."""
    parser.add_argument(
        "--group_by",
        type=regular_expression,
        metavar="REGEX",
        help=f"finds the part, lot or board in the path of {of}, whose pictures stay together: "
        "what its first bracket matches",
    )


def add_organize(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `organize`."""
    parser.add_argument(
        "--defect_images",
        type=Path,
        required=True,
        help="folder of defective pictures; its sub-folders are kinds, without any there is one",
    )
    parser.add_argument(
        "--defect_masks",
        type=Path,
        help="folder of masks of all or some of them; default: masks beside the pictures",
    )
    parser.add_argument("--normal_images", type=Path, help="folder of pictures without a defect")
    add_shares(parser)
    add_group_by(parser, "each picture")
    parser.add_argument(
        "--link", action="store_true", help="link the files instead of copying them"
    )
    parser.add_argument(
        "--check_data",
        action="store_true",
        default=argparse.SUPPRESS,  # the flag may stand before the command, too
        help="check everything and write nothing",
    )
    add_input_max(parser)


def add_dummy(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `dummy`."""
    for flag, of in (("--num_defect", "defective pictures"), ("--num_normal", "good pictures")):
        parser.add_argument(flag, type=whole_number(1), default=100, help=of)
    parser.add_argument(
        "--size", type=whole_number(48, 1024), default=96, help="side of a picture in pixels"
    )
    parser.add_argument("--faint", action="store_true", help="halve the contrast of every defect")
    add_shares(parser)


def add_crops(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `crops`."""
    parser.add_argument(
        "--detections", type=Path, help="detections.csv or candidates.csv of a scored folder"
    )
    parser.add_argument("--strips", type=Path, help="the folder that was scored")
    parser.add_argument(
        "--heatmaps",
        type=Path,
        help="folder that the scoring wrote; default: that of --detections",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="reviewed CSV file (file, y, x, label), or previews/ sorted into folders of labels; "
        "default: from the statuses",
    )
    parser.add_argument(
        "--from_good",
        type=Path,
        help="folder of good strips, in place of --detections and --strips: what is found in them "
        "is a nuisance, what is painted a defect",
    )
    parser.add_argument(
        "--model_path", type=Path, help="checkpoint or ONNX file that scores --from_good"
    )
    parser.add_argument(
        "--method", choices=METHODS, help="classical method that scores --from_good"
    )
    parser.add_argument(
        "--paint",
        choices=(*RECIPES, "none"),
        default="robust",
        help="recipe of the points that are painted into --from_good",
    )
    parser.add_argument(
        "--target_false_alarms",
        type=false_alarm_rate,
        default=10.0,
        help="detections of each strip of --from_good that become crops",
    )
    parser.add_argument(
        "--size", type=whole_number(8, 512), default=32, help="side of a crop in pixels"
    )
    parser.add_argument(
        "--align", choices=ALIGN_MODES, default="full", help="how the references are aligned"
    )
    add_img_format(parser, default=None)
    add_channels(parser, default="target,ref1,ref2")
    add_input_max(parser)
    add_shares(parser)
    add_group_by(parser, "each strip")


def add_deeppcb(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `deeppcb`."""
    parser.add_argument("--source", type=Path, required=True, help="the PCBData folder of DeepPCB")
    parser.add_argument(
        "--size", type=whole_number(8, 512), default=64, help="side of a crop in pixels"
    )
    parser.add_argument(
        "--test_groups",
        nargs="+",
        metavar="GROUP",
        help="groups of boards to test, such as 20085; default: a third of them, by --seed",
    )


ADD_FLAGS = {
    "organize": add_organize,
    "crops": add_crops,
    "deeppcb": add_deeppcb,
    "dummy": add_dummy,
}


def share(text: str) -> float:
    """Parse a share, from 0 to below 1.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number from 0 to below 1")
    return value


def regular_expression(text: str) -> re.Pattern:
    """Parse a regular expression. Raises `argparse.ArgumentTypeError` for other texts."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a regular expression ({error})"
        ) from None
