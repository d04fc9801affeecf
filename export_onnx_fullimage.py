"""Export a checkpoint as one ONNX file that takes whole strips, and prove that it answers like PyTorch.

    python export_onnx_fullimage.py                                             # newest best checkpoint, opset 18
    python export_onnx_fullimage.py --checkpoint_path checkpoints/RUN_best.pth --opset_version 11 --test_path /data/strips/test
    python export_onnx_fullimage.py --describe onnx_models/RUN_best.onnx       # what a file says of itself

The file's input is `input` (B, 3, H, W) float32 0-1, its output `output` (B, 3, H, W): defect probability, 0, 0. It is written to
./onnx_models only after ONNX Runtime gave the same heatmaps as PyTorch on the CPU, to 1e-4.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from errors import UserError, about, one_line, run_command
from pathlib import Path

import numpy as np
import onnx
import torch

from checkpoint import BEST_SUFFIX, build_network, load_checkpoint
from command_line import CHECKPOINT_FOLDER, ONNX_FOLDER, command_parser, newest, whole_number
from dataloader import load_image, to_unit_range
from dataset_folder import list_images
from demo_strips import make_strip
from files import replace_file
from gaussian import STRIP_DEFECTS_RANGE, paint_defects
from model import SegmentationNetworkONNXFullImage
from model_file import describe, read_description, shortened, table_of, write_entries
from onnx_session import open_session
from tiling import PATCH_SIZES

DEFAULT_OPSET = 18
OLDEST_OPSET = 11
FIRST_DYNAMO_OPSET = 18  # torch's newer exporter writes this and above, its TorchScript exporter what is older
TOLERANCE = 1e-4  # largest difference of probability between ONNX Runtime and PyTorch, both on the CPU
PARITY_BATCHES = (1, 3)
PARITY_SEED = 0
PARITY = "ONNX Runtime - PyTorch"  # the report's line with what was found


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--checkpoint_path", type=Path, default=CHECKPOINT_FOLDER, help="file, or a folder for its newest best one")
    parser.add_argument(
        "--output_path", type=Path, default=ONNX_FOLDER, help="NAME.onnx, or a folder for the checkpoint's name in it"
    )
    parser.add_argument("--opset_version", type=int, default=DEFAULT_OPSET, help="11 to the newest that torch writes")
    parser.add_argument(
        "--image_size", type=whole_number(1), nargs=2, metavar=("H", "W"), help="strip to export for; default: as trained"
    )
    parser.add_argument("--test_path", type=Path, help="strips to compare on; default: generated ones")
    parser.add_argument("--skip_existing", action="store_true", help="do nothing when the file already holds this checkpoint")
    parser.add_argument("--describe", type=Path, metavar="FILE", help="print what an ONNX file says of itself, and export nothing")
    return parser.parse_args(arguments)


def export(arguments: argparse.Namespace) -> Path:
    """Write the ONNX file and return its path. Raises `UserError`, and writes nothing, when anything about it is not as asked."""
    checkpoint_path = newest(arguments.checkpoint_path, f"*{BEST_SUFFIX}")
    content = load_checkpoint(checkpoint_path)
    output_path = arguments.output_path
    if output_path.suffix != ".onnx":
        output_path = output_path / f"{checkpoint_path.stem}.onnx"
    image_size = tuple(arguments.image_size or (content["img_height"], content["img_width"]))
    patch = PATCH_SIZES[content["image_type"]]
    network = build_network(content, checkpoint_path)
    entries = describe(checkpoint_path, content, network, image_size, arguments.opset_version)
    if arguments.skip_existing and holds(output_path, entries):
        output_path.touch()  # it is the newest again
        return output_path
    model = SegmentationNetworkONNXFullImage(network, image_size, patch, content["align"]).eval()
    strips = parity_strips(arguments.test_path, image_size, content["input_max"])
    with replace_file(output_path) as temporary:
        write_graph(model, image_size, arguments.opset_version, temporary)
        clean_graph(temporary)
        report = inspect_file(temporary, arguments.opset_version)
        parity = compare(model, temporary, strips)
        write_entries(temporary, entries | {"parity": parity[PARITY]})
        print(table_of(report | parity))
        if not content["calibration"]:
            print("no threshold is in the file, for want of one in the checkpoint: expected a run with held-out good strips")
    return output_path


def holds(path: Path, entries: dict[str, str]) -> bool:
    """Whether an ONNX file is there, is whole, and was exported from just this checkpoint for just this size and opset."""
    try:
        return entries.items() <= entries_of(path).items()
    except UserError:
        return False


def entries_of(path: Path) -> dict[str, str]:
    """What a file says of itself. Raises `UserError`, without the path, when ONNX Runtime cannot load it."""
    return open_session(path).get_modelmeta().custom_metadata_map


def write_graph(model: SegmentationNetworkONNXFullImage, image_size: tuple[int, int], opset: int, path: Path) -> None:
    """The graph alone, of just the opset that was asked for. Raises `UserError` when no exporter can write that one."""
    if opset < OLDEST_OPSET:
        raise UserError(f"--opset_version {opset}: expected {OLDEST_OPSET} or newer")
    use_dynamo = opset >= FIRST_DYNAMO_OPSET
    example = torch.zeros(2 if use_dynamo else 1, 3, *image_size)  # dynamo takes a batch of 1 for a constant
    batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if use_dynamo else {"dynamic_axes": {"input": {0: "batch"}}}
    options = {"input_names": ["input"], "output_names": ["output"], "external_data": False, "verbose": False, "dynamo": use_dynamo}
    try:
        with quiet_exporters(), torch.no_grad():
            torch.onnx.export(model, (example,), path, opset_version=opset, **batch, **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--opset_version {opset}: torch cannot write it ({one_line(error)})") from None


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keeps the exporters' warnings off the screen; what matters in them is checked in the file afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def clean_graph(path: Path) -> None:
    """Take the exporter's stack traces out, and say the output's sizes where the exporter left them open."""
    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    model.graph.output[0].type.CopyFrom(model.graph.input[0].type)
    onnx.save(model, path)


def inspect_file(path: Path, opset: int) -> dict[str, str]:
    """Check the file and describe it. Raises `UserError` when it is not valid or of another opset than `opset`."""
    model = onnx.load(path)
    written = {imported.domain or "ai.onnx": imported.version for imported in model.opset_import}
    if written != {"ai.onnx": opset}:
        raise UserError(f"--opset_version {opset}: torch wrote {written} instead")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"--opset_version {opset}: the file is not valid ONNX ({one_line(error)})") from None
    started = time.perf_counter()
    with about(f"--opset_version {opset}"):
        open_session(path)
    load_seconds = time.perf_counter() - started
    return {
        "opset": str(opset),
        "IR version": str(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}",
        "inputs": ", ".join(map(describe_value, model.graph.input)),
        "outputs": ", ".join(map(describe_value, model.graph.output)),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "nodes": f"{sum(node.op_type != 'Constant' for node in model.graph.node)} that are not constants",
        "load time (CPU)": f"{load_seconds:.2f} s",
    }


def describe_value(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = ", ".join(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
    return f"{value.name} ({sizes}) {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}"


def parity_strips(test_path: Path | None, image_size: tuple[int, int], input_max: float) -> np.ndarray:
    """Strips to compare on, (3, 3, H, W) float32 0-1: spread over `test_path`, else generated with painted defects.

    Raises `UserError` for strips of another size than `image_size`.
    """
    count = max(PARITY_BATCHES)
    if test_path is None:
        generator = np.random.default_rng(PARITY_SEED)
        strips = [make_strip(generator, image_size) for _ in range(count)]
        for strip in strips:
            paint_defects(strip, np.zeros(image_size, np.uint8), generator, STRIP_DEFECTS_RANGE)
        return to_unit_range(np.stack(strips))
    paths = list_images(test_path)
    strips = []
    for path in (paths[number * len(paths) // count] for number in range(count)):
        strips.append(load_image(path, input_max))
        if strips[-1].shape[1:] != image_size:
            raise UserError(f"{path}: found {strips[-1].shape[1:]} (height, width), expected {image_size}: see --image_size")
    return to_unit_range(np.stack(strips))


def compare(model: SegmentationNetworkONNXFullImage, path: Path, strips: np.ndarray) -> dict[str, str]:
    """ONNX Runtime against PyTorch, both on the CPU, on strips and on noise. Raises `UserError` beyond TOLERANCE."""
    session = open_session(path)
    noise = np.random.default_rng(PARITY_SEED).random(strips.shape, dtype=np.float32)
    differences, outputs = {}, []
    for name, images in (("strips", strips), ("noise", noise)):
        for batch in PARITY_BATCHES:
            answer = session.run(["output"], {"input": images[:batch]})[0]
            with torch.inference_mode():
                expected = model(torch.from_numpy(images[:batch])).numpy()
            differences[f"{name}, batch {batch}"] = float(np.abs(answer - expected).max())
            outputs.append(answer)
    channels = [np.concatenate([output[:, channel].ravel() for output in outputs]) for channel in range(3)]
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    if not all(value < TOLERANCE for value in differences.values()):  # so that NaN fails, too
        raise UserError(f"heatmaps differ from PyTorch's by {differences[worst]:.2g} on {worst}, expected less than {TOLERANCE:g}")
    return {
        "channel 0": f"from {channels[0].min():.3g} to {channels[0].max():.3g}",
        "channels 1 and 2": f"sums {channels[1].sum():g} and {channels[2].sum():g}",
        PARITY: ", ".join(f"{value:.1e} ({name})" for name, value in differences.items()),
    }


def main() -> int:
    arguments = parse_args()
    if arguments.describe:
        with about(arguments.describe):
            entries = entries_of(arguments.describe)
            read_description(entries)
        print(table_of(shortened(entries)))
        return 0
    path = export(arguments)
    print(f"the model is in {path}; next: python inference_onnx.py --model_path '{path}'")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
