"""Export a checkpoint as an ONNX file for whole strips, and prove that it agrees with PyTorch.

    # the newest best checkpoint, opset 18
    python export_onnx_fullimage.py

    # an older opset, compared with PyTorch on real strips
    python export_onnx_fullimage.py --checkpoint_path checkpoints/RUN_best.pth \\
        --opset_version 11 --test_path /data/strips/test

    # a uint8 input and further outputs; the strip is not cut into tiles
    python export_onnx_fullimage.py --input uint8 --outputs heatmap,score,detections --mode whole

    # a classical baseline
    python export_onnx_fullimage.py --method registered --test_path /data/strips/test \\
        --output_path registered.onnx

    # print a file's metadata
    python export_onnx_fullimage.py --describe onnx_models/RUN_best.onnx

The file's input is `input` (B, 3, H, W), float32 0-1, unless flags select another. Its first output
is `output` (B, 3, H, W): the defect probability and two channels of zeros. The file gets its name
in ./onnx_models only after ONNX Runtime and PyTorch agreed on the CPU to 1e-4.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import glob
import itertools
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from arguments import is_given
from common.command_parser import command_parser
from common.errors import UserError, failures_as_user_errors, prefix_errors, run_command
from common.files import atomic_write, remove_partial_files
from common.locations import written_place
from common.mlflow_store import require_mlflow
from common.notes import warn
from common.storage import fetch, join, list_objects, put
from data.image_files import load_image
from data.image_headers import require_decodable
from data.listing import list_images
from deploy.export_flags import add_export_flags
from deploy.export_module import INPUTS, StripGraph
from deploy.export_source import Source, check_flags, load_trained, make_classical
from deploy.metadata import (
    format_table,
    make_entries,
    read_metadata,
    shortened,
    write_entries,
)
from deploy.model_registry import register
from deploy.onnx_export import FIRST_DYNAMO_OPSET, inspect_file, write_graph
from deploy.onnx_file import GRAPH_HASH
from deploy.onnx_predictor import to_model_input
from deploy.parity import PARITY, compare_modes, parity_strips, prove_parity
from deploy.precision import PRECISIONS, in_half_precision, quantize
from deploy.precision_gate import compare_variant, generated_strips
from deploy.session import open_session
from deploy.summary import summarize
from model import SegmentationNetworkONNXFullImage
from ops.detector import AligningDetector
from reporting.remote_scoring import with_local_inputs
from training.checkpoint import name_of_run
from training.run_folder import TRACKED_SUFFIX

# strips to measure the ranges of int8 on, of 18 tiles each; more change no range that matters
CALIBRATION_STRIPS = 16
# flags that take URLs: whether the masks beside a folder belong to it
REMOTE_INPUTS = {
    **dict.fromkeys(("checkpoint_path", "describe"), False),
    **dict.fromkeys(("test_path", "good_path", "calibration_path"), True),
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_export_flags(parser)
    parsed = parser.parse_args(arguments)
    if parsed.method != "net" and is_given("--checkpoint_path", arguments):
        warn(
            f"--method {parsed.method} has no model: --checkpoint_path {parsed.checkpoint_path} is "
            "not used"
        )
    return parsed


def export(arguments: argparse.Namespace) -> Path:
    """Write the ONNX file and return its path.

    Raises `UserError`, and writes nothing, when the flags contradict each other, the file disagrees
    with PyTorch, or --precision is worse than fp32 and --force is not given.
    """
    if arguments.image_size:
        with prefix_errors("--image_size"):
            require_decodable(math.prod(arguments.image_size) * 3, tuple(arguments.image_size))
    source = load_trained(arguments) if arguments.method == "net" else make_classical(arguments)
    output_path = arguments.output_path
    if output_path.suffix != ".onnx":
        output_path = output_path / f"{source.name}.onnx"
    info, input_max = source.info, source.info.input_max
    check_flags(arguments, source)
    graph = make_graph(source.detector, arguments, source)
    channels, opset = arguments.input_channels, arguments.opset_version
    entries = make_entries(info, source.checkpoint, graph, channels, source.image_size, opset)
    if arguments.skip_existing and is_up_to_date(
        output_path, entries | {"precision": PRECISIONS[arguments.precision]}
    ):
        output_path.touch()  # commands that look for the newest file find this one
        return output_path
    strips = parity_strips(arguments.test_path, source.image_size, input_max, info.order)
    threshold = info.threshold().value
    remove_partial_files(output_path.parent, glob.escape(output_path.name))
    with atomic_write(output_path) as temporary:
        write_model(graph, arguments, source, threshold, temporary)
        report = inspect_file(temporary, opset)
        parity = prove_parity(graph, temporary, strips, channels, input_max, threshold)
        entries |= {"parity": parity[PARITY], "precision": PRECISIONS["fp32"]}
        write_entries(temporary, entries)
        print(format_table(report | parity | difference_of_modes(source, strips, threshold)))
        if arguments.precision != "fp32":
            write_variant(arguments, source, entries, threshold, temporary)
        if not info.calibration:
            print(
                "no threshold is in the file, because no good strips were held out: "
                "--good_path FOLDER sets one"
            )
    return output_path


def make_graph(
    detector: AligningDetector, arguments: argparse.Namespace, source: Source
) -> StripGraph:
    """The graph to export of a detector: that of `source`, or its copy in another precision."""
    info = source.info
    response = info.contrast_response(info.threshold().value)
    return StripGraph(detector, arguments.input, info.input_max, arguments.outputs, response).eval()


def write_model(
    graph: StripGraph, arguments: argparse.Namespace, source: Source, threshold: float, path: Path
) -> None:
    """Write the graph to `path`, without metadata."""
    if source.detector.align != "none" and arguments.opset_version >= FIRST_DYNAMO_OPSET:
        print(
            "writing the graph: with registration inside, this takes about twenty seconds",
            flush=True,
        )
    example = torch.zeros(
        2, arguments.input_channels, *source.image_size, dtype=INPUTS[arguments.input]
    )
    default = threshold if "detections" in graph.outputs else None
    write_graph(graph, example, arguments.opset_version, path, graph.output_names, default)


def write_variant(
    arguments: argparse.Namespace,
    source: Source,
    entries: dict[str, str],
    threshold: float,
    path: Path,
) -> None:
    """Replace a proven float32 file at `path` by its fp16 or int8 variant; print the comparison.

    Raises `UserError` when the variant is worse, unless --force is given.
    """
    precision, input_max = arguments.precision, source.info.input_max
    entries = entries | {"precision": PRECISIONS[precision]}
    with TemporaryDirectory() as folder:
        variant = Path(folder) / "variant.onnx"
        if precision == "fp16":
            half_graph = make_graph(in_half_precision(source.detector), arguments, source)
            write_model(half_graph, arguments, source, threshold, variant)
        else:
            quantize(path, variant, calibration_strips(arguments, source))
        write_entries(variant, entries)
        target = arguments.target or {"fp16": "cuda", "int8": "cpu"}[precision]
        comparison = compare_variant(
            path, variant, arguments.test_path, input_max, threshold, target
        )
        print(
            format_table(
                {
                    "precision": PRECISIONS[precision],
                    "file": f"{variant.stat().st_size / 1e6:.1f} MB",
                }
                | comparison.lines
            )
        )
        refusal = comparison.refusal(arguments.max_recall_drop)
        if refusal and not arguments.force:
            raise UserError(f"--precision {precision}: {refusal}; --force writes it anyway")
        gate = "; ".join(f"{name}: {text}" for name, text in comparison.lines.items())
        write_entries(variant, entries | {"gate": gate})
        shutil.copyfile(variant, path)


def calibration_strips(arguments: argparse.Namespace, source: Source) -> Iterator[np.ndarray]:
    """Yield up to CALIBRATION_STRIPS strips (1, C, H, W), as the file takes them.

    They are those of --calibration_path, or else generated strips.

    Raises `UserError` for a strip of another size than the file's.
    """
    input_max = source.info.input_max
    if arguments.calibration_path:
        images = (
            load_image(path, input_max, order=source.info.order)
            for path in list_images(arguments.calibration_path)[:CALIBRATION_STRIPS]
        )
    else:
        images = (
            image
            for image, _ in itertools.islice(
                generated_strips(source.image_size), CALIBRATION_STRIPS
            )
        )
    for image in images:
        if image.shape[1:] != source.image_size:
            raise UserError(
                f"--calibration_path: found {image.shape[1:]} (height, width), "
                f"expected {source.image_size}"
            )
        yield to_model_input(image[None], arguments.input, arguments.input_channels, input_max)


def difference_of_modes(source: Source, strips: np.ndarray, threshold: float) -> dict[str, str]:
    """Report lines that compare another mode with `tiles`; empty for a detector in tiles."""
    detector = source.detector
    if not isinstance(detector, SegmentationNetworkONNXFullImage) or detector.mode == "tiles":
        return {}
    tiles = SegmentationNetworkONNXFullImage(
        detector.patch_network.network,
        source.image_size,
        source.info.patch,
        detector.align,
        weighting=detector.weighting,
    )
    tiles.ignores_missing = detector.ignores_missing
    return compare_modes(detector, tiles.eval(), strips, threshold)


def is_up_to_date(path: Path, entries: dict[str, str]) -> bool:
    """Whether `path` is a readable ONNX file whose metadata include all `entries`.

    The entries identify the checkpoint and describe how it was exported. The file has to have the
    hash of its graph, too, which shows that nothing has changed in it since.
    """
    try:
        with failures_as_user_errors():
            found = read_entries(path)
    except UserError:
        return False
    return GRAPH_HASH in found and entries.items() <= found.items()


def read_entries(path: Path) -> dict[str, str]:
    """Read the metadata entries of an ONNX file, sorted by name.

    Raises `UserError`, without the path, when ONNX Runtime cannot load the file.
    """
    return dict(sorted(open_session(path).get_modelmeta().custom_metadata_map.items()))


def export_anywhere(arguments: argparse.Namespace) -> tuple[Path, Path | str]:
    """Export as `export`, from and to URLs, too.

    Returns the path of the file, and where it is for the user: the same, or its URL.
    """
    local, output = with_local_inputs(arguments, REMOTE_INPUTS), arguments.output_path
    if not isinstance(output, str):
        path = export(local)
        return path, path
    local.output_path = written_place(output)
    path = export(local)
    place = output if output.endswith(".onnx") else join(output, path.name)
    put(path, place)
    return path, place


def register_export(arguments: argparse.Namespace, path: Path) -> None:
    """Register the exported file, under the name of its run where --model_name gives no other.

    Raises `UserError` where MLflow fails.
    """
    entries, place = read_entries(path), str(arguments.checkpoint_path)
    name, note = arguments.method, None
    if entries["checkpoint"]:
        name = name_of_run(entries["checkpoint"])
        folder = place.removesuffix(entries["checkpoint"])
        notes = list_objects(join(folder, f"{name}{TRACKED_SUFFIX}"))
        note = fetch(notes[0]) if notes else None
    register(arguments.mlflow, path, arguments.model_name or name, note)


def main() -> int:
    arguments = parse_args()
    if arguments.describe:
        with prefix_errors(arguments.describe):
            entries = read_entries(with_local_inputs(arguments, REMOTE_INPUTS).describe)
            read_metadata(entries)
        print("\n".join([*summarize(entries, str(arguments.describe)), ""]))
        print(format_table(shortened(entries)))
        return 0
    require_mlflow(arguments.mlflow)
    path, place = export_anywhere(arguments)
    print(f"the model is in {place}; next: python inference_onnx.py --model_path '{place}'")
    if arguments.mlflow is not None:
        register_export(arguments, path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
