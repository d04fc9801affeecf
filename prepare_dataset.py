"""Build a data set folder: train/good, and valid/, test/ and masks where the source allows.

    # generated strips, which need no source
    python prepare_dataset.py demo --output dataset/demo
    # good strips, painted with defects
    python prepare_dataset.py testset --source /data/good_strips --output dataset/mine
    python prepare_dataset.py deeppcb --source /data/DeepPCB/PCBData --output dataset/deeppcb
    python prepare_dataset.py mvtec --source /data/mvtec/grid --output dataset/grid
    # strips of three channels from images of one channel, in three folders
    python prepare_dataset.py combine --target A --ref1 B --ref2 C --output my_strips/train/good
    # the same with the means of many references
    python prepare_dataset.py combine --target A --references B C D E --output my_strips/train/good
    # pictures without references, of many classes, for the reference-free detector
    python prepare_dataset.py textures --output dataset/textures

The output folder appears once it is complete. An output folder that already contains files is
refused. The same --seed gives the same files.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from arguments import (
    LARGEST_SEED,
    add_channels,
    add_img_format,
    camera_range,
    whole_number,
)
from common.command_parser import command_parser, local_path
from common.errors import UserError, run_command
from common.files import new_folder
from common.pipeline import in_parallel
from data.combine import combine
from data.deeppcb import (
    board_file,
    board_name,
    boxes_file,
    choose_test_groups,
    list_templates,
    read_boxes,
    split_of_board,
)
from data.demo_strips import STRIP_SIZE, make_strip_and_shifts
from data.folder import GOOD, mask_path, require_good_only
from data.image_files import (
    DEFAULT_INPUT_MAX,
    STORED_ORDER,
    load_image,
    open_channels,
)
from data.listing import IMAGE_SUFFIXES, list_images
from data.registered_copies import StripAligner
from data.texture_set import Counts, folders_of_classes, write_texture_set
from data.textures import CLASSES
from data.truth_layout import split_of
from data.write_images import write_mask, write_strip
from gaussian import MAX_GREY, STRIP_DEFECTS_RANGE, Defect, paint_defects

KIND = "bright_spots"  # folder of the painted defective strips
DEMO_COUNTS = {"train": (60, 0), "valid": (30, 30), "test": (40, 40)}  # good and defective strips
MVTEC_CROPS = 5  # strips per image, side by side: 5 x 176 of 1024 columns
COMBINE_MODES = ("full", "fine")  # of the suite's aligner, those that match the light, too
FEWEST_TO_AVERAGE = 3  # references; one or two are channels as they are
POINT_COLUMNS = (
    "file",
    "y",
    "x",
    "height",
    "width",
    "sigma_y",
    "sigma_x",
    "amplitude",
    "target",
    "ref1",
    "ref2",
)

# a painted defect, and the numbers of the channels that it is in
Point = tuple[Defect, tuple[int, ...]]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process). A wrong one ends the process."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    descriptions = {
        "demo": "60 generated strips for training, 60 for validation, 80 for test",
        "testset": "a test folder of good strips and of the same strips with painted defects",
        "deeppcb": "Target, Ref1 and Ref2 from a DeepPCB checkout, masks from its boxes",
        "mvtec": "976x176 strips of three equal channels "
        "from an MVTec AD category with images of 1024x1024",
        "combine": "strips of three channels from images of one channel",
        "textures": f"pictures of {len(CLASSES)} classes without references, "
        "good ones and defective ones with masks",
    }
    for name, text in descriptions.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        command.add_argument(
            "--output", type=Path, required=True, help="new folder for the data set"
        )
        command.add_argument(
            "--seed",
            type=whole_number(0, LARGEST_SEED),
            default=42,
            help="of everything that is random",
        )
        if name == "combine":
            add_combine(command)
        elif name == "textures":
            add_textures(command)
        elif name != "demo":
            command.add_argument("--source", type=Path, required=True, help="folder to read")
        if name == "testset":
            add_img_format(command, default=None)
            add_channels(command, default="target,ref1,ref2")
            add_input_max(command)
    parsed = parser.parse_args(arguments)
    if parsed.command == "combine":
        require_one_way(parser, parsed)
    return parsed


def add_input_max(command: argparse.ArgumentParser) -> None:
    """Add --input_max."""
    command.add_argument(
        "--input_max",
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest value that the camera can deliver",
    )


def add_combine(command: argparse.ArgumentParser) -> None:
    """Add the flags of `combine`."""
    place = "folder of images, matched by name; or one file for all strips"
    command.add_argument(
        "--target", type=local_place, required=True, help="folder of Target's images"
    )
    command.add_argument("--ref1", type=local_place, help=f"of the first reference: {place}")
    command.add_argument(
        "--ref2",
        type=local_place,
        help=f"of the second one: {place}; default: the first one again",
    )
    command.add_argument(
        "--references",
        type=local_place,
        nargs="+",
        metavar="PLACE",
        help="three references or more, each a folder or a file: registered to Target and averaged",
    )
    command.add_argument(
        "--folder",
        type=Path,
        help="one folder of all images; the flags above are then endings of names, such as _ref1",
    )
    command.add_argument(
        "--align",
        choices=COMBINE_MODES,
        default="fine",
        help="how --references are registered: as trainer.py does",
    )
    add_input_max(command)


def local_place(text: str) -> str:
    """The type of a flag that takes a path, or the ending of names; a URL is neither."""
    local_path(text)
    return text


def add_textures(command: argparse.ArgumentParser) -> None:
    """Add the flags of `textures`."""
    command.add_argument(
        "--classes",
        nargs="+",
        default=list(CLASSES),
        metavar="CLASS",
        help="what the pictures show; FOLDER=CLASS names the folder of a class",
    )
    command.add_argument(
        "--size", type=whole_number(32, 1024), default=192, help="side of a picture in pixels"
    )
    for flag, count, pictures in (
        ("--train", 80, "good pictures to train on"),
        ("--good", 40, "good pictures to test"),
        ("--defective", 50, "defective pictures to test"),
    ):
        command.add_argument(
            flag, type=whole_number(1), default=count, help=f"{pictures}, of each class"
        )


def require_one_way(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the process with a usage message unless one kind of references is given."""
    if bool(parsed.references) == bool(parsed.ref1) or (parsed.references and parsed.ref2):
        parser.error("combine: expected either --ref1, perhaps with --ref2, or --references")
    if parsed.references and len(parsed.references) < FEWEST_TO_AVERAGE:
        parser.error(
            f"--references: found {len(parsed.references)}, expected three or more: "
            "one or two are --ref1 and --ref2"
        )


