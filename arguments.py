"""Flags that several commands share, and the defaults of flags that were not given."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.command_parser import group_flags
from common.errors import UserError, shown
from common.fetch_ahead import AHEAD_VARIABLE, DEFAULT_AHEAD, MOST_AHEAD, set_ahead
from common.files import RUN_NAME_RULE, is_run_name
from common.locations import is_remote, path_or_url
from common.object_cache import DEFAULT_GB, SIZE_VARIABLE, set_size_limit
from data.folder import split_beside
from data.image_files import INPUT_MAX_LIMITS
from data.listing import IMAGE_SUFFIXES
from data.remote_folder import local_view
from data.unlabelled import SampledFolder, parse_sampled_folder
from evaluation.detections import MOST_PER_STRIP, POLARITIES
from evaluation.matching import MATCH_RADIUS
from evaluation.model_info import ModelInfo
from evaluation.thresholds import HIGHEST_RATE
from ops.classical import METHODS
from ops.missing import MISSING_MODES
from ops.tiling import PATCH_SIZES

# every random generator takes seeds up to this one
LARGEST_SEED = 2**63 - 1
# Limits of flags without one of their own. No machine serves more, and a typing error ends at once.
LARGEST_COUNT, LARGEST_NUMBER = 1_000_000, 1e12
SCORING_GROUPS = {
    "what to score, and with what": "model_path method test_path output_dir img_format channels "
    "image_type input_max",
    "threshold": "target_false_alarms good_path threshold require_contrast",
    "detections and metrics": "min_area polarity missing match_radius candidates "
    "use_ground_truth_mask points fp_path contrast_maps",
    "pixels that do not count": "dead_pixels ignore_mask mask_channel",
    "machine": "gpu_id device batch threads cuda_graph doctor remote_cache_gb prefetch",
}
STRIP_CHANNELS = ("target", "ref1", "ref2")
CHANNEL_NUMBERS = ("0", "1", "2", "3")  # of a file's channels
CHECKPOINT_FOLDER, ONNX_FOLDER = Path("./checkpoints"), Path("./onnx_models")


def true_or_false(text: str) -> bool:
    """Parse the value of a flag that takes True or False, in any case.

    Raises `argparse.ArgumentTypeError` for any other text.
    """
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected True or False")
    return text.lower() == "true"


def add_true_or_false(parser: argparse.ArgumentParser, flag: str, help: str) -> None:
    """Add a flag that takes True or False: True by default and where no value follows the flag."""
    parser.add_argument(
        flag,
        type=true_or_false,
        nargs="?",
        const=True,
        default=True,
        metavar="{True,False}",
        help=help,
    )


def add_image_type(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add --image_type, which sets the patch size; None means the image type of the model."""
    sizes = ", ".join(f"{name} {size}x{size}" for name, size in PATCH_SIZES.items())
    parser.add_argument(
        "--image_type",
        choices=PATCH_SIZES,
        default=default,
        help=f"patch size: {sizes}; default: {default or 'as trained'}",
    )


