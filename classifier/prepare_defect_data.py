"""Make and check data sets of labelled pictures for the defect classifier.

    # folders of pictures: sub-folders of the defective ones are kinds of defect
    python classifier/prepare_defect_data.py organize --defect_images shots/defects \\
        --defect_masks shots/masks --normal_images shots/good --output_dir dataset/parts
    # what is wrong with a data set; nothing is written
    python classifier/prepare_defect_data.py --check_data --data_root dataset/parts
    # generated pictures, which need no source
    python classifier/prepare_defect_data.py dummy --output_dir dataset/dummy

A data set is ROOT/{train,valid,test}/KIND/NAME.EXT, with masks in ground_truth_train/,
ground_truth_valid/ and ground_truth/. The kind without a defect is `good`. The output folder
appears once it is complete; one that holds files is refused. The same --seed gives the same files.
"""

if __name__ == "__main__":
    if not __package__:  # started as a file: modules are found beside this file's folder
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import re
import sys
from pathlib import Path

from arguments import LARGEST_SEED, camera_range, whole_number
from classifier import organize
from classifier.check_data import MISSING_KIND, check_folder
from classifier.dummy_set import write_dummy_set
from common.command_parser import command_parser
from common.errors import run_command
from common.files import new_folder
from common.notes import warn
from data.image_files import DEFAULT_INPUT_MAX

DESCRIPTIONS = {
    "organize": "a data set of folders of defective and of good pictures",
    "dummy": "small grey pictures of four surfaces, good and with four kinds of defect",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process). A wrong one ends the process."""
    parser = command_parser(__doc__)
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
    parsed = parser.parse_args(arguments)
    require_order(parser, parsed)
    if getattr(parsed, "valid_share", 0) + getattr(parsed, "test_share", 0) >= 1:
        parser.error("--valid_share and --test_share: found 1 or more together, expected less")
    return parsed


def require_order(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the process with a usage message for neither command nor check, or both in disorder."""
    is_check_alone = parsed.check_data and parsed.checked_root
    if parsed.command is None and not is_check_alone:
        parser.error(f"expected one of {', '.join(DESCRIPTIONS)}, or --check_data --data_root ROOT")
    if parsed.command and (parsed.checked_root or parsed.checked_input_max != DEFAULT_INPUT_MAX):
        parser.error(f"found flags before {parsed.command}, expected them after it")
    if parsed.command not in (None, "organize") and parsed.check_data:
        parser.error(f"--check_data: found {parsed.command}, expected organize or no command")


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


ADD_FLAGS = {"organize": add_organize, "dummy": add_dummy}


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


def prepare(arguments: argparse.Namespace) -> int:
    """Make or check a data set and return the exit code: 1 where something is wrong with it.

    Raises `UserError` when a source is not as expected, or the output folder is not new.
    """
    if arguments.command is None:
        return check(arguments)
    return {"organize": organize_pictures, "dummy": draw_dummy}[arguments.command](arguments)


def check(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a data set."""
    findings = check_folder(arguments.checked_root, arguments.checked_input_max)
    print(findings.describe())
    return 0 if findings.is_clean else 1


def organize_pictures(arguments: argparse.Namespace) -> int:
    """Check the sources and write the data set, unless something is wrong."""
    sources, unused = organize.find_sources(
        arguments.defect_images, arguments.defect_masks, arguments.normal_images
    )
    shares = arguments.valid_share, arguments.test_share
    made = organize.plan(
        sources, unused, shares, arguments.seed, arguments.group_by, arguments.input_max
    )
    print(made.findings.describe())
    if arguments.check_data:
        return 0 if made.findings.is_clean else 1
    missing = made.findings.problems.pop(MISSING_KIND, [])
    if not made.findings.is_clean:
        return 1
    for line in missing:
        warn(line)
    organize.write(arguments.output_dir, made, arguments.link)
    print_next(arguments.output_dir)
    return 0


def draw_dummy(arguments: argparse.Namespace) -> int:
    """Draw the dummy set."""
    with new_folder(arguments.output_dir) as folder:
        write_dummy_set(
            folder,
            arguments.num_defect,
            arguments.num_normal,
            arguments.size,
            arguments.seed,
            (arguments.valid_share, arguments.test_share),
            arguments.faint,
        )
    print_next(arguments.output_dir)
    return 0


def print_next(root: Path) -> None:
    """Print where the data set is."""
    print(f"the data set is in {root}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: prepare(parse_args())))
