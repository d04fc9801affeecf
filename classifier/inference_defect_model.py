"""Classify images: is it a defect, of which kind, where, and how sure is that.

    # the best checkpoint of a folder, on the test images of the data set
    python -m classifier.inference_defect_model --checkpoint checkpoints/parts \\
        --image_dir dataset/parts/test --output_dir output/parts
    # one image
    python -m classifier.inference_defect_model --checkpoint checkpoints/parts --image part.png
    # call what is not sure enough for one mistake in a hundred *unsure*
    python -m classifier.inference_defect_model --checkpoint checkpoints/parts \\
        --image_dir dataset/parts/test --target_error 0.01

An exported file (.onnx) is run in ONNX Runtime, with the calibration that it holds.

Writes a mask and a picture (image, mask, where the network looked, probabilities) for each image,
and for the folder predictions.csv, metrics.json and report.html. Confidences are calibrated on the
valid/ of the training's data set, by the training itself. Where the sub-folders are kinds,
predictions are compared with them, and masks with those of the data set.
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
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from arguments import add_true_or_false, whole_number
from classifier.confidence_flags import add_average_flips, add_confidence
from classifier.defect_data import describe_unused
from classifier.folder_images import FolderImage, ReadImage, list_folder_images
from classifier.loaded_classifier import LoadedClassifier, load_classifier
from classifier.metrics import MASK_THRESHOLD
from classifier.onnx_classifier import load_onnx_classifier
from classifier.prediction_figures import COLUMNS, prediction_rows, summarize
from classifier.prediction_pictures import draw_panels, draw_prediction, embedded
from classifier.prediction_report import choose_shown, write_prediction_report
from classifier.predictions import (
    ImagePrediction,
    Limits,
    Maps,
    choose_limits,
    predict_images,
)
from common.command_parser import command_parser, group_flags
from common.device import choose_device
from common.errors import UserError, run_command
from common.notes import warn
from common.numbers import three_digits
from data.folder import truth_without_strip
from reporting.output_folder import PANELS_ENDING, results_in, strip_file
from reporting.pictures import save_png
from reporting.scored_folder import REPORT, make_output_folder, require_output_elsewhere
from reporting.tables import write_json, write_table

PREDICTIONS, METRICS = "predictions.csv", "metrics.json"
MASK_ENDING = "_mask.png"
FLAG_GROUPS = {
    "what to classify, and with what": "checkpoint image_dir image use_labels average_flips",
    "results": "output_dir pictures_per_kind",
    "confidence": "data_root target_error target_unknown",
    "machine": "gpu_id batch_size",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="file that the training left, or its folder: then the best by accuracy; or an "
        "exported file (.onnx)",
    )
    parser.add_argument("--image_dir", type=Path, help="folder of images")
    parser.add_argument("--image", type=Path, help="one image")
    add_true_or_false(
        parser,
        "--use_labels",
        "take sub-folders as labels and masks beside the folder as truth",
    )
    add_average_flips(parser)
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("./output/classifier"),
        help="folder for predictions, masks, pictures and the report",
    )
    parser.add_argument(
        "--pictures_per_kind",
        type=whole_number(0),
        help="draw pictures of the first so many images of each predicted kind; default: of all",
    )
    add_confidence(
        parser,
        "an image is unsure below the confidence that this share of mistakes needs; "
        "default: no image is",
    )
    parser.add_argument(
        "--gpu_id", type=whole_number(-1), help="-1: CPU; default: the first GPU, else the CPU"
    )
    parser.add_argument(
        "--batch_size", type=whole_number(1), default=32, help="images that are looked at together"
    )
    group_flags(parser, FLAG_GROUPS)
    parsed = parser.parse_args(arguments)
    if (parsed.image is None) == (parsed.image_dir is None):
        parser.error("found neither or both of --image and --image_dir, expected one of them")
    return parsed


@dataclass
class ImageWriter:
    """Writes an image's mask and picture; pictures of the first `most` of each predicted kind."""

    output_dir: Path
    kinds: tuple[str, ...]
    most: int | None

    def __post_init__(self):
        self._drawn: Counter[int] = Counter()

    def __call__(self, prediction: ImagePrediction, read: ReadImage, maps: Maps | None) -> None:
        relative = prediction.image.relative
        if maps:
            mask = ((maps.mask > MASK_THRESHOLD) * 255).astype(np.uint8)
            save_png(strip_file(self.output_dir, relative, MASK_ENDING), mask)
        self._drawn[prediction.predicted] += 1
        if self.most is None or self._drawn[prediction.predicted] <= self.most:
            panels = draw_panels(read.original, read.mask, maps)
            sheet = draw_prediction(prediction, panels, self.kinds)
            save_png(strip_file(self.output_dir, relative, PANELS_ENDING), sheet)