def prepare(arguments: argparse.Namespace) -> None:
    """Build the requested data set.

    Raises `UserError` when the source is not as expected, or the output folder is not new.
    """
    build = {
        "demo": build_demo,
        "testset": build_testset,
        "deeppcb": build_deeppcb,
        "mvtec": build_mvtec,
        "combine": build_combine,
        "textures": build_textures,
    }[arguments.command]
    with new_folder(arguments.output) as folder:
        build(folder, arguments)


def build_demo(root: Path, arguments: argparse.Namespace) -> None:
    """Draw DEMO_COUNTS strips of STRIP_SIZE; defective ones are painted."""
    jobs = [
        (split, kind, number)
        for split, counts in DEMO_COUNTS.items()
        for kind, count in zip((GOOD, KIND), counts)
        for number in range(count)
    ]

    def make(job: tuple[str, str, int]) -> list[Point]:
        split, kind, number = job
        generator = np.random.default_rng(
            (arguments.seed, list(DEMO_COUNTS).index(split), kind == KIND, number)
        )
        image, shifts = make_strip_and_shifts(generator)
        if kind == KIND:
            return write_painted_strip(
                root, split, demo_file(number), image, generator, shifts=shifts
            )
        write_strip(root / split / GOOD / demo_file(number), image)
        return []

    points = dict(zip(jobs, in_parallel(make, jobs, "drawing strips")))
    for split in ("valid", "test"):
        write_points(
            root,
            split,
            {
                demo_file(number): points[split, KIND, number]
                for number in range(DEMO_COUNTS[split][1])
            },
        )


def demo_file(number: int) -> str:
    """The file name of a demo strip."""
    return f"strip_{number:03}.tiff"


def build_testset(root: Path, arguments: argparse.Namespace) -> None:
    """Copy good strips, and write each of them once more with painted defects.

    The copies are the files themselves, unless their channels are in another order: then Target is
    first in all that is written. Raises `UserError` when an image cannot be read, or two would get
    the same name.
    """
    paths, order = list_images(arguments.source, arguments.img_format), arguments.channels
    names = flat_names(paths, arguments.source)

    def make(job: tuple[int, Path]) -> tuple[str, list[Point]]:
        number, path = job
        image = load_image(path, arguments.input_max, order=order)
        stored = open_channels(path, order=order)
        file = (
            f"{names[number]}{'.tiff' if path.suffix.lower() in IMAGE_SUFFIXES['tiff'] else '.png'}"
        )
        good = root / "test" / GOOD / f"{names[number]}{path.suffix}"
        if order == STORED_ORDER:
            good.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, good)
        else:
            write_strip(good.with_name(file), stored)
        generator = np.random.default_rng((arguments.seed, number))
        return file, write_painted_strip(
            root, "test", file, image, generator, stored.dtype, arguments.input_max
        )

    points = in_parallel(make, list(enumerate(paths)), "painting strips")
    write_points(root, "test", dict(points))


