"""Draw the pictures of the documents from a run of `bash train.sh`, and from one of `bash
autoencoder/train.sh`.

    python -m docs.make_pictures --run checkpoints/BgRemoval_lr0.002_ep10_bs16_976x176_strip
    python -m docs.make_pictures --autoencoder_run \\
        checkpoints/autoencoder/Autoencoder_segment_lr0.002_ep20_bs8_96

With --autoencoder_run only the pictures of that tool are drawn. The pictures of reports need
Chromium.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from arguments import CHECKPOINT_FOLDER, newest
from benchmarks.detectors import load_predictor
from classifier.dummy_set import DEFECTS, draw_picture
from common.device import choose_device
from data.demo_strips import STRIP_SIZE, make_strip
from data.folder import GOOD
from data.image_files import load_image
from data.masks import load_mask
from data.recipes import RECIPES
from dataloader import StripPatches, painted_samples
from evaluation.detections import detect
from evaluation.thresholds import threshold_for
from gaussian import STRIP_DEFECTS_RANGE
from ops.tiling import PATCH_SIZES, calculate_kept_ranges, tile_positions
from reporting import pictures
from reporting.pictures import save_panels
from reporting.scored_folder import REPORT
from training.checkpoint import BEST_SUFFIX, load_checkpoint
from training.run_folder import TEST_SUFFIX

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
JPEG_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]
PATCH = PATCH_SIZES["strip"]  # pixels
EXAMPLE = "strip_031"  # a defective demo test strip
EXAMPLE_ROWS = slice(110, 410)  # of it that panels.jpg shows
# A defective demo test strip with a defect, and near it a point that Ref1 has, too: places (y, x).
HERO, DEFECT, SHARED = "strip_008", (433, 59), (447, 22)
HERO_ROWS = slice(340, 540)  # of it that hero.jpg shows
REPORT_HEIGHT, PICTURE_REPORT_HEIGHT = 2050, 1400  # pixels of the reports that are shown
# a defective texture that is found
PICTURE_EXAMPLE = "gear/test/pits/005_panels.png"
INSET = 15  # pixels on each side of a point that its insets show


def save_jpg(name: str, picture: np.ndarray) -> None:
    """Write a picture, (H, W) or (H, W, 3) in OpenCV's channel order, 0-255, into PICTURES."""
    cv2.imwrite(str(PICTURES / name), picture.astype(np.uint8), JPEG_QUALITY)


def draw_panels(run: Path, dataset: Path) -> None:
    """The panels of one test strip, as the inference commands draw them."""
    path = Path(f"{run}{BEST_SUFFIX}")
    content = load_checkpoint(path)
    predictor = load_predictor(path, choose_device(-1))
    image = load_image(dataset / "test" / "bright_spots" / f"{EXAMPLE}.tiff")
    mask = load_mask(
        dataset / "ground_truth" / "bright_spots" / f"{EXAMPLE}_mask.png", image.shape[1:]
    )
    heatmap = predictor(image)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "panels.png"
        title = f"rows {EXAMPLE_ROWS.start} to {EXAMPLE_ROWS.stop} of a demo test strip"
        threshold = threshold_for(content["calibration"], content["target_false_alarms"], "")
        rows = (image[:, EXAMPLE_ROWS], heatmap[EXAMPLE_ROWS])
        save_panels(
            whole, *rows, mask[EXAMPLE_ROWS], title, detect(rows[1], rows[0], threshold.value)
        )
        save_jpg("panels.jpg", cv2.imread(str(whole)))


def draw_hero(run: Path, dataset: Path) -> None:
    """A part of a strip, and beside it two of its points enlarged: a defect, and one that is none.

    The heatmap has the colours of the report.
    """
    predictor = load_predictor(Path(f"{run}{BEST_SUFFIX}"), choose_device(-1))
    image = load_image(dataset / "test" / "bright_spots" / f"{HERO}.tiff")
    planes = (*image, predictor(image))
    figure = Figure(figsize=(10.6, 4.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2))
    part = left.subplots()
    part.imshow(image[0, HERO_ROWS], cmap="gray", vmin=0, vmax=255)
    part.set(title="Target", xticks=[], yticks=[])
    rows = right.subplots(2, 4)
    points = (
        (DEFECT, "tab:red", "defect"),
        (SHARED, "tab:blue", "also in Ref1:\nignored"),
    )
    for axes, ((y, x), color, name) in zip(rows, points):
        corner, side = (x - INSET, y - HERO_ROWS.start - INSET), 2 * INSET
        part.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=2))
        around = np.s_[y - INSET : y + INSET + 1, x - INSET : x + INSET + 1]
        for axis, plane, largest in zip(axes, planes, (255, 255, 255, 1)):
            colors = "gray" if largest == 255 else "inferno"
            axis.imshow(plane[around], cmap=colors, vmin=0, vmax=largest)
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(edgecolor=color, linewidth=2)
        axes[0].set_ylabel(name, color=color, fontsize=13)
    for axis, title in zip(rows[0], ("Target", "Ref1", "Ref2", "heatmap")):
        axis.set_title(title)
    figure.savefig(PICTURES / "hero.jpg", dpi=100, pil_kwargs={"quality": 88})


