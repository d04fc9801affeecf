"""Build a data set folder: train/good, and valid/, test/ and their masks where there is something
to make them from.

    python prepare_dataset.py demo --output dataset/demo                                  # procedural strips: nothing needed
    python prepare_dataset.py testset --source /data/good_strips --output dataset/mine    # good strips painted with defects
    python prepare_dataset.py deeppcb --source /data/DeepPCB/PCBData --output dataset/deeppcb
    python prepare_dataset.py mvtec --source /data/mvtec/grid --output dataset/grid

The output folder appears when it is complete; one that holds something already is refused. The same
--seed gives the same files.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import csv
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import tifffile
from tqdm import tqdm

from arguments import LARGEST_SEED, add_img_format, command_parser, positive, whole_number
from common.errors import UserError, run_command
from common.files import new_folder
from data.demo_strips import STRIP_SIZE, make_strip_and_shifts
from data.folder import GOOD, IMAGE_SUFFIXES, list_images, mask_path
from data.image_files import DEFAULT_INPUT_MAX, load_image, open_channels
from gaussian import MAX_GREY, STRIP_DEFECTS_RANGE, Defect, paint_defects

KIND = "bright_spots"
DEMO_COUNTS = {"train": (60, 0), "valid": (30, 30), "test": (40, 40)}  # good and defective strips
MVTEC_CROPS = 5  # side by side: 5 x 176 of 1024 columns
DEEPPCB_VALID_EVERY = 5  # of the training groups' boards, one in so many validates
DEEPPCB_TEST_SHARE = 3  # one group in so many tests, at least one
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

Point = tuple[Defect, tuple[int, ...]]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    about = {
        "demo": "60 strips for training, 60 for validation, 80 for test, made from nothing",
        "testset": "a test folder of good strips and of the same strips with painted defects",
        "deeppcb": "Target, Ref1 and Ref2 from a DeepPCB checkout, masks from its boxes",
        "mvtec": "976x176 strips of three equal channels from an MVTec AD category with images of 1024x1024",
    }
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--output", type=Path, required=True, help="new folder for the data set"
        )
        command.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=42)
        if name != "demo":
            command.add_argument("--source", type=Path, required=True, help="folder to read")
        if name == "testset":
            add_img_format(command, default=None)
            command.add_argument(
                "--input_max",
                type=positive,
                default=DEFAULT_INPUT_MAX,
                help="largest value of the camera",
            )
    return parser.parse_args(arguments)


def prepare(arguments: argparse.Namespace) -> None:
    """Build what was asked for.

    Raises `UserError` when the source is not what it should be or the output is not new.
    """
    build = {
        "demo": build_demo,
        "testset": build_testset,
        "deeppcb": build_deeppcb,
        "mvtec": build_mvtec,
    }[arguments.command]
    with new_folder(arguments.output) as folder:
        build(folder, arguments)


def build_demo(root: Path, arguments: argparse.Namespace) -> None:
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
    return f"strip_{number:03}.tiff"


def build_testset(root: Path, arguments: argparse.Namespace) -> None:
    paths = list_images(arguments.source, arguments.img_format)
    names = flat_names(paths, arguments.source)

    def make(job: tuple[int, Path]) -> tuple[str, list[Point]]:
        number, path = job
        image = load_image(path, arguments.input_max)
        good = root / "test" / GOOD / f"{names[number]}{path.suffix}"
        good.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, good)
        generator = np.random.default_rng((arguments.seed, number))
        file = (
            f"{names[number]}{'.tiff' if path.suffix.lower() in IMAGE_SUFFIXES['tiff'] else '.png'}"
        )
        return file, write_painted_strip(
            root, "test", file, image, generator, open_channels(path).dtype, arguments.input_max
        )

    points = in_parallel(make, list(enumerate(paths)), "painting strips")
    write_points(root, "test", dict(points))


def flat_names(paths: list[Path], source: Path) -> list[str]:
    """Names without suffix for files that will lie in one folder.

    Raises `UserError` when two would be the same.
    """
    names = ["_".join(path.relative_to(source).with_suffix("").parts) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(
            f"{source}: found two images of one name but for folder or suffix, expected names that differ"
        )
    return names


def build_deeppcb(root: Path, arguments: argparse.Namespace) -> None:
    """Every board as Target with its template as both references.

    Whole groups (boards of one design) are kept for the test.

    In train/good a template of the other groups is all three channels, so that no defect is in it.
    """
    templates = sorted(arguments.source.rglob("group*/*/*_temp.jpg"))
    if not templates:
        raise UserError(
            f"{arguments.source}: found no group*/*/*_temp.jpg, expected the PCBData folder of DeepPCB"
        )
    groups = sorted({template.parent for template in templates})
    shuffled = np.random.default_rng(arguments.seed).permutation(len(groups))
    if len(groups) < 2:
        raise UserError(
            f"{arguments.source}: found one group of boards, expected two or more: one trains, another one tests"
        )
    test_groups = {
        groups[number] for number in shuffled[: max(1, len(groups) // DEEPPCB_TEST_SHARE)]
    }

    def make(job: tuple[int, Path]) -> None:
        number, template_path = job
        name = template_path.name.removesuffix("_temp.jpg")
        template = read_grey(template_path)
        split = (
            "test"
            if template_path.parent in test_groups
            else "train"
            if number % DEEPPCB_VALID_EVERY
            else "valid"
        )
        write_strip(root / split / GOOD / f"{name}.png", np.stack([template] * 3))
        if split == "train":
            return
        board_path = template_path.with_name(f"{name}_test.jpg")
        board = read_grey(board_path)
        if board.shape != template.shape:
            raise UserError(
                f"{board_path}: found {board.shape} (height, width), expected {template.shape} like its template"
            )
        boxes = template_path.parent.with_name(f"{template_path.parent.name}_not") / f"{name}.txt"
        write_strip(
            root / split / "pcb_defects" / f"{name}.png", np.stack([board, template, template])
        )
        write_mask(mask_path(root, split, "pcb_defects", name), mask_of_boxes(boxes, board.shape))

    in_parallel(make, list(enumerate(templates)), "pairing boards")


def build_mvtec(root: Path, arguments: argparse.Namespace) -> None:
    """Strips cut from good images.

    The category's own defects are left out: in three equal channels no one could find them.
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
    """Write an image's strips, of the channels Target, Ref1, Ref2 and an empty mask, and for the
    test painted copies of them.

    Returns the painted defects by file name.
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


def side_by_side_crops(grey: np.ndarray, path: Path) -> list[np.ndarray]:
    """Five strips, left to right from the top left corner.

    Raises `UserError`, naming `path`, for an image that is too small.
    """
    height, width = STRIP_SIZE
    if grey.shape[0] < height or grey.shape[1] < MVTEC_CROPS * width:
        raise UserError(
            f"{path}: found {grey.shape} (height, width), expected at least ({height}, {MVTEC_CROPS * width})"
        )
    return [grey[:height, left : left + width] for left in range(0, MVTEC_CROPS * width, width)]


def mask_of_boxes(path: Path, size: tuple[int, int]) -> np.ndarray:
    """DeepPCB's annotation, one `x1 y1 x2 y2 type` a line, as a mask (H, W) uint8 {0, 1} of filled
    boxes.
    """
    mask = np.zeros(size, np.uint8)
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                left, top, right, bottom = map(int, line.split()[:4])
                mask[top:bottom, left:right] = 1
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: found no readable boxes ({error}), expected lines of x1 y1 x2 y2 type"
        ) from None
    return mask


def read_grey(path: Path) -> np.ndarray:
    """(H, W) uint8. Raises `UserError` for a file that is not an image."""
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
    """Paint classic defects into a strip (grey levels 0-255, in place); write it, in the camera's
    own range, and its mask.

    `shifts` are those of `paint_defects`. Returns the defects, each with the channels that it is
    in.
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


