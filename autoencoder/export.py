"""Export models of pictures as one ONNX file, and prove that it agrees with PyTorch.

    # the newest best checkpoint, for pictures of the held-out ones' size
    python -m autoencoder.export

    # an ensemble with three scales; a uint8 input
    python -m autoencoder.export --models A_best.pth B_best.pth --windows 128 256 512 \\
        --input uint8 --output_path onnx_models/autoencoder/ensemble.onnx

    # a picture size of its own, compared with PyTorch on real defective pictures, too
    python -m autoencoder.export --image_size 976 176 --test_path /data/parts/test

The file holds everything: windows, networks, library, z-scores, smoothing, the score and the
verdict. Its input is `input` (B, C, H, W), float32 0-1 unless --input says otherwise, and its
outputs are `heatmap` (B, 1, H, W), `score` (B,), `cluster` (B,) and `verdict` (B,). The file gets
its name only after ONNX Runtime and PyTorch agreed on the CPU to 1e-4.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import glob
import math
import sys
from pathlib import Path

import numpy as np
import torch

from arguments import ONNX_FOLDER, whole_number
from autoencoder.clusters import titled
from autoencoder.held_out import HeldOut
from autoencoder.loaded import Loaded, calibrate, load_scorers
from autoencoder.model import TOOL
from autoencoder.onnx_metadata import make_entries
from autoencoder.picture_graph import OUTPUTS, PictureGraph
from autoencoder.picture_parity import prove_picture_parity
from autoencoder.pseudo_defects import PseudoDefects
from autoencoder.score_flags import SCORE_GROUPS, add_score_flags
from common.command_parser import command_parser, group_flags
from common.errors import UserError, prefix_errors, run_command
from common.files import atomic_write, file_hash, remove_partial_files
from common.mlflow_store import require_mlflow
from data.image_headers import require_decodable
from data.picture_channels import COUNTS
from data.pictures import list_pictures, read_picture
from deploy.export_module import INPUTS, UINT8_MAX
from deploy.flags import add_image_size, add_input
from deploy.metadata import format_table, write_entries
from deploy.model_registry import add_registry, register
from deploy.onnx_export import FIRST_DYNAMO_OPSET, inspect_file, write_graph
from deploy.parity import BATCHES, PARITY, PARITY_SEED
from reporting.scored_folder import require_output_elsewhere
from training.checkpoint import name_of_run
from training.run_folder import TRACKED_SUFFIX

DEFAULT_OPSET = FIRST_DYNAMO_OPSET
CPU = torch.device("cpu")
FLAG_GROUPS = {
    "from and to": "models library output_path mlflow model_name",
    "the file's input and outputs": "input image_size opset_version",
    **{title: flags for title, flags in SCORE_GROUPS.items() if title != "models"},
    "proof of parity": "test_path",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_score_flags(parser)
    parser.add_argument(
        "--output_path",
        type=Path,
        default=ONNX_FOLDER / TOOL,
        help="NAME.onnx, or a folder for a file named after the first model",
    )
    add_input(parser)
    add_image_size(
        parser,
        "no picture is longer",
        "height and width of the pictures in pixels; default: those of the held-out ones",
    )
    parser.add_argument(
        "--opset_version",
        type=whole_number(FIRST_DYNAMO_OPSET),
        default=DEFAULT_OPSET,
        help=f"ONNX opset: {FIRST_DYNAMO_OPSET} to the newest that PyTorch writes",
    )
    parser.add_argument(
        "--test_path",
        type=Path,
        help="defective pictures to compare the file with PyTorch on; default: painted ones",
    )
    add_registry(parser, "the first model's name")
    group_flags(parser, FLAG_GROUPS)
    return parser.parse_args(arguments)


def export(arguments: argparse.Namespace) -> Path:
    """Write the ONNX file and return its path.

    Raises `UserError`, and writes nothing, when the flags contradict each other, when a model or
    picture cannot be used, when the file would lie among the pictures, or when it disagrees with
    PyTorch.
    """
    require_mlflow(arguments.mlflow)
    loaded = load_scorers(arguments, CPU)
    output_path = arguments.output_path
    if output_path.suffix != ".onnx":
        output_path = output_path / f"{loaded.files[0].stem}.onnx"
    read = [entry.training_dataset_path for entry in loaded.learned]
    with prefix_errors("--output_path"):
        require_output_elsewhere(
            output_path.parent, [*read, arguments.good_path, arguments.test_path], "picture"
        )
    input_max, channels = loaded.input_max, COUNTS[loaded.channels]
    if arguments.input == "uint8" and input_max != UINT8_MAX:
        raise UserError(
            f"--input uint8: found a camera up to {input_max:g}, expected one up to {UINT8_MAX:g}"
        )
    held_out, good = calibrate(loaded, arguments)
    size = choose_size(arguments.image_size, held_out, channels)
    graph = PictureGraph(loaded.scorers.of(size), arguments.input, input_max).eval()
    target, opset = arguments.target_false_alarms, arguments.opset_version
    found = good.thresholds(target)
    thresholds = [threshold.value for threshold in found]
    entries = make_entries(graph, good, target, source_entries(loaded), channels, input_max, opset)
    pictures = parity_pictures(held_out, arguments.test_path, size, loaded)
    print("writing the graph: this takes about a minute with several scales", flush=True)
    remove_partial_files(output_path.parent, glob.escape(output_path.name))
    with atomic_write(output_path) as temporary:
        example = torch.zeros(2, channels, *size, dtype=INPUTS[arguments.input])
        write_graph(graph, example, opset, temporary, OUTPUTS, thresholds)
        report = inspect_file(temporary, opset)
        parity = prove_picture_parity(graph, temporary, pictures, input_max, thresholds)
        write_entries(temporary, entries | {"parity": parity[PARITY]})
    print(format_table(report | parity))
    for name, threshold in zip(good.names, found):
        of_cluster = f"{titled(name)}: " if len(found) > 1 else ""
        print(f"{of_cluster}{threshold.describe()}")
    if arguments.mlflow is not None:
        first = loaded.files[0]
        name = name_of_run(first.name)
        note = first.with_name(f"{name}{TRACKED_SUFFIX}")
        register(arguments.mlflow, output_path, arguments.model_name or name, note)
    return output_path


def choose_size(asked: list[int] | None, held_out: HeldOut, channels: int) -> tuple[int, int]:
    """The size (height, width) that was asked for, or that of all held-out pictures.

    Raises `UserError` where they differ, and for a size that no file has.
    """
    if asked:
        with prefix_errors("--image_size"):
            require_decodable(math.prod(asked) * channels, tuple(asked))
        return tuple(asked)
    sizes = held_out.sizes()
    if len(sizes) > 1:
        raise UserError(
            f"--image_size: found none, and held-out pictures of {len(sizes)} sizes, such as "
            f"{sizes[0]} and {sizes[-1]} (height, width), expected one size for the file"
        )
    return sizes[0]


def source_entries(loaded: Loaded) -> dict[str, str]:
    """The entries of metadata on what the file was made from."""
    return {
        "models": " ".join(path.name for path in loaded.files),
        "models_sha256": " ".join(map(file_hash, loaded.files)),
        "training_dataset_path": str(loaded.learned[0].training_dataset_path),
    }


def parity_pictures(
    held_out: HeldOut, test_path: Path | None, size: tuple[int, int], loaded: Loaded
) -> dict[str, np.ndarray]:
    """Batches (B, C, H, W) of good and of defective pictures, grey levels 0-255, to compare on.

    Pictures of another size than the file's are repeated or cut. Without `test_path`, defects are
    painted. Raises `UserError` for a picture that cannot be used.
    """
    count = max(BATCHES)
    files = held_out.pictures
    good = [
        fit(read_picture(files[number * len(files) // count], loaded.input_max)[0], size)
        for number in range(count)
    ]
    if test_path is None:
        generator, defects = np.random.default_rng(PARITY_SEED), PseudoDefects()
        defective = [defects.paint(image, generator)[0] for image in good]
    else:
        listed = list_pictures(test_path, None, use_masks=False, channels=loaded.channels)
        listed = [picture for picture in listed if picture.is_defective is not False] or listed
        defective = [
            fit(read_picture(listed[number * len(listed) // count], loaded.input_max)[0], size)
            for number in range(count)
        ]
    return {"good": np.stack(good), "defective": np.stack(defective)}


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (C, H, W) of another size, mirrored beyond its edges or cut."""
    missing = [max(0, length - own) for length, own in zip(size, image.shape[1:])]
    image = np.pad(image, ((0, 0), (0, missing[0]), (0, missing[1])), "symmetric")
    return np.ascontiguousarray(image[:, : size[0], : size[1]])


def main() -> int:
    path = export(parse_args())
    print(f"the model is in {path}; next: python inference_onnx.py --model_path '{path}'")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