def flat_names(paths: list[Path], source: Path) -> list[str]:
    """Names without suffix for files that are collected in one folder.

    A name contains the sub-folders of `source`. Raises `UserError` when two names are the same.
    """
    names = ["_".join(path.relative_to(source).with_suffix("").parts) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(
            f"{source}: found two images of one name except for folder or suffix, "
            "expected different names"
        )
    return names


def build_deeppcb(root: Path, arguments: argparse.Namespace) -> None:
    """Make a strip of every board, with the board as Target and its template as both references.

    Whole groups (boards of one design) are reserved for the test. Good strips, those of train/good
    among them, have the template in all three channels, so that they contain no defect. Raises
    `UserError` when the source is not DeepPCB's folder, or a file does not fit its template.
    """
    templates = list_templates(arguments.source)
    test_groups = choose_test_groups(templates, arguments.seed)

    def make(job: tuple[int, Path]) -> None:
        number, template_path = job
        name = board_name(template_path)
        template = read_grey(template_path)
        split = split_of_board(number, template_path, test_groups)
        write_strip(root / split / GOOD / f"{name}.png", np.stack([template] * 3))
        if split == "train":
            return
        board_path = board_file(template_path)
        board = read_grey(board_path)
        if board.shape != template.shape:
            raise UserError(
                f"{board_path}: found {board.shape} (height, width), "
                f"expected {template.shape} like its template"
            )
        boxes = boxes_file(template_path)
        write_strip(
            root / split / "pcb_defects" / f"{name}.png", np.stack([board, template, template])
        )
        write_mask(mask_path(root, split, "pcb_defects", name), mask_of_boxes(boxes, board.shape))

    in_parallel(make, list(enumerate(templates)), "pairing boards")


def build_mvtec(root: Path, arguments: argparse.Namespace) -> None:
    """Cut strips from good images, and paint defects into copies of the test strips.

    The category's own defects are left out: in three equal channels they cannot be detected. Raises
    `UserError` when an image is missing, unreadable or too small.
    """
    points = {}
    for split in ("train", "test"):
        paths = list_images(arguments.source / split / GOOD, "png_jpg")
        names = flat_names(paths, arguments.source / split / GOOD)
        jobs = [
            (split, number, name, path) for number, (name, path) in enumerate(zip(names, paths))
        ]
        for painted in in_parallel(
            lambda job: cut_strips(root, arguments.seed, *job), jobs, f"cutting {split} strips"
        ):
            points |= painted
    write_points(root, "test", points)


def cut_strips(
    root: Path, seed: int, split: str, number: int, name: str, path: Path
) -> dict[str, list[Point]]:
    """Write an image's strips, and for the test painted copies of them.

    The channels are Target, Ref1, Ref2 and an empty mask. Returns the painted defects by file name.
    """
    points = {}
    for crop, grey in enumerate(side_by_side_crops(read_grey(path).astype(np.float32), path)):
        file, image = f"{name}_{crop}.tiff", np.stack([grey, grey, grey, np.zeros_like(grey)])
        write_strip(root / split / GOOD / file, image)
        if split == "test":
            points[file] = write_painted_strip(
                root, split, file, image, np.random.default_rng((seed, number, crop))
            )
    return points


def build_combine(root: Path, arguments: argparse.Namespace) -> None:
    """Write a strip of every image of Target; raises `UserError` as `combine`."""
    references = arguments.references or filter(None, (arguments.ref1, arguments.ref2))
    aligner = None
    if arguments.references:
        aligner = StripAligner(arguments.align, torch.device("cpu"))
    combine(root, [arguments.target, *references], arguments.folder, aligner, arguments.input_max)


def build_textures(root: Path, arguments: argparse.Namespace) -> None:
    """Draw the pictures of the chosen classes.

    Raises `UserError` for an unknown class, or where the package with a class's photo is missing.
    """
    counts = Counts(arguments.train, arguments.good, arguments.defective)
    classes = folders_of_classes(arguments.classes)
    write_texture_set(root, classes, arguments.size, arguments.seed, counts)


def side_by_side_crops(grey: np.ndarray, path: Path) -> list[np.ndarray]:
    """MVTEC_CROPS strips of an image (H, W), left to right from the top left corner.

    Each has STRIP_SIZE. Raises `UserError`, naming `path`, when the image is too small.
    """
    height, width = STRIP_SIZE
    if grey.shape[0] < height or grey.shape[1] < MVTEC_CROPS * width:
        raise UserError(
            f"{path}: found {grey.shape} (height, width), "
            f"expected at least ({height}, {MVTEC_CROPS * width})"
        )
    return [grey[:height, left : left + width] for left in range(0, MVTEC_CROPS * width, width)]


def mask_of_boxes(path: Path, size: tuple[int, int]) -> np.ndarray:
    """DeepPCB's annotation as a mask (H, W) uint8 {0, 1} of filled boxes.

    The file has one `x1 y1 x2 y2 type` per line; `size` is (height, width) in pixels. Raises
    `UserError` when it cannot be read.
    """
    mask = np.zeros(size, np.uint8)
    for box in read_boxes(path):
        mask[box.top : box.bottom, box.left : box.right] = 1
    return mask


def read_grey(path: Path) -> np.ndarray:
    """Read an image as (H, W) uint8. Raises `UserError` for a file that is not an image."""
    encoded = path.read_bytes() if path.is_file() else b""
    grey = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE) if encoded else None
    if grey is None:
        raise UserError(f"{path}: found no readable image, expected a grey PNG or JPG file")
    return grey


