"""Export a trained classifier as one ONNX file, and prove that it agrees with PyTorch.

    # the best checkpoint of a folder
    python -m classifier.export_defect_model --checkpoint checkpoints/parts \\
        --output_path onnx_models/parts.onnx
    # a uint8 input, and the confidence that one mistake in a hundred needs in the metadata
    python -m classifier.export_defect_model --checkpoint checkpoints/parts --input uint8 \\
        --target_error 0.01 --output_path onnx_models/parts.onnx

The file holds everything: normalization, network, temperature, and what is known. Its input is
`input` (B, C, H, W), float32 0-1 unless --input says otherwise. Its outputs are `probabilities`
(B, K), `mask` (B, 1, H, W), `attention` (B, h, w) and `distance` (B,), as far as the network has
them. Names of the kinds and limits are in the metadata. The file gets its name only after ONNX
Runtime and PyTorch agreed on the CPU to 1e-4.
"""

if __name__ == "__main__":
    if not __package__:  # started as a file: modules are found beside this file's folder
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import glob
import sys
from pathlib import Path

import numpy as np
import torch

from arguments import ONNX_FOLDER, whole_number
from classifier.confidence_flags import add_average_flips, add_confidence
from classifier.defect_data import list_labelled
from classifier.defect_samples import LabelledImages
from classifier.export_parity import prove_classifier_parity
from classifier.loaded_classifier import CalibratedModel, load_calibrated
from classifier.onnx_metadata import make_entries
from classifier.run_files import DefectRunFolder
from common.command_parser import command_parser, group_flags
from common.errors import UserError, run_command
from common.files import atomic_write, remove_partial_files
from common.mlflow_store import require_mlflow
from deploy.export_module import INPUTS, UINT8_MAX
from deploy.flags import add_input
from deploy.metadata import format_table, write_entries
from deploy.model_registry import add_registry, register
from deploy.onnx_export import FIRST_DYNAMO_OPSET, OLDEST_OPSET, inspect_file, write_graph
from deploy.parity import BATCHES, PARITY
from training.run_folder import TRACKED_SUFFIX

FLAG_GROUPS = {
    "from and to": "checkpoint output_path mlflow model_name",
    "the file's input and answer": "input average_flips",
    "format": "opset_version",
    "confidence": "data_root target_error target_unknown",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="file that the training left, or its folder: then the best by accuracy",
    )
    parser.add_argument(
        "--output_path",
        type=Path,
        default=ONNX_FOLDER / "classifier",
        help="NAME.onnx, or a folder for a file named after the checkpoint",
    )
    add_input(parser)
    add_average_flips(parser)
    parser.add_argument(
        "--opset_version",
        type=whole_number(OLDEST_OPSET),
        default=FIRST_DYNAMO_OPSET,
        help="ONNX opset: 18 is proved for every backbone, an older one where it can be written",
    )
    add_confidence(
        parser,
        "share of mistakes that the lowest confidence in the metadata is set for; "
        "default: there is none",
    )
    add_registry(parser, "the run's folder")
    group_flags(parser, FLAG_GROUPS)
    return parser.parse_args(arguments)


def export(arguments: argparse.Namespace) -> Path:
    """Write the ONNX file and return its path.

    Raises `UserError`, and writes nothing, when the checkpoint cannot be used, when the opset
    cannot be written, or when the file disagrees with PyTorch.
    """
    require_mlflow(arguments.mlflow)
    calibrated = load_calibrated(
        arguments.checkpoint, arguments.data_root, torch.device("cpu"), arguments.average_flips
    )
    model, opset = calibrated.model, arguments.opset_version
    if arguments.input == "uint8" and model.input_max != UINT8_MAX:
        raise UserError(
            f"--input uint8: found a camera up to {model.input_max:g}, "
            f"expected one up to {UINT8_MAX:g}"
        )
    if arguments.target_error is not None and calibrated.fitted is None:
        raise UserError(
            f"--target_error {arguments.target_error:g}: found no held-out images to set it on, "
            "expected --data_root FOLDER of a data set with valid/"
        )
    graph = calibrated.graph(arguments.input)
    targets = {name: getattr(arguments, name) for name in ("target_error", "target_unknown")}
    entries = make_entries(calibrated, graph, targets, opset)
    output_path = arguments.output_path
    if output_path.suffix != ".onnx":
        output_path = output_path / f"{model.path.stem}.onnx"
    shape = (model.channels, *model.image_size)
    remove_partial_files(output_path.parent, glob.escape(output_path.name))
    with atomic_write(output_path) as temporary:
        example = torch.zeros(2, *shape, dtype=INPUTS[arguments.input])
        write_graph(graph, example, opset, temporary, graph.outputs)
        report = inspect_file(temporary, opset)
        images = parity_images(calibrated)
        parity = prove_classifier_parity(graph, temporary, images, shape, model.input_max)
        write_entries(temporary, entries | {"parity": parity[PARITY]})
    print(format_table(report | parity))
    if arguments.mlflow is not None:
        run = DefectRunFolder(model.path.parent)
        name = arguments.model_name or run.title
        register(arguments.mlflow, output_path, name, run.file(TRACKED_SUFFIX))
    return output_path


def parity_images(calibrated: CalibratedModel) -> np.ndarray | None:
    """Images (B, C, H, W) of valid/, grey levels 0-255, to compare on; None without a data set."""
    if calibrated.root is None:
        return None
    model, pictures = calibrated.model, list_labelled(calibrated.root, "valid")
    if not pictures:
        return None
    images = LabelledImages(pictures, model.input_max, model.channels, model.image_size, True, 0)
    count = max(BATCHES)
    return np.stack([images[number * len(images) // count][0] for number in range(count)])


def main() -> int:
    path = export(parse_args())
    print(
        f"the model is in {path}; next: "
        f"python -m classifier.inference_defect_model --checkpoint '{path}'"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
