"""What an ONNX file says of itself: written when it is exported, and all that is needed to use it.

One module writes and reads it.

Entries are strings by name, as every runtime returns them. Numbers are plain, lists have blanks
between them, and only what a training measured is JSON. `schema_version` says which entries there
are: a reader refuses a version that is newer than its own.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from common.errors import UserError
from common.files import file_hash
from deploy.export_module import (
    DETECTION_COLUMNS,
    INPUT_CHANNELS,
    INPUTS,
    MOST_DETECTIONS,
    StripGraph,
    largest_value,
)
from evaluation.model_info import (
    MEASURED,
    STRIP_DETECTOR,
    UNMEASURED,
    ModelInfo,
    check_measured,
    require_tool,
)
from ops.classical import ClassicalDetector
from ops.detector import AligningDetector
from ops.registration import ALIGN_MODES, MEASURES
from ops.tiling import PATCH_SIZES, calculate_kept_ranges, calculate_positions

SCHEMA_VERSION = 2
PRODUCT = "Background Removal Net 1.0"
CHANNEL_NAMES = ("Target", "Ref1", "Ref2", "ignored")
RATES = (0.01, 0.1, 1.0, 10.0)  # false alarms per strip, for each of which the file has a threshold
REQUIRED = (
    "image_type",
    "input_max",
    "align",
    "training_dataset_path",
    "input",
    "channels",
    *MEASURED,
)
NO_THRESHOLD = "none"  # of a checkpoint whose training measured nothing on good strips
SHORTENED = 100  # characters of an entry that are shown


@dataclass(frozen=True)
class ModelMetadata:
    """What a reader needs of the entries, checked.

    `input_kind` is one of export_module.INPUTS, `channels` the number of the input's channels.
    """

    info: ModelInfo
    input_kind: str
    channels: int


def make_entries(
    info: ModelInfo,
    checkpoint: Path | None,
    graph: StripGraph,
    channels: int,
    image_size: tuple[int, int],
    opset: int,
) -> dict[str, str]:
    """The entries of an exported file.

    `channels` is how many the input has, `image_size` (height, width).
    """
    detector, (height, width) = graph.detector, image_size
    return {
        "schema_version": str(SCHEMA_VERSION),
        "product": PRODUCT,
        "tool": STRIP_DETECTOR,
        "checkpoint": checkpoint.name if checkpoint else "",
        "checkpoint_sha256": file_hash(checkpoint) if checkpoint else "",
        "training_dataset_path": info.training_dataset_path or "",
        "epoch": str(info.epoch),
        **_detector(detector),
        "align": detector.align,
        "input": graph.input_kind,
        "channels": " ".join(CHANNEL_NAMES[:channels]),
        "input_type": str(INPUTS[graph.input_kind]).removeprefix("torch."),
        "input_range": f"0 {largest_value(graph.input_kind, info.input_max):g}",
        "input_max": str(info.input_max),
        "image_type": info.image_type,
        "image_size": f"{height} {width}",
        **_tiling_entries(detector, image_size, info.patch),
        "outputs": " ".join(graph.output_names),
        **_columns(graph, info),
        "opset": str(opset),
        **_thresholds(info),
        **{name: json.dumps(value) for name, value in (UNMEASURED | info.measured).items()},
    }


def _detector(detector: AligningDetector) -> dict[str, str]:
    if isinstance(detector, ClassicalDetector):
        return {"network": type(detector).__name__, "gaussian": f"{detector.sigma:g}"}
    network = detector.patch_network.network
    return {"network": type(network).__name__, "base_channels": str(network.base_channels)}


def _tiling_entries(
    detector: AligningDetector, image_size: tuple[int, int], patch: int
) -> dict[str, str]:
    """In which pieces a strip is looked at, and what of each is kept."""
    if detector.mode == "whole":
        return {"mode": "whole"}
    pieces = {"mode": "tiles", "tile_size": f"{patch} {patch}"}
    for name, length in zip(("rows", "columns"), image_size):
        pieces[f"tile_{name}"] = _numbers(calculate_positions(length, patch))
        pieces[f"kept_{name}"] = _ranges(calculate_kept_ranges(length, patch))
    return pieces


def _columns(graph: StripGraph, info: ModelInfo) -> dict[str, str]:
    """What the numbers of the further outputs mean."""
    columns = {}
    if "detections" in graph.outputs:
        columns["detections"] = " ".join(DETECTION_COLUMNS)
        columns["most_detections"] = str(MOST_DETECTIONS)
        columns["threshold_default"] = repr(info.threshold().value)
    if "alignment" in graph.outputs:
        columns["alignment"] = " ".join(MEASURES)
    return columns


def _thresholds(info: ModelInfo) -> dict[str, str]:
    """The threshold on the heatmap for the rate of the training, and for each of RATES."""
    rates = {"threshold": None} | {f"threshold_at_{rate:g}": rate for rate in RATES}
    if not info.calibration:
        return dict.fromkeys(rates, NO_THRESHOLD)
    return {name: repr(info.threshold(rate).value) for name, rate in rates.items()}


def _numbers(values: list[int]) -> str:
    return " ".join(map(str, values))


def _ranges(ranges: list[tuple[int, int]]) -> str:
    """As `start:stop`, the last one exclusive."""
    return " ".join(f"{start}:{stop}" for start, stop in ranges)


def write_entries(path: Path, entries: dict[str, str]) -> None:
    """Replace all entries of an ONNX file."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, path)


