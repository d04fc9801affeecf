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
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from arguments import (
    CHECKPOINT_FOLDER,
    ONNX_FOLDER,
    camera_range,
    from_0_to_1,
    is_given,
    newest,
    require_input_max,
    run_name,
    whole_number,
)
from common.command_parser import command_parser, group_flags
from common.errors import UserError, failures_as_user_errors, prefix_errors, run_command
from common.files import atomic_write, remove_partial_files
from common.locations import path_or_url, written_place
from common.mlflow_store import Store, add_mlflow, connect
from common.notes import warn
from common.storage import fetch, join, list_objects, put
from data.ignored_regions import IgnoredRegions
from data.image_files import DEFAULT_INPUT_MAX, load_image
from data.image_headers import require_decodable
from data.listing import list_images
from deploy.export_module import CONTRASTS, INPUT_CHANNELS, INPUTS, OUTPUTS, UINT8_MAX, StripGraph
from deploy.flags import add_input
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
from deploy.precision_gate import TARGETS, compare_variant, generated_strips
from deploy.session import open_session
from deploy.summary import summarize
from evaluation.detector import Detector, calibrated, classical
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from model import EXPORT_MODES, SegmentationNetworkONNXFullImage
from ops.candidates import CANDIDATES
from ops.classical import METHODS
from ops.detector import AligningDetector
from reporting.remote_scoring import with_local_inputs
from training.checkpoint import BEST_SUFFIX, build_network, load_checkpoint, model_info
from training.run_folder import TRACKED_SUFFIX

DEFAULT_OPSET = 18
# strips to measure the ranges of int8 on, of 18 tiles each; more change no range that matters
CALIBRATION_STRIPS = 16
LONGEST_SIDE = 65_535  # pixels of --image_size
CPU = torch.device("cpu")
ALIGNED = "one trained with --align"  # a detector
# flags that take URLs: whether the masks beside a folder belong to it
REMOTE_INPUTS = {
    **dict.fromkeys(("checkpoint_path", "describe"), False),
    **dict.fromkeys(("test_path", "good_path", "calibration_path"), True),
}