def draw_demo_strips() -> None:
    """The upper parts of eight demo strips, side by side."""
    strips = [make_strip(np.random.default_rng((1, number)))[0, :500] for number in range(8)]
    save_jpg(
        "demo.jpg", np.concatenate([np.pad(strip, ((0, 0), (0, 8))) for strip in strips], axis=1)
    )


def draw_dummy_set() -> None:
    """Pictures of the dummy set, one kind in each row."""
    rows = [
        np.hstack(
            [np.pad(draw_picture(kind, n, 96, 7)[0], 1, constant_values=255) for n in range(8)]
        )
        for kind in (GOOD, *DEFECTS)
    ]
    save_jpg("dummy.jpg", np.vstack(rows))


def draw_samples(run: Path) -> None:
    """The upper third of the run's picture of training samples."""
    picture = cv2.imread(f"{run}_samples.png")
    save_jpg("samples.jpg", picture[: picture.shape[0] // 3])  # two rows of six


def draw_recipes(dataset: Path) -> None:
    """Training samples of each recipe."""
    strips = sorted((dataset / "train" / "good").iterdir())
    for name, recipe in RECIPES.items():
        picture = pictures.draw_samples(
            painted_samples(StripPatches(strips, STRIP_SIZE, PATCH, recipe(STRIP_DEFECTS_RANGE)))
        )
        save_jpg(f"{name}-samples.jpg", picture[picture.shape[0] // 2 :])  # three rows of six


def draw_tiling() -> None:
    """The tiles of a strip, and the seams between the parts that the tiles contribute."""
    height, width = STRIP_SIZE
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(make_strip(np.random.default_rng((1, 3)))[0].T, cmap="gray", alpha=0.6)
    positions = tile_positions(STRIP_SIZE, PATCH)
    for y, x in positions:
        axes.add_patch(
            Rectangle((y, x), PATCH, PATCH, fill=False, edgecolor="white", linewidth=0.8)
        )
    for number, color in ((6, "tab:blue"), (8, "tab:orange")):  # neighbours along the strip
        y, x = positions[number]
        axes.add_patch(
            Rectangle(
                (y, x), PATCH, PATCH, facecolor=color, edgecolor=color, alpha=0.45, linewidth=2
            )
        )
    for start, _ in calculate_kept_ranges(height, PATCH)[1:]:
        axes.axvline(start - 0.5, color="yellow", linestyle="--", linewidth=1)
    for start, _ in calculate_kept_ranges(width, PATCH)[1:]:
        axes.axhline(start - 0.5, color="yellow", linestyle="--", linewidth=1)
    axes.set(
        xlabel="y, along the strip (px)",
        ylabel="x (px)",
        title="tiles (white), two of them filled, "
        "and the seams between what each one keeps (dashed)",
    )
    figure.savefig(PICTURES / "tiling.png", dpi=90)


def draw_report(page: Path, name: str, height: int) -> None:
    """The upper `height` pixels of a report, at three quarters of their size.

    Paths are shown from the repository on.
    """
    with tempfile.TemporaryDirectory() as folder:
        shot, shown = Path(folder) / "report.png", Path(folder) / "report.html"
        text = page.read_text(encoding="utf-8").replace(f"{ROOT}/", "")
        shown.write_text(text, encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--user-data-dir={folder}",
            f"--window-size=1230,{height}",
        ]
        subprocess.run(
            ["chromium", *flags, f"--screenshot={shot}", shown.as_uri()],
            check=True,
            capture_output=True,
        )
        picture = cv2.imread(str(shot))
    save_jpg(name, cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA))


def draw_without_references(run: Path) -> None:
    """The pictures of the reference-free detector: samples, panels of one picture, report."""
    save_jpg("picture-samples.jpg", cv2.imread(f"{run}_samples.png"))
    scored = Path(f"{run}{TEST_SUFFIX}")
    save_jpg("picture-panels.jpg", cv2.imread(str(scored / PICTURE_EXAMPLE)))
    draw_report(scored / REPORT, "picture-report.jpg", PICTURE_REPORT_HEIGHT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="path of a run's files without their endings; default: the newest in checkpoints/",
    )
    parser.add_argument("--autoencoder_run", type=Path, help="the same of the tool for pictures")
    parser.add_argument("--dataset", type=Path, default=ROOT / "dataset" / "demo")
    arguments = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    if arguments.autoencoder_run:
        draw_without_references(arguments.autoencoder_run)
        print(f"the pictures are in {PICTURES}")
        return
    run = arguments.run or Path(
        str(newest(CHECKPOINT_FOLDER, f"*{BEST_SUFFIX}")).removesuffix(BEST_SUFFIX)
    )
    draw_panels(run, arguments.dataset)
    draw_hero(run, arguments.dataset)
    draw_demo_strips()
    draw_dummy_set()
    draw_samples(run)
    draw_recipes(arguments.dataset)
    draw_tiling()
    draw_report(Path(f"{run}{TEST_SUFFIX}") / REPORT, "report.jpg", REPORT_HEIGHT)
    shutil.copy(f"{run}_curves.png", PICTURES / "curves.png")
    print(f"the pictures are in {PICTURES}")


if __name__ == "__main__":
    main()
