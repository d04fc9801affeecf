"""Score a folder of strips with a checkpoint.

    # the newest best checkpoint, on the test strips of the data set that it was trained on
    python inference_pytorch.py

    # a given checkpoint and folder
    python inference_pytorch.py --model_path checkpoints/RUN_best.pth \\
        --test_path /data/strips/test --output_dir output/mine

    # a classical baseline, which needs no model
    python inference_pytorch.py --method smoothed --test_path /data/strips/test \\
        --good_path /data/strips/good

Writes the heatmap (float32 TIFF) and a picture of seven panels for each strip. For the folder it
writes verdicts (scores.csv), detections (.csv and .json), metrics (metrics.json) and a report
(report.html).
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from dataclasses import replace

from arguments import (
    CHECKPOINT_FOLDER,
    add_test_folder,
    default_test_path,
    newest,
    parse_scoring,
    require_as_asked,
    whole_number,
)
from common.command_parser import command_parser
from common.device import choose_device
from common.errors import run_command
from common.locations import location_of, path_or_url, with_urls
from common.settings import from_values
from evaluation.detector import Detector
from evaluation.predictors import TorchPredictor
from reporting.remote_scoring import takes_urls
from reporting.score_folder import ScoringSettings, score_folder, score_without_model
from training.checkpoint import BEST_SUFFIX, build_network, load_checkpoint, model_info


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--model_path",
        type=path_or_url,
        default=CHECKPOINT_FOLDER,
        help="checkpoint, or a folder whose newest best checkpoint is used",
    )
    parser.add_argument(
        "--gpu_id", type=whole_number(-1), help="-1: CPU; default: the first GPU, else the CPU"
    )
    add_test_folder(parser, "./output/pytorch")
    return parse_scoring(parser, arguments)


@takes_urls
def infer(arguments: argparse.Namespace) -> int:
    """Score the folder and return the exit code: 1 when some strips could not be used, else 0.

    Raises `UserError` when the model or the device cannot be used, or no strip can.
    """
    device = choose_device(arguments.gpu_id)
    if arguments.method != "net":
        return score_without_model(from_values(ScoringSettings, vars(arguments)), device)
    path = newest(arguments.model_path, f"*{BEST_SUFFIX}")
    content = load_checkpoint(path)
    info = replace(model_info(content), image_size=None)  # strips of any size
    require_as_asked(arguments, info, path)
    network = build_network(content, path)
    ignores_missing = arguments.missing == "ignore"
    info = replace(info, ignores_missing=ignores_missing)
    predictor = TorchPredictor(
        network, info.patch, device, info.align, info.weighting, ignores_missing
    )
    folder = arguments.test_path or default_test_path(info.training_dataset_path, path)
    print(with_urls(f"{path} on {device}, strips of {folder}"))
    detector = Detector(location_of(path), predictor, info, device)
    return score_folder(detector, folder, from_values(ScoringSettings, vars(arguments)))


if __name__ == "__main__":
    sys.exit(run_command(lambda: infer(parse_args())))
