"""Score a folder of strips with an ONNX file, one call of ONNX Runtime per strip.

    python inference_onnx.py                                     # newest file, test strips of the data set that it is from
    python inference_onnx.py --model_path onnx_models/RUN_best.onnx --test_path /data/strips/test --output_dir output/mine

Writes for every strip its heatmap (float32 TIFF) and a picture of seven panels, and for all of them verdicts (scores.csv),
detections (.csv and .json), figures (metrics.json) and a report (report.html).
"""

import argparse
import sys
from errors import run_command
from pathlib import Path

from command_line import (
    ONNX_FOLDER,
    add_test_folder,
    command_parser,
    default_test_path,
    newest,
    parse_scoring,
    require_as_asked,
)
from distributed import choose_device
from predictors import OnnxPredictor
from scoring import Detector, score_folder, score_without_model


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--model_path", type=Path, default=ONNX_FOLDER, help="ONNX file, or a folder for its newest one")
    add_test_folder(parser, "./output/onnx")
    return parse_scoring(parser, arguments)


def infer(arguments: argparse.Namespace) -> int:
    """Score the folder; returns the exit code: 1 when some strips could not be used. Raises `UserError` when none could."""
    if arguments.method != "net":
        return score_without_model(arguments, choose_device(None))
    path = newest(arguments.model_path, "*.onnx")
    predictor = OnnxPredictor(path)
    description = predictor.description
    require_as_asked(arguments, description.image_type, description.input_max, path)
    folder = arguments.test_path or default_test_path(description.training_dataset_path, path)
    print(f"{path} on {predictor.device}, strips of {folder}")
    facts = (description.input_max, choose_device(None), description.patch, predictor.image_size)
    known = {"measured": description.measured, "trained_on": description.training_dataset_path}
    return score_folder(Detector(str(path), predictor, *facts, **known), folder, arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: infer(parse_args())))
