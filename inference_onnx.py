"""Score a folder of strips with an ONNX file in ONNX Runtime.

    # the newest file, on the test strips of the data set that it was trained on
    python inference_onnx.py

    # a given file and folder
    python inference_onnx.py --model_path onnx_models/RUN_best.onnx \\
        --test_path /data/strips/test --output_dir output/mine

    # on a GPU, with an error where there is none; eight strips per call
    python inference_onnx.py --device cuda --batch 8

    # show which devices this machine can compute on, and what is wrong with the others
    python inference_onnx.py --doctor

A file of `python -m autoencoder.export` is run as well: it scores pictures without references.

Writes the heatmap (float32 TIFF) and a picture of seven panels for each strip. For the folder it
writes verdicts (scores.csv), detections (.csv and .json), metrics (metrics.json) and a report
(report.html).
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from pathlib import Path

from arguments import (
    ONNX_FOLDER,
    add_test_folder,
    default_test_path,
    newest,
    parse_scoring,
    require_as_asked,
)
from autoencoder.model import TOOL
from autoencoder.onnx_pictures import score_with_onnx
from common.command_parser import command_parser
from common.errors import failures_as_user_errors, prefix_errors, run_command
from common.locations import path_or_url, with_urls
from common.settings import from_values
from deploy.doctor import diagnose
from deploy.flags import add_session
from deploy.onnx_file import read_file
from deploy.onnx_predictor import open_detector, torch_device
from deploy.session import SessionSettings
from reporting.remote_scoring import takes_urls
from reporting.score_folder import ScoringSettings, score_folder, score_without_model


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--model_path",
        type=path_or_url,
        default=ONNX_FOLDER,
        help="ONNX file, or a folder whose newest one is used",
    )
    add_test_folder(parser, "./output/onnx")
    add_session(
        parser, "--batch", 1, "CPU threads per call; default: that of ONNX Runtime, one per core"
    )
    parser.add_argument(
        "--cuda_graph",
        action="store_true",
        help="with --device cuda: record a call once as a CUDA graph and replay it",
    )
    parser.add_argument(
        "--doctor",
        action="store_true",
        help="show which devices this machine can compute on, and score nothing",
    )
    return parse_scoring(parser, arguments)


@takes_urls
def infer(arguments: argparse.Namespace) -> int:
    """Score the folder and return the exit code: 1 when some strips could not be used, else 0.

    With --doctor it returns the exit code of the diagnosis instead.

    Raises `UserError` when the model or the device cannot be used, or no strip can.
    """
    if arguments.doctor:
        return diagnose()
    if arguments.method != "net":
        return score_without_model(
            from_values(ScoringSettings, vars(arguments)), torch_device(arguments.device)
        )
    path = newest(arguments.model_path, "*.onnx")
    if tool_of(path) == TOOL:
        return score_with_onnx(path, arguments)
    settings = SessionSettings(
        arguments.device, arguments.batch, arguments.threads, arguments.cuda_graph
    )
    detector = open_detector(path, settings)
    require_as_asked(arguments, detector.info, path)
    folder = arguments.test_path or default_test_path(detector.info.training_dataset_path, path)
    placed = detector.predictor.placed
    print(with_urls(f"{path} on {placed.device} ({placed.why}), strips of {folder}"))
    with prefix_errors(path):
        detector.predictor.warm_up()
    return score_folder(detector, folder, from_values(ScoringSettings, vars(arguments)))


def tool_of(path: Path) -> str | None:
    """The tool that exported a file; None where the file does not say."""
    if not path.is_file():
        return None  # who opens it says so
    with prefix_errors(path), failures_as_user_errors():
        return read_file(path).get("tool")


if __name__ == "__main__":
    sys.exit(run_command(lambda: infer(parse_args())))
