"""Export a checkpoint as one ONNX file that takes whole strips, and prove that it answers like
PyTorch.

    python export_onnx_fullimage.py                                             # newest best checkpoint, opset 18
    python export_onnx_fullimage.py --checkpoint_path checkpoints/RUN_best.pth --opset_version 11 --test_path /data/strips/test
    python export_onnx_fullimage.py --input uint8 --outputs heatmap,score,detections --mode whole
    python export_onnx_fullimage.py --method registered --test_path /data/strips/test --output_path registered.onnx
    python export_onnx_fullimage.py --describe onnx_models/RUN_best.onnx       # what a file says of itself

The file's input is `input` (B, 3, H, W) float32 0-1 unless another one is asked for, its first
output `output` (B, 3, H, W): defect probability, 0, 0. It is written to ./onnx_models only after
ONNX Runtime gave the same as PyTorch on the CPU, to 1e-4.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import itertools
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from arguments import (
    CHECKPOINT_FOLDER,
    ONNX_FOLDER,
    command_parser,
    from_0_to_1,
    newest,
    positive,
    whole_number,
)
from common.errors import UserError, prefix_errors, run_command
from common.files import atomic_write
from data.folder import list_images
from data.ignored_regions import IgnoredRegions
from data.image_files import DEFAULT_INPUT_MAX, load_image
from deploy.export_module import INPUT_CHANNELS, INPUTS, OUTPUTS, UINT8_MAX, StripGraph
from deploy.metadata import (
    format_table,
    make_entries,
    read_metadata,
    shortened,
    write_entries,
)
from deploy.onnx_export import FIRST_DYNAMO_OPSET, inspect_file, write_graph
from deploy.onnx_predictor import to_model_input
from deploy.parity import PARITY, compare_modes, parity_strips, prove_parity
from deploy.precision import PRECISIONS, in_half_precision, quantize
from deploy.precision_gate import TARGETS, compare_variant, generated_strips
from deploy.session import open_session
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from model import EXPORT_MODES, SegmentationNetworkONNXFullImage
from ops.classical import METHODS
from ops.detector import AligningDetector
from reporting.score_folder import Detector, calibrated, classical
from training.checkpoint import BEST_SUFFIX, build_network, load_checkpoint, model_info

DEFAULT_OPSET = 18
CALIBRATION_STRIPS = 16  # of 18 tiles each: more move no range that matters


CPU = torch.device("cpu")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--checkpoint_path",
        type=Path,
        default=CHECKPOINT_FOLDER,
        help="file, or a folder for its newest best one",
    )
    parser.add_argument(
        "--method",
        choices=["net", *METHODS],
        default="net",
        help="the checkpoint, or a classical baseline",
    )
    parser.add_argument(
        "--output_path",
        type=Path,
        default=ONNX_FOLDER,
        help="NAME.onnx, or a folder for the usual name in it",
    )
    parser.add_argument(
        "--opset_version",
        type=int,
        default=DEFAULT_OPSET,
        help="11 to the newest that torch writes",
    )
    parser.add_argument(
        "--image_size",
        type=whole_number(1),
        nargs=2,
        metavar=("H", "W"),
        help="strip to export for; default: as trained",
    )
    parser.add_argument(
        "--input",
        choices=INPUTS,
        default="unit",
        help="unit: float32 0-1; raw: float32 up to input_max; uint8",
    )
    parser.add_argument(
        "--input_channels",
        type=int,
        choices=INPUT_CHANNELS,
        default=3,
        help="4: the last one is not looked at",
    )
    parser.add_argument(
        "--mode",
        choices=EXPORT_MODES,
        default="tiles",
        help="tiles as in training, or the whole strip in one piece",
    )
    parser.add_argument(
        "--outputs",
        type=comma_separated,
        default="heatmap",
        metavar="NAME,...",
        help=f"some of {', '.join(OUTPUTS)}",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16 for a GPU, int8 for a CPU: only if no worse",
    )
    parser.add_argument(
        "--calibration_path",
        type=Path,
        help="strips to measure int8's ranges on; default: generated ones",
    )
    parser.add_argument(
        "--target", choices=TARGETS, help="where fp16 or int8 is to be faster; default: cuda or cpu"
    )
    parser.add_argument(
        "--max_recall_drop",
        type=from_0_to_1,
        default=0.01,
        help="largest share of true points that fp16 or int8 may lose",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write fp16 or int8 even if it loses more, or is not faster",
    )
    parser.add_argument(
        "--good_path", type=Path, help="folder of good strips to set the threshold on anew"
    )
    parser.add_argument(
        "--input_max",
        type=positive,
        help="largest value of the camera; with a --method that has no model",
    )
    parser.add_argument(
        "--test_path", type=Path, help="strips to compare on; default: generated ones"
    )
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="do nothing when the file already holds just this",
    )
    parser.add_argument(
        "--describe",
        type=Path,
        metavar="FILE",
        help="print what an ONNX file says of itself, and export nothing",
    )
    return parser.parse_args(arguments)


def comma_separated(text: str) -> tuple[str, ...]:
    """The value of --outputs: names in the order of OUTPUTS, the heatmap always among them."""
    names = text.split(",")
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"found {unknown[0]!r}, expected some of {','.join(OUTPUTS)}"
        )
    return tuple(name for name in OUTPUTS if name in names or name == "heatmap")


@dataclass(frozen=True)
class Source:
    """A detector for strips of `info.image_size`, and what is known of it.

    `checkpoint` is None for a classical one.
    """

    detector: AligningDetector
    info: ModelInfo
    checkpoint: Path | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.info.image_size

    @property
    def name(self) -> str:
        return self.checkpoint.stem if self.checkpoint else type(self.detector).__name__


def export(arguments: argparse.Namespace) -> Path:
    """Write the ONNX file and return its path.

    Raises `UserError`, and writes nothing, when anything about it is not as asked.
    """
    source = trained(arguments) if arguments.method == "net" else untrained(arguments)
    output_path = arguments.output_path
    if output_path.suffix != ".onnx":
        output_path = output_path / f"{source.name}.onnx"
    info, input_max = source.info, source.info.input_max
    check_flags(arguments, source)
    graph = StripGraph(source.detector, arguments.input, input_max, arguments.outputs).eval()
    channels, opset = arguments.input_channels, arguments.opset_version
    entries = make_entries(info, source.checkpoint, graph, channels, source.image_size, opset)
    if arguments.skip_existing and holds(
        output_path, entries | {"precision": PRECISIONS[arguments.precision]}
    ):
        output_path.touch()  # it is the newest again
        return output_path
    strips = parity_strips(arguments.test_path, source.image_size, input_max)
    threshold = info.threshold().value
    with atomic_write(output_path) as temporary:
        write(graph, arguments, source, threshold, temporary)
        report = inspect_file(temporary, opset)
        parity = prove_parity(graph, temporary, strips, channels, input_max, threshold)
        entries |= {"parity": parity[PARITY], "precision": PRECISIONS["fp32"]}
        write_entries(temporary, entries)
        print(format_table(report | parity | difference_of_modes(source, strips, threshold)))
        if arguments.precision != "fp32":
            vary(arguments, source, entries, threshold, temporary)
        if not info.calibration:
            print(
                "no threshold is in the file, for want of held-out good strips: --good_path FOLDER sets one"
            )
    return output_path


def write(
    graph: StripGraph, arguments: argparse.Namespace, source: Source, threshold: float, path: Path
) -> None:
    """The graph alone."""
    if source.detector.align != "none" and arguments.opset_version >= FIRST_DYNAMO_OPSET:
        print(
            "writing the graph: with registration inside, that takes some twenty seconds",
            flush=True,
        )
    example = torch.zeros(
        2, arguments.input_channels, *source.image_size, dtype=INPUTS[arguments.input]
    )
    default = threshold if "detections" in graph.outputs else None
    write_graph(graph, example, arguments.opset_version, path, graph.output_names, default)


def vary(
    arguments: argparse.Namespace,
    source: Source,
    entries: dict[str, str],
    threshold: float,
    path: Path,
) -> None:
    """Replace a proven float32 file by the variant asked for, and print how they compare.

    Raises `UserError` where it is worse.
    """
    precision, input_max = arguments.precision, source.info.input_max
    entries = entries | {"precision": PRECISIONS[precision]}
    with TemporaryDirectory() as folder:
        variant = Path(folder) / "variant.onnx"
        if precision == "fp16":
            half = StripGraph(
                in_half_precision(source.detector), arguments.input, input_max, arguments.outputs
            ).eval()
            write(half, arguments, source, threshold, variant)
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
            raise UserError(f"--precision {precision}: {refusal}; --force writes it all the same")
        gate = "; ".join(f"{name}: {text}" for name, text in comparison.lines.items())
        write_entries(variant, entries | {"gate": gate})
        shutil.copyfile(variant, path)


def calibration_strips(arguments: argparse.Namespace, source: Source) -> Iterator[np.ndarray]:
    """Strips (1, C, H, W) of the file's own input to measure ranges on: of --calibration_path, else
    generated ones.
    """
    input_max = source.info.input_max
    if arguments.calibration_path:
        images = (
            load_image(path, input_max)
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
                f"--calibration_path: found {image.shape[1:]} (height, width), expected {source.image_size}"
            )
        yield to_model_input(image[None], arguments.input, arguments.input_channels, input_max)


def trained(arguments: argparse.Namespace) -> Source:
    """The detector of a checkpoint."""
    path = newest(arguments.checkpoint_path, f"*{BEST_SUFFIX}")
    content = load_checkpoint(path)
    info = model_info(content)
    if arguments.image_size:
        info = replace(info, image_size=tuple(arguments.image_size))
    detector = SegmentationNetworkONNXFullImage(
        build_network(content, path), info.image_size, info.patch, info.align, arguments.mode
    )
    if arguments.good_path:
        scorer = Detector(str(path), DetectorPredictor(detector, CPU), info, CPU)
        info = calibrated(scorer, arguments.good_path, None, IgnoredRegions()).info
    return Source(detector, info, path)


def untrained(arguments: argparse.Namespace) -> Source:
    """The detector of a --method, set up on the good strips of --good_path, or else as to score
    --test_path.
    """
    input_max, needs_threshold = arguments.input_max or DEFAULT_INPUT_MAX, not arguments.good_path
    scorer = classical(arguments.method, arguments.test_path, None, input_max, CPU, needs_threshold)
    if arguments.good_path:
        scorer = calibrated(scorer, arguments.good_path, None, IgnoredRegions())
    size = arguments.image_size
    if size is None:
        folder = arguments.test_path or arguments.good_path
        if folder is None:
            raise UserError(
                f"--method {arguments.method}: found no --image_size, --test_path or --good_path, "
                "expected one of them"
            )
        size = load_image(list_images(folder)[0], input_max).shape[1:]
    return Source(scorer.predictor.detector, replace(scorer.info, image_size=tuple(size)))


def check_flags(arguments: argparse.Namespace, source: Source) -> None:
    """Raises `UserError` for what cannot be had together."""
    if arguments.input == "uint8" and source.info.input_max != UINT8_MAX:
        raise UserError(
            f"--input uint8: found a camera up to {source.info.input_max:g}, expected one up to {UINT8_MAX:g}"
        )
    if arguments.precision != "fp32" and arguments.method != "net":
        raise UserError(
            f"--precision {arguments.precision}: found --method {arguments.method}, expected a network"
        )
    if "alignment" in arguments.outputs and source.detector.align == "none":
        raise UserError(
            "--outputs alignment: found a detector that aligns nothing, expected one trained with --align"
        )
    if (
        "detections" in arguments.outputs
        and arguments.method != "net"
        and not source.info.calibration
    ):
        raise UserError(
            f"--outputs detections: found no threshold for --method {arguments.method}, expected --good_path FOLDER"
        )


def difference_of_modes(source: Source, strips: np.ndarray, threshold: float) -> dict[str, str]:
    """The report's line on a strip in one piece against tiles; none for tiles."""
    whole = source.detector
    if not isinstance(whole, SegmentationNetworkONNXFullImage) or whole.mode == "tiles":
        return {}
    patch = source.info.patch
    tiles = SegmentationNetworkONNXFullImage(
        whole.patch_network.network, source.image_size, patch, whole.align
    )
    return compare_modes(whole, tiles.eval(), strips, threshold)


def holds(path: Path, entries: dict[str, str]) -> bool:
    """Whether an ONNX file is there, is whole, and was exported from just this and in just this
    way.
    """
    try:
        return entries.items() <= read_entries(path).items()
    except UserError:
        return False


def read_entries(path: Path) -> dict[str, str]:
    """What a file says of itself, by name.

    Raises `UserError`, without the path, when ONNX Runtime cannot load it.
    """
    return dict(sorted(open_session(path).get_modelmeta().custom_metadata_map.items()))


def main() -> int:
    arguments = parse_args()
    if arguments.describe:
        with prefix_errors(arguments.describe):
            entries = read_entries(arguments.describe)
            read_metadata(entries)
        print(format_table(shortened(entries)))
        return 0
    path = export(arguments)
    print(f"the model is in {path}; next: python inference_onnx.py --model_path '{path}'")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
