"""The metadata of an ONNX file: everything that a reader needs to use the file.

The export writes the metadata; this module both writes and reads them.

Entries are strings by name, as every runtime returns them. Numbers are plain text, lists are
separated by blanks, and only the values that a training measured are JSON. `schema_version` says
which entries a file has: a reader refuses a version that is newer than its own.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from common.errors import UserError, shown
from common.files import file_hash
from common.product import PRODUCT
from common.storage import fetch
from data.image_files import INPUT_MAX_LIMITS
from deploy.export_module import (
    CONTRASTS,
    DETECTION_COLUMNS,
    INPUT_CHANNELS,
    INPUTS,
    MOST_DETECTIONS,
    StripGraph,
    largest_value,
)
from deploy.onnx_file import GRAPH_HASH, graph_hash
from evaluation.model_info import (
    MEASURED,
    STRIP_DETECTOR,
    UNMEASURED,
    ModelInfo,
    check_measured,
    require_order,
    require_tool,
)
from ops.classical import ClassicalDetector
from ops.detector import AligningDetector
from ops.inspected_contrast import FOUND
from ops.registration import ALIGN_MODES, MEASURES
from ops.tiling import PATCH_SIZES, calculate_kept_ranges, calculate_positions

SCHEMA_VERSION = 2
CHANNEL_NAMES = ("Target", "Ref1", "Ref2", "ignored")
LATER_ENTRIES = ("contrast_response", "value_range")  # which files of earlier code lack
# false alarms per strip; the file has a threshold for each of these rates
RATES = (0.01, 0.1, 1.0, 10.0)
REQUIRED_ENTRIES = (
    "image_type",
    "input_max",
    "align",
    "training_dataset_path",
    "input",
    "channels",
    *(name for name in MEASURED if name not in LATER_ENTRIES),
)
# the threshold entries of a checkpoint whose training measured nothing on good strips
NO_THRESHOLD = "none"
MAX_DIGITS = 9  # of schema_version
MAX_SHOWN = 100  # characters of an entry that are printed


@dataclass(frozen=True)
class ModelMetadata:
    """The entries that a reader needs, checked.

    `input_kind` is one of export_module.INPUTS, and `channels` is the input's number of channels.
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
    """Make the entries of an exported file.

    `channels` is the input's number of channels (3 or 4), and `image_size` is (height, width) in
    pixels. `checkpoint` is None for a classical detector.
    """
    detector, (height, width) = graph.detector, image_size
    return {
        "schema_version": str(SCHEMA_VERSION),
        "product": PRODUCT,
        "tool": STRIP_DETECTOR,
        "checkpoint": checkpoint.name if checkpoint else "",
        "checkpoint_sha256": file_hash(fetch(checkpoint)) if checkpoint else "",
        "training_dataset_path": info.training_dataset_path or "",
        "epoch": str(info.epoch),
        **_network_entries(detector),
        "align": detector.align,
        "missing": "ignore" if detector.ignores_missing else "report",
        "input": graph.input_kind,
        "channels": " ".join(CHANNEL_NAMES[:channels]),
        "input_type": str(INPUTS[graph.input_kind]).removeprefix("torch."),
        "input_range": f"0 {largest_value(graph.input_kind, info.input_max):g}",
        "input_max": str(info.input_max),
        "image_type": info.image_type,
        "image_size": f"{height} {width}",
        **_tiling_entries(detector, image_size, info.patch),
        "outputs": " ".join(graph.output_names),
        **_output_entries(graph, info),
        "strip_channels": _join_numbers(info.order),
        "opset": str(opset),
        **_threshold_entries(info),
        **{name: json.dumps(value) for name, value in (UNMEASURED | info.measured).items()},
    }


def _network_entries(detector: AligningDetector) -> dict[str, str]:
    """The class name, and a network's width or a classical detector's sigma in pixels."""
    if isinstance(detector, ClassicalDetector):
        return {"network": type(detector).__name__, "gaussian": f"{detector.sigma:g}"}
    network = detector.patch_network.network
    return {
        "network": type(network).__name__,
        "base_channels": str(network.base_channels),
        "weighting": detector.weighting,
    }


def _tiling_entries(
    detector: AligningDetector, image_size: tuple[int, int], patch: int
) -> dict[str, str]:
    """The tiling in pixels: where tiles begin, and which rows and columns of each are kept.

    Of candidates, how many places the network looks at and how large their patches are.
    """
    if detector.mode == "whole":
        return {"mode": "whole"}
    if detector.mode == "points":
        places = detector.tiling
        return {
            "mode": "points",
            "places": str(places.count),
            "patch_size": f"{places.side} {places.side}",
        }
    tiling = {"mode": "tiles", "tile_size": f"{patch} {patch}"}
    for name, length in zip(("rows", "columns"), image_size):
        tiling[f"tile_{name}"] = _join_numbers(calculate_positions(length, patch))
        tiling[f"kept_{name}"] = _join_ranges(calculate_kept_ranges(length, patch))
    return tiling