def add_img_format(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add --img_format; None means the one format that the folder holds."""
    parser.add_argument(
        "--img_format",
        choices=IMAGE_SUFFIXES,
        default=default,
        help=f"files to read; default: {default or 'the one format that the folder holds'}",
    )


def add_channels(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add --channels; None means the order of the files that the model was trained on."""
    shown = default or "as the model was trained"
    parser.add_argument(
        "--channels",
        type=channel_order,
        default=default,
        metavar="ORDER",
        help="what a file's channels are, in turn, such as ref2,ref1,target; or the numbers of "
        f"Target, Ref1 and Ref2, counted from 0, such as 2,1,0; default: {shown}",
    )


def channel_order(text: str) -> tuple[int, ...]:
    """Parse --channels into the numbers of Target, Ref1 and Ref2 among a file's channels.

    Raises `argparse.ArgumentTypeError` for other texts.
    """
    words = [word.strip().lower() for word in text.split(",")]
    numbers = [int(word) for word in words if word in CHANNEL_NUMBERS]
    if len(words) == len(numbers) == len(set(numbers)) == len(STRIP_CHANNELS):
        return tuple(numbers)
    is_complete = len(words) == len(set(words)) and set(STRIP_CHANNELS) <= set(words)
    if is_complete and set(words) <= {*STRIP_CHANNELS, "mask"}:
        return tuple(words.index(name) for name in STRIP_CHANNELS)
    raise argparse.ArgumentTypeError(
        f"found {text!r}, expected target, ref1, ref2 and perhaps mask in the order of a file's "
        "channels, or three numbers"
    )


def add_test_folder(parser: argparse.ArgumentParser, output_dir: str) -> None:
    """Add the flags of a command that scores a folder of strips."""
    parser.add_argument(
        "--test_path",
        type=path_or_url,
        help="folder of strips, or one strip; default: test/ of the data set of the training",
    )
    parser.add_argument(
        "--output_dir",
        type=path_or_url,
        default=Path(output_dir),
        help="folder for verdicts, heatmaps and the report",
    )
    add_img_format(parser, default=None)
    add_channels(parser, default=None)
    add_image_type(parser, default=None)
    add_true_or_false(
        parser,
        "--use_ground_truth_mask",
        help="compute the metrics with the masks beside the folder",
    )
    parser.add_argument(
        "--points",
        type=path_or_url,
        metavar="CSV",
        help="file of true points with the columns file, y and x, in place of a points.csv beside "
        "the strips",
    )
    parser.add_argument(
        "--fp_path",
        type=sampled_folder,
        nargs="+",
        metavar="FOLDER:SHARE",
        help="folders of strips without any truth, to score as well: every detection on them "
        "counts as a false alarm; with a share such as 0.1, on a sample that is always the same",
    )
    parser.add_argument(
        "--method",
        choices=["net", *METHODS],
        default="net",
        help="net: the model; otherwise a classical baseline, which needs no model",
    )
    parser.add_argument(
        "--input_max",
        type=camera_range,
        help="largest pixel value of the camera; for a --method without a model",
    )
    add_target_false_alarms(parser, default=None)
    parser.add_argument(
        "--good_path",
        type=path_or_url,
        help="folder of good strips to set the threshold on; default: the model's own threshold",
    )
    add_verdict(parser)
    parser.add_argument(
        "--contrast_maps",
        action="store_true",
        help="write for each strip the contrast that a point at each pixel needs",
    )
    add_detection_rules(parser)
    parser.add_argument(
        "--match_radius",
        type=positive,
        default=MATCH_RADIUS,
        help="largest distance in pixels between a true point and its detection",
    )
    parser.add_argument(
        "--candidates",
        type=whole_number(0, MOST_PER_STRIP, "a heatmap has no more detections"),
        default=0,
        help="write so many of each strip's strongest detections, below the threshold, too",
    )
    add_ignored_pixels(parser, path_or_url)
    parser.add_argument(
        "--mask_channel",
        type=whole_number(3, 3),
        help="3: ignore pixels where the strips' fourth channel is not 0",
    )
    add_remote_cache(parser)


def add_verdict(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a fixed threshold, and of the contrast that a strip must be inspected at."""
    parser.add_argument(
        "--threshold",
        type=from_0_to_1,
        help="fixed threshold on the heatmap; its rate of false alarms is then unknown",
    )
    parser.add_argument(
        "--require_contrast",
        type=positive,
        help="grey levels 0-255: a strip in which points need more contrast to be found is NG",
    )


def add_detection_rules(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which places above the threshold are detections."""
    parser.add_argument(
        "--min_area",
        type=whole_number(1),
        default=1,
        help="smallest detection, in pixels above the threshold",
    )
    parser.add_argument(
        "--polarity",
        choices=POLARITIES,
        default="both",
        help="defects to report; bright: Target is brighter than its references",
    )
    parser.add_argument(
        "--missing",
        choices=MISSING_MODES,
        default="report",
        help="points that both references have and Target lacks; report: like any point; "
        "separate: named in the results; ignore: they do not count",
    )


def add_ignored_pixels(
    parser: argparse.ArgumentParser, location: Callable[[str], Path | str] = Path
) -> None:
    """Add the flags of the pixels that count on no strip; `location` is the type of their files."""
    parser.add_argument(
        "--dead_pixels",
        type=location,
        help="CSV file of pixels y,x to ignore; without y: the whole column x",
    )
    parser.add_argument(
        "--ignore_mask",
        type=location,
        help="image of the strips' size; pixels that are not 0 are ignored",
    )


def add_remote_cache(parser: argparse.ArgumentParser) -> None:
    """Add the flags of commands whose paths may be URLs."""
    parser.add_argument(
        "--remote_cache_gb",
        type=positive,
        metavar="GB",
        help="largest size of the folder of fetched objects, where a path is a URL such as "
        f"s3://bucket/strips; default: {SIZE_VARIABLE}, else {DEFAULT_GB:g}",
    )
    parser.add_argument(
        "--prefetch",
        type=whole_number(0, MOST_AHEAD, "each is a thread with a connection"),
        metavar="N",
        help="objects that are fetched ahead, where a path is a URL; "
        f"default: {AHEAD_VARIABLE}, else {DEFAULT_AHEAD}",
    )


def set_remote(arguments: argparse.Namespace) -> None:
    """Have this process and its children keep and fetch what the flags say."""
    set_size_limit(arguments.remote_cache_gb)
    set_ahead(arguments.prefetch)


def parse_scoring(
    parser: argparse.ArgumentParser, arguments: list[str] | None
) -> argparse.Namespace:
    """Parse the flags of `add_test_folder` and check them against each other.

    Ends the process with a usage message when --threshold is given with a flag that also sets the
    threshold, --method with a model, or --points with --use_ground_truth_mask False.
    """
    group_flags(parser, SCORING_GROUPS)
    parsed = parser.parse_args(arguments)
    if parsed.method != "net" and is_given("--model_path", arguments):
        parser.error(
            f"found --method {parsed.method} beside --model_path {parsed.model_path}, "
            "expected one of them: a --method has no model"
        )
    if parsed.points and not parsed.use_ground_truth_mask:
        parser.error(
            f"found --points {parsed.points} beside --use_ground_truth_mask False, "
            "expected one of them"
        )
    if parsed.threshold is not None and (parsed.good_path or parsed.target_false_alarms):
        parser.error(
            "found --threshold beside --good_path or --target_false_alarms, "
            "expected one way to set it"
        )
    return parsed


def require_like_flags(parser: argparse.ArgumentParser, values: dict[str, Any]) -> None:
    """Raise `UserError` for a value that the flag of its name does not give.

    `values` are settings by name, as a file holds them: paths as text. Names without a flag pass.
    """
    for flag in parser._actions:  # argparse has no public way to its flags
        if flag.dest in values and not _is_of_flag(flag, values[flag.dest]):
            raise UserError(
                f"found a run of --{flag.dest} {shown(values[flag.dest])}, "
                "expected a value that the flag takes"
            )


def _is_of_flag(flag: argparse.Action, value: object) -> bool:
    if value is None:
        return flag.default is None
    if flag.nargs == 0 or flag.type is true_or_false:
        return isinstance(value, bool)
    if isinstance(flag.nargs, int) or flag.nargs == "+":
        is_list = isinstance(value, list | tuple) and bool(value)
        is_list = is_list and flag.nargs in ("+", len(value))
        return is_list and all(_is_one_of_flag(flag, entry) for entry in value)
    return _is_one_of_flag(flag, value)


def _is_one_of_flag(flag: argparse.Action, value: object) -> bool:
    """Whether the flag makes exactly this value of its text."""
    if flag.choices is not None:
        return isinstance(value, str) and value in flag.choices
    if flag.type is run_name:
        return isinstance(value, str) and is_run_name(value)
    if flag.type in (None, Path, path_or_url):
        return isinstance(value, str) and "\0" not in value
    if type(value) not in (int, float):
        return False
    try:
        parsed = flag.type(repr(value))
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return parsed == value


def is_given(flag: str, arguments: list[str] | None) -> bool:
    """Whether a flag stands on a command line (None: that of the process)."""
    words = sys.argv[1:] if arguments is None else arguments
    return any(word.split("=")[0] == flag for word in words)


def require_different(flag: str, values: Sequence[object]) -> None:
    """Raise `UserError` for a flag that names the same twice."""
    for number, value in enumerate(values):
        if value in values[:number]:
            raise UserError(f"{flag}: found {value} twice, expected different ones")


def add_target_false_alarms(parser: argparse.ArgumentParser, default: float | None) -> None:
    """Add --target_false_alarms; None means the rate that the model was trained for."""
    text = f"false alarms per strip to set the threshold for; default: {default or 'as trained'}"
    parser.add_argument("--target_false_alarms", type=false_alarm_rate, default=default, help=text)


def whole_number(lowest: int, highest: int | None = None, reason: str = "") -> Callable[[str], int]:
    """The type of a flag that takes whole numbers from `lowest` to `highest`.

    None means LARGEST_COUNT. `reason` says why no more are possible. The returned parser raises
    `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    most = LARGEST_COUNT if highest is None else highest

    def parse(text: str) -> int:
        value = int(text)
        if not lowest <= value <= most:
            is_low = highest is None and value < lowest
            limits = f"at least {lowest}" if is_low else f"{lowest} to {most}"
            why = f": {reason}" if reason and value > most else ""
            raise argparse.ArgumentTypeError(f"found {value}, expected {limits}{why}")
        return value

    parse.__name__ = "whole number"
    return parse


def run_name(text: str) -> str:
    """Parse the name of a run, which its files begin with.

    Raises `argparse.ArgumentTypeError` for a name that is not one for files everywhere.
    """
    if not is_run_name(text):
        raise argparse.ArgumentTypeError(f"found {shown(text)}, expected {RUN_NAME_RULE}")
    return text


def positive(text: str) -> float:
    """Parse a number above 0 and up to LARGEST_NUMBER.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = float(text)
    if not 0 < value <= LARGEST_NUMBER:
        limit = f" and up to {LARGEST_NUMBER:g}" if value > LARGEST_NUMBER else ""
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0{limit}")
    return value


def camera_range(text: str) -> float:
    """Parse the largest pixel value of a camera, within INPUT_MAX_LIMITS.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = positive(text)
    lowest, highest = INPUT_MAX_LIMITS
    if not lowest <= value <= highest:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected {lowest:g} to {highest:.0f}: a camera delivers 32 bits at most"
        )
    return value


def from_0_to_1(text: str) -> float:
    """Parse a number from 0 to 1, both included.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number from 0 to 1")
    return value


def sampled_folder(text: str) -> SampledFolder:
    """Parse FOLDER or FOLDER:SHARE. Raises `argparse.ArgumentTypeError` for other texts."""
    try:
        return parse_sampled_folder(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def false_alarm_rate(text: str) -> float:
    """Parse a rate of false alarms per strip, above 0 and up to HIGHEST_RATE.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = float(text)
    if not 0 < value <= HIGHEST_RATE:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected a number above 0 and up to {HIGHEST_RATE:g}"
        )
    return value


def share(text: str) -> float:
    """Parse a number between 0 and 1, both excluded.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number between 0 and 1")
    return value


def newest(path: Path, pattern: str) -> Path:
    """`path` itself, or if it is a folder the newest file in it that matches `pattern`.

    Raises `UserError` when `path` does not exist or the folder holds no such file.
    """
    if not path.exists():
        raise UserError(
            f"{path}: found no such file or folder, expected a model: bash train.sh trains one, "
            "export_onnx_fullimage.py makes an ONNX file of it"
        )
    if not path.is_dir():
        return path
    files = sorted(
        (file for file in path.glob(pattern) if file.is_file()),
        key=lambda file: file.stat().st_mtime,
    )
    if not files:
        raise UserError(
            f"{path}: found no {pattern}, expected one: "
            "bash train.sh and then bash inference_onnx.sh make it"
        )
    return files[-1]


def default_test_path(training_path: str | None, path: Path) -> Path:
    """The `test/` folder of the data set that the model in `path` was trained on.

    Raises `UserError` when there is none.
    """
    folder = None
    if training_path and is_remote(training_path):
        folder = split_beside(local_view(training_path, with_splits=True), "test")
    elif training_path:
        folder = split_beside(Path(training_path), "test")
    if folder is None:
        raise UserError(
            f"{path}: found no test/ beside the strips that it was trained on ({training_path}), "
            "expected --test_path"
        )
    return folder


def require_as_asked(arguments: argparse.Namespace, info: ModelInfo, path: Path) -> None:
    """Raise `UserError` when --image_type or --input_max differs from the model's own value."""
    if arguments.image_type not in (None, info.image_type):
        raise UserError(
            f"{path}: found a model of --image_type {info.image_type}, "
            f"expected {arguments.image_type}"
        )
    require_input_max(arguments.input_max, info, path)


def require_input_max(given: float | None, info: ModelInfo, path: Path) -> None:
    """Raise `UserError` when a command line gives another range than the model in `path` has."""
    if given not in (None, info.input_max):
        raise UserError(
            f"{path}: found a model of --input_max {info.input_max:g}, expected {given:g}"
        )