def read_metadata(entries: dict[str, str]) -> ModelMetadata:
    """Raises `UserError`, without the path, for entries that are absent, of a newer schema or not
    usable.
    """
    if "schema_version" not in entries:
        raise UserError(
            "found no schema_version in its metadata, expected a file of this suite's export_onnx_fullimage.py: export again"
        )
    version = entries["schema_version"]
    if not version.isdecimal():
        raise UserError(
            f"found schema_version {version!r} in its metadata, expected a whole number"
        )
    if int(version) > SCHEMA_VERSION:
        raise UserError(
            f"found metadata of schema version {version}, expected {SCHEMA_VERSION} at most: a newer suite exported it"
        )
    require_tool(entries.get("tool", STRIP_DETECTOR), STRIP_DETECTOR)
    missing = [name for name in REQUIRED if name not in entries]
    if missing:
        raise UserError(
            f"found no {', '.join(missing)} in its metadata, expected a file of export_onnx_fullimage.py"
        )
    channels = {" ".join(CHANNEL_NAMES[:count]): count for count in INPUT_CHANNELS}
    for name, known in (
        ("image_type", PATCH_SIZES),
        ("align", ALIGN_MODES),
        ("input", INPUTS),
        ("channels", channels),
    ):
        if entries[name] not in known:
            raise UserError(
                f"found {name} {entries[name]!r} in its metadata, expected one of {', '.join(known)}"
            )
    info = ModelInfo(
        entries["image_type"],
        _input_max(entries["input_max"]),
        entries["align"],
        training_dataset_path=entries["training_dataset_path"],
        measured=_measured(entries),
    )
    return ModelMetadata(info, entries["input"], channels[entries["channels"]])


def _input_max(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"found input_max {text!r} in its metadata, expected a number above 0")
    return value


def _measured(entries: dict[str, str]) -> dict[str, Any]:
    """What was measured on held-out strips. Raises `UserError` when it is not readable."""
    try:
        measured = {name: json.loads(entries[name]) for name in MEASURED}
    except ValueError:
        raise UserError(
            "found metadata that are no JSON, expected a file of export_onnx_fullimage.py"
        ) from None
    check_measured(measured)
    return measured


def format_table(lines: dict[str, str]) -> str:
    """Names and texts for people to read, one a line."""
    width = max(map(len, lines), default=0) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())


def shortened(entries: dict[str, str]) -> dict[str, str]:
    """The entries, long ones cut short."""
    return {
        name: text if len(text) <= SHORTENED else f"{text[:SHORTENED]}... ({len(text)} characters)"
        for name, text in entries.items()
    }