def _output_entries(graph: StripGraph, info: ModelInfo) -> dict[str, str]:
    """The meaning of the columns of the outputs beside the heatmap and the score."""
    columns = {}
    if "detections" in graph.outputs:
        columns["detections"] = " ".join(DETECTION_COLUMNS)
        columns["most_detections"] = str(MOST_DETECTIONS)
        columns["threshold_default"] = repr(info.threshold().value)
    if "alignment" in graph.outputs:
        columns["alignment"] = " ".join(MEASURES)
    if any(output in CONTRASTS for output in graph.outputs):
        columns["contrast_found"] = f"{FOUND:g}"
        columns["contrast_threshold"] = repr(info.threshold().value)
    return columns


def _threshold_entries(info: ModelInfo) -> dict[str, str]:
    """The thresholds on the heatmap for the training's target rate and for each of RATES."""
    rates = {"threshold": None} | {f"threshold_at_{rate:g}": rate for rate in RATES}
    if not info.calibration:
        return dict.fromkeys(rates, NO_THRESHOLD)
    return {name: repr(info.threshold(rate).value) for name, rate in rates.items()}


def _join_numbers(values: list[int]) -> str:
    """Whole numbers with blanks between them."""
    return " ".join(map(str, values))


def _join_ranges(ranges: list[tuple[int, int]]) -> str:
    """Ranges as `start:stop`, with `stop` excluded, with blanks between them."""
    return " ".join(f"{start}:{stop}" for start, stop in ranges)


def write_entries(path: Path, entries: dict[str, str]) -> None:
    """Replace all metadata entries of the ONNX file at `path`, and add the hash of its graph."""
    model = onnx.load(path)
    hashed = {GRAPH_HASH: graph_hash(model.SerializeToString())}
    onnx.helper.set_model_props(model, entries | hashed)
    onnx.save(model, path)


def read_metadata(entries: dict[str, str]) -> ModelMetadata:
    """Parse and check the entries of an ONNX file.

    Raises `UserError`, without the path, for entries that are missing or unusable, and for those of
    a newer schema or of another tool.
    """
    if "schema_version" not in entries:
        raise UserError(
            "found no schema_version in its metadata, "
            "expected a file of this suite's export_onnx_fullimage.py: export again"
        )
    version = entries["schema_version"]
    if not version.isdecimal() or len(version) > MAX_DIGITS:
        raise UserError(
            f"found schema_version {shown(version)} in its metadata, expected a whole number"
        )
    if int(version) > SCHEMA_VERSION:
        raise UserError(
            f"found metadata of schema version {version}, expected {SCHEMA_VERSION} at most: "
            "a newer suite exported it"
        )
    require_tool(entries.get("tool", STRIP_DETECTOR), STRIP_DETECTOR)
    missing = [name for name in REQUIRED_ENTRIES if name not in entries]
    if missing:
        raise UserError(
            f"found no {', '.join(missing)} in its metadata, "
            "expected a file of export_onnx_fullimage.py"
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
                f"found {name} {shown(entries[name])} in its metadata, "
                f"expected one of {', '.join(known)}"
            )
    info = ModelInfo(
        entries["image_type"],
        _parse_input_max(entries["input_max"]),
        entries["align"],
        training_dataset_path=entries["training_dataset_path"],
        measured=_parse_measured(entries),
        order=_parse_order(entries.get("strip_channels", "0 1 2")),
        ignores_missing=entries.get("missing") == "ignore",
    )
    return ModelMetadata(info, entries["input"], channels[entries["channels"]])


def _parse_input_max(text: str) -> float:
    """Parse the camera's largest value. Raises `UserError` unless it is in INPUT_MAX_LIMITS."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not INPUT_MAX_LIMITS[0] <= value <= INPUT_MAX_LIMITS[1]:
        raise UserError(f"found input_max {shown(text)} in its metadata, expected a number above 0")
    return value


def _parse_order(text: str) -> tuple[int, ...]:
    """Parse the order of the strips' channels. Raises `UserError` for another text."""
    numbers = {str(number): number for number in range(4)}
    return require_order([numbers.get(word, word) for word in text.split()])


def _parse_measured(entries: dict[str, str]) -> dict[str, Any]:
    """Parse the values measured on held-out strips. Raises `UserError` for unusable ones."""
    try:
        measured = {name: json.loads(entries[name]) for name in MEASURED if name in entries}
    except (ValueError, RecursionError):
        raise UserError(
            "found metadata that are no JSON, expected a file of export_onnx_fullimage.py"
        ) from None
    check_measured(measured)
    return measured


def format_table(lines: dict[str, str]) -> str:
    """Lay out names and texts as two aligned columns, one pair per line."""
    width = max(map(len, lines), default=0) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())


def shortened(entries: dict[str, str]) -> dict[str, str]:
    """The entries, with those longer than MAX_SHOWN cut off."""
    return {
        name: text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
        for name, text in entries.items()
    }