FLAG_GROUPS = {
    "from and to": "checkpoint_path method output_path skip_existing describe mlflow model_name",
    "the file's input and outputs": "input input_channels input_max image_size mode places "
    "outputs missing opset_version",
    "threshold": "good_path",
    "lower precision": "precision calibration_path target max_recall_drop force",
    "proof of parity": "test_path",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
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
    parser.add_argument(
        "--image_size",
        type=whole_number(1, LONGEST_SIDE, "no TIFF of a line camera is longer"),
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the strips in pixels; default: as trained",
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
    add_mlflow(parser, "the file as a version of a registered model")
    parser.add_argument(
        "--model_name",
        type=run_name,
        metavar="NAME",
        help="with --mlflow: the registered model; default: the run's name, or that of --method",
    )
    group_flags(parser, FLAG_GROUPS)
    parsed = parser.parse_args(arguments)
    if parsed.method != "net" and is_given("--checkpoint_path", arguments):
        warn(
            f"--method {parsed.method} has no model: --checkpoint_path {parsed.checkpoint_path} is "
            "not used"
        )
    return parsed


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


@dataclass(frozen=True)
class Source:
    """A detector to export for strips of `info.image_size`, and its facts.

    `checkpoint` is None for a classical detector.
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
        """The name of the exported file, without suffix."""
        return self.checkpoint.stem if self.checkpoint else type(self.detector).__name__


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


def load_trained(arguments: argparse.Namespace) -> Source:
    """Load the detector of --checkpoint_path, with a new threshold where --good_path is given.

    Raises `UserError` for an unusable checkpoint or unusable good strips.
    """
    path = newest(arguments.checkpoint_path, f"*{BEST_SUFFIX}")
    content = load_checkpoint(path)
    info = model_info(content)
    require_input_max(arguments.input_max, info, path)
    if arguments.mode == "points" and info.align == "none":
        raise UserError(f"--mode points: found {path}, which aligns nothing, expected {ALIGNED}")
    if arguments.image_size:
        info = replace(info, image_size=tuple(arguments.image_size))
    detector = SegmentationNetworkONNXFullImage(
        build_network(content, path),
        info.image_size,
        info.patch,
        info.align,
        arguments.mode,
        info.weighting,
        arguments.places,
    )
    detector.ignores_missing = arguments.missing == "ignore"
    if arguments.good_path:
        scorer = Detector(str(path), DetectorPredictor(detector, CPU), info, CPU)
        info = calibrated(scorer, arguments.good_path, None, IgnoredRegions()).info
    return Source(detector, info, path)


def make_classical(arguments: argparse.Namespace) -> Source:
    """Make the classical detector of --method.

    Its threshold is set on the good strips of --good_path, or else as for scoring --test_path. The
    image size is that of --image_size, or else of the first strip.

    Raises `UserError` when no flag gives the image size, or the strips cannot be used.
    """
    input_max, needs_threshold = arguments.input_max or DEFAULT_INPUT_MAX, not arguments.good_path
    scorer = classical(
        arguments.method,
        arguments.test_path,
        None,
        input_max,
        CPU,
        needs_threshold,
        ignores_missing=arguments.missing == "ignore",
    )
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
    """Raise `UserError` for flags that the detector cannot fulfil together."""
    if arguments.input == "uint8" and source.info.input_max != UINT8_MAX:
        raise UserError(
            f"--input uint8: found a camera up to {source.info.input_max:g}, "
            f"expected one up to {UINT8_MAX:g}"
        )
    if arguments.precision != "fp32" and arguments.method != "net":
        raise UserError(
            f"--precision {arguments.precision}: found --method {arguments.method}, "
            "expected a network"
        )
    if "alignment" in arguments.outputs and source.detector.align == "none":
        raise UserError(
            f"--outputs alignment: found a detector that aligns nothing, expected {ALIGNED}"
        )
    contrasts = [output for output in arguments.outputs if output in CONTRASTS]
    if contrasts and not source.info.noise:
        raise UserError(
            f"--outputs {contrasts[0]}: found nothing on the contrast of points that the detector "
            "finds, expected one that registers references, and --good_path FOLDER of good strips"
        )
    if (
        "detections" in arguments.outputs
        and arguments.method != "net"
        and not source.info.calibration
    ):
        raise UserError(
            f"--outputs detections: found no threshold for --method {arguments.method}, "
            "expected --good_path FOLDER"
        )


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


def register_export(store: Store, arguments: argparse.Namespace, path: Path) -> None:
    """Register the exported file, under the name of its run where --model_name gives no other.

    Raises `UserError` where MLflow fails.
    """
    entries, place = read_entries(path), str(arguments.checkpoint_path)
    name, note = arguments.method, None
    if entries["checkpoint"]:
        name = entries["checkpoint"].removesuffix(BEST_SUFFIX).removesuffix(".pth")
        folder = place.removesuffix(entries["checkpoint"])
        notes = list_objects(join(folder, f"{name}{TRACKED_SUFFIX}"))
        note = fetch(notes[0]) if notes else None
    name = arguments.model_name or name
    version = register(store, path, name, entries, note)
    print(f"it is version {version} of the model {name} at {arguments.mlflow}")


def main() -> int:
    arguments = parse_args()
    if arguments.describe:
        with prefix_errors(arguments.describe):
            entries = read_entries(with_local_inputs(arguments, REMOTE_INPUTS).describe)
            read_metadata(entries)
        print("\n".join([*summarize(entries, str(arguments.describe)), ""]))
        print(format_table(shortened(entries)))
        return 0
    store = connect(arguments.mlflow) if arguments.mlflow is not None else None
    path, place = export_anywhere(arguments)
    print(f"the model is in {place}; next: python inference_onnx.py --model_path '{place}'")
    if store:
        register_export(store, arguments, path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