def write_strip(path: Path, image: np.ndarray) -> None:
    """(C, H, W) to a TIFF, channels first, or to a PNG in OpenCV's channel order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tiff":
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="separate")
    elif not cv2.imwrite(str(path), np.moveaxis(image, 0, 2)):
        raise UserError(f"{path}: cannot be written")


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), mask * 255):
        raise UserError(f"{path}: cannot be written")


def write_points(root: Path, split: str, points: dict[str, list[Point]]) -> None:
    """`points.csv` beside the masks: every painted defect, and 1 or 0 for each channel that it is
    or is not in.
    """
    path = mask_path(root, split, KIND, "").with_name("points.csv")
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(POINT_COLUMNS)
        for name, found in sorted(points.items()):
            for defect, channels in found:
                presence = [int(channel in channels) for channel in range(3)]
                writer.writerow(
                    (name, *defect.center, *defect.size, *defect.sigma, defect.amplitude, *presence)
                )


def in_parallel(make: Callable, jobs: list, label: str) -> list:
    """`make` of every job, in order, with a progress bar. The first error stops the rest."""
    with ThreadPoolExecutor() as pool:
        try:
            results: Iterable = pool.map(make, jobs)
            return list(tqdm(results, total=len(jobs), desc=label, disable=None))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> int:
    arguments = parse_args()
    prepare(arguments)
    if arguments.command == "testset":
        following = f"bash inference_pytorch.sh --test_path '{arguments.output}/test'"
    else:
        more = " --img_format png_jpg" if arguments.command == "deeppcb" else ""
        following = f"bash train.sh --training_dataset_path '{arguments.output}/train/good'{more}"
    print(f"the data set is in {arguments.output}; next: {following}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