def write_painted_strip(
    root: Path,
    split: str,
    file: str,
    image: np.ndarray,
    generator: np.random.Generator,
    pixel_type: np.dtype | type = np.float32,
    input_max: float = DEFAULT_INPUT_MAX,
    shifts: Sequence[tuple[float, float]] | None = None,
) -> list[Point]:
    """Paint classic defects into a strip, and write the strip and its mask.

    `image` is (C, H, W) in grey levels 0-255 and is painted in place. The file has values of
    `pixel_type`, scaled to 0 to `input_max`. `shifts` are those of `paint_defects`. Returns the
    defects. Raises `UserError` when a file cannot be written.
    """
    mask = np.zeros(image.shape[1:], np.uint8)
    points = paint_defects(image, mask, generator, STRIP_DEFECTS_RANGE, shifts)
    pixels = image * (input_max / MAX_GREY)
    write_strip(
        root / split / KIND / file,
        (pixels if np.issubdtype(pixel_type, np.floating) else np.rint(pixels)).astype(pixel_type),
    )
    write_mask(mask_path(root, split, KIND, Path(file).stem), mask)
    return points


def write_points(root: Path, split: str, points: dict[str, list[Point]]) -> None:
    """Write `points.csv` beside the masks, with one row per painted defect.

    Its columns are POINT_COLUMNS; the last three are 1 for a channel that the defect is in, else 0.
    """
    path = mask_path(root, split, KIND, "").with_name("points.csv")
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(POINT_COLUMNS)
        for name, painted in sorted(points.items()):
            for defect, channels in painted:
                presence = [int(channel in channels) for channel in range(3)]
                writer.writerow(
                    (name, *defect.center, *defect.size, *defect.sigma, defect.amplitude, *presence)
                )


def main() -> int:
    """Build the data set, print the next command, and return the exit code."""
    arguments = parse_args()
    prepare(arguments)
    print(f"the data set is in {arguments.output}; next: {next_command(arguments)}")
    return 0


def next_command(arguments: argparse.Namespace) -> str:
    """The command that goes on with the new data set."""
    output = arguments.output
    camera = ""
    if getattr(arguments, "input_max", DEFAULT_INPUT_MAX) != DEFAULT_INPUT_MAX:
        camera = f" --input_max {arguments.input_max:g}"
    if arguments.command == "testset":
        return f"bash inference_pytorch.sh --test_path '{output}/test'"
    if arguments.command == "textures":
        return f"bash autoencoder/train.sh --training_dataset_path '{output}'"
    good = output / "train" / GOOD
    if arguments.command != "combine" or good.is_dir():
        return f"bash train.sh --training_dataset_path '{good}'{camera}"
    scoring = f"bash inference_pytorch.sh --test_path '{output}'"
    try:
        require_good_only(output)
    except UserError:
        return scoring
    if split_of(output.name) in ("valid", "test"):
        return scoring
    return (
        f"bash train.sh --training_dataset_path '{output}'{camera} if all of its strips are good, "
        f"else {scoring}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