def infer(arguments: argparse.Namespace) -> int:
    """Classify the images and return the exit code: 1 when some could not be used, else 0.

    Raises `UserError` when the checkpoint or the device cannot be used, or no image can.
    """
    place, output_dir = arguments.image or arguments.image_dir, arguments.output_dir
    if arguments.image_dir:
        require_output_elsewhere(output_dir, [place], "image")
    if arguments.image and not place.is_file():
        raise UserError(f"--image {place}: found no such file, expected an image")
    classifier = load(
        arguments.checkpoint, arguments.data_root, arguments.gpu_id, arguments.average_flips
    )
    images = list_folder_images(place, arguments.use_labels, classifier.kinds)
    limits, warnings = choose_limits(classifier, arguments.target_error, arguments.target_unknown)
    if arguments.use_labels:
        warnings += describe_unused(truth_without_strip(place))
    for warning in warnings:
        warn(warning)
    print(f"{classifier.name} on {classifier.shown['device']}, images of {place}")
    make_output_folder(output_dir)
    masks = [strip_file(Path(), one.relative, MASK_ENDING).as_posix() for one in images]
    problems: list[str] = []
    with results_in(output_dir, images, (PREDICTIONS, METRICS, REPORT, *masks)):
        writer = ImageWriter(output_dir, classifier.kinds, arguments.pictures_per_kind)
        predictions = predict_images(
            classifier, images, limits, arguments.batch_size, writer, problems
        )
        if not predictions:
            raise UserError(
                f"{place}: none of {len(images)} images could be used; the first: {problems[0]}"
            )
        warnings += _resize_warnings(classifier, predictions)
        summary = _write_results(
            arguments, place, classifier, predictions, limits, warnings, problems
        )
    for line in describe(summary):
        print(line)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(
        f"{len(predictions)} of {len(images)} images classified: predictions, masks and pictures "
        f"are in {output_dir}; next: open {output_dir / REPORT} in a browser"
    )
    return 1 if problems else 0


def _write_results(
    arguments: argparse.Namespace,
    place: Path,
    classifier: LoadedClassifier,
    predictions: list[ImagePrediction],
    limits: Limits,
    warnings: list[str],
    problems: list[str],
) -> dict[str, Any]:
    """Write the tables and the report of the folder; returns the content of metrics.json."""
    output_dir, kinds = arguments.output_dir, classifier.kinds
    targets = {name: getattr(arguments, name) for name in ("target_error", "target_unknown")}
    summary = summarize(predictions, kinds, classifier.calibration, limits, targets, problems)
    columns = (*COLUMNS, *(f"p_{kind}" for kind in kinds))
    write_table(output_dir / PREDICTIONS, columns, prediction_rows(predictions, kinds))
    write_json(output_dir / METRICS, summary)
    figures = _figures(classifier, predictions, limits, arguments.batch_size)
    subject = {
        "model": classifier.name,
        "images": str(place.absolute()),
        "classified": datetime.now().astimezone().isoformat(" ", timespec="minutes"),
    }
    settings = classifier.shown | {"target_unknown": f"{arguments.target_unknown:g}"}
    write_prediction_report(
        output_dir / REPORT, predictions, kinds, summary, figures, subject, settings, warnings
    )
    return summary


def _resize_warnings(classifier: LoadedClassifier, predictions: list[ImagePrediction]) -> list[str]:
    """A warning, which is printed, where images had to be resized."""
    resized = sum(one.size != classifier.image_size for one in predictions)
    if not resized:
        return []
    height, width = classifier.image_size
    line = (
        f"{resized} images have another size than the {height}\N{MULTIPLICATION SIGN}{width} that "
        "the network takes, and were resized for it"
    )
    warn(line)
    return [line]


def load(
    path: Path, data_root: Path | None, gpu_id: int | None, averages_flips: bool = False
) -> LoadedClassifier:
    """Load a checkpoint or an exported file. Raises `UserError` where it cannot be used."""
    if path.suffix.lower() != ".onnx":
        return load_classifier(path, data_root, choose_device(gpu_id), averages_flips)
    if averages_flips:
        raise UserError(
            f"--average_flips: found {path}, which averages or not as it was exported, "
            "expected a checkpoint"
        )
    if data_root:
        raise UserError(
            f"--data_root {data_root}: found an exported file, which holds its calibration, "
            "expected none"
        )
    return load_onnx_classifier(path, is_on_cpu=gpu_id == -1)


def _figures(
    classifier: LoadedClassifier, predictions: list[ImagePrediction], limits: Limits, batch: int
) -> dict[Path, dict[str, object]]:
    """The report's pictures by their image, which are looked at once more."""
    figures: dict[Path, dict[str, object]] = {}

    def keep(prediction: ImagePrediction, read: ReadImage, maps: Maps | None) -> None:
        panels = draw_panels(read.original, read.mask, maps)
        figures[prediction.image.relative] = embedded(panels)

    chosen: list[FolderImage] = [
        one.image for shown in choose_shown(predictions).values() for one in shown
    ]
    predict_images(classifier, chosen, limits, batch, keep, [])
    return figures


def describe(summary: dict[str, Any]) -> list[str]:
    """The lines that the command prints of metrics.json."""
    counts = ", ".join(f"{kind} {count}" for kind, count in summary["predicted"].items())
    statuses = ", ".join(f"{count} {name}" for name, count in summary["statuses"].items())
    names = ("accuracy", "balanced_accuracy", "image_auroc", "iou", "dice", "good_masked")
    figures = [
        f"{name} {three_digits(summary[name])}" for name in names if summary[name] is not None
    ]
    error = summary["calibration"]["expected_calibration_error"]
    figures += [] if error is None else [f"calibration error {three_digits(error)}"]
    return [f"predicted: {counts}; {statuses}", *([", ".join(figures)] if figures else [])]


if __name__ == "__main__":
    sys.exit(run_command(lambda: infer(parse_args())))
