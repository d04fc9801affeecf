"""The flags of export_onnx_fullimage.py."""

import argparse

from arguments import (
    CHECKPOINT_FOLDER,
    ONNX_FOLDER,
    camera_range,
    from_0_to_1,
    whole_number,
)
from common.command_parser import group_flags
from common.locations import path_or_url
from deploy.export_module import INPUT_CHANNELS, OUTPUTS
from deploy.flags import add_image_size, add_input
from deploy.model_registry import add_registry
from deploy.precision import PRECISIONS
from deploy.precision_gate import TARGETS
from model import EXPORT_MODES
from ops.candidates import CANDIDATES
from ops.classical import METHODS

DEFAULT_OPSET = 18
FLAG_GROUPS = {
    "from and to": "checkpoint_path method output_path skip_existing describe mlflow model_name",
    "the file's input and outputs": "input input_channels input_max image_size mode places "
    "outputs missing opset_version",
    "threshold": "good_path",
    "lower precision": "precision calibration_path target max_recall_drop force",
    "proof of parity": "test_path",
}


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags, in their groups."""
    parser.add_argument(
        "--checkpoint_path",
        type=path_or_url,
        default=CHECKPOINT_FOLDER,
        help="checkpoint, or a folder whose newest best checkpoint is used",
    )
    parser.add_argument(
        "--method",
        choices=["net", *METHODS],
        default="net",
        help="net: the checkpoint; otherwise a classical baseline",
    )
    parser.add_argument(
        "--output_path",
        type=path_or_url,
        default=ONNX_FOLDER,
        help="NAME.onnx, or a folder for a file named after the model",
    )
    parser.add_argument(
        "--opset_version",
        type=int,
        default=DEFAULT_OPSET,
        help="ONNX opset: 11 to the newest that PyTorch writes",
    )
    add_image_size(
        parser,
        "no TIFF of a line camera is longer",
        "height and width of the strips in pixels; default: as trained",
    )
    add_input(parser)
    parser.add_argument(
        "--input_channels",
        type=int,
        choices=INPUT_CHANNELS,
        default=3,
        help="channels of a strip; 4: the last one is ignored",
    )
    parser.add_argument(
        "--mode",
        choices=EXPORT_MODES,
        default="tiles",
        help="tiles: as in training; whole: the strip in one piece; points: only where points "
        "are likely, for a model trained with --align",
    )
    parser.add_argument(
        "--places",
        type=whole_number(1),
        default=CANDIDATES,
        help="with --mode points: places of a strip that the network looks at",
    )
    parser.add_argument(
        "--outputs",
        type=comma_separated,
        default="heatmap",
        metavar="NAME,...",
        help=f"outputs of the file: some of {', '.join(OUTPUTS)}",
    )
    parser.add_argument(
        "--missing",
        choices=("report", "ignore"),
        default="report",
        help="ignore: the heatmap is 0 on points that both references have and Target lacks",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16 for a GPU, int8 for a CPU; refused if it is worse than fp32",
    )
    parser.add_argument(
        "--calibration_path",
        type=path_or_url,
        help="strips to measure the ranges of int8 on; default: generated strips",
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        help="device where fp16 or int8 must be faster; default: fp16 cuda, int8 cpu",
    )
    parser.add_argument(
        "--max_recall_drop",
        type=from_0_to_1,
        default=0.01,
        help="largest share of true points, 0 to 1, that fp16 or int8 may lose",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write fp16 or int8 even if it loses more, or is not faster",
    )
    parser.add_argument(
        "--good_path", type=path_or_url, help="folder of good strips to set a new threshold on"
    )
    parser.add_argument(
        "--input_max",
        type=camera_range,
        help="largest pixel value of the camera; for a --method without a model",
    )
    parser.add_argument(
        "--test_path",
        type=path_or_url,
        help="strips to compare the file with PyTorch on; default: generated strips",
    )
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="do nothing when the file exists and was exported in the same way",
    )
    parser.add_argument(
        "--describe",
        type=path_or_url,
        metavar="FILE",
        help="print an ONNX file's metadata, and export nothing",
    )
    add_registry(parser, "the run's name, or that of --method")
    group_flags(parser, FLAG_GROUPS)


def comma_separated(text: str) -> tuple[str, ...]:
    """Parse --outputs into names in the order of OUTPUTS; the heatmap is always included.

    Raises `argparse.ArgumentTypeError` for an unknown name.
    """
    names = text.split(",")
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"found {unknown[0]!r}, expected some of {','.join(OUTPUTS)}"
        )
    return tuple(name for name in OUTPUTS if name in names or name == "heatmap")
