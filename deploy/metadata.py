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
from evaluation.thresholds import UNCALIBRATED, threshold_for
from ops.classical import ClassicalDetector
from ops.detector import AligningDetector
from ops.registration import ALIGN_MODES, MEASURES
from ops.tiling import PATCH_SIZES, calculate_kept_ranges, calculate_positions
from training.checkpoint import MEASURED, check_measured

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
class Description:
    """What a reader needs of the entries, checked: `input_kind` is one of export_module.INPUTS,
    `measured` those of MEASURED.
    """

    image_type: str
    input_max: float
    align: str
    training_dataset_path: str
    input_kind: str
    channels: int
    measured: dict[str, Any]

    @property
    def patch(self) -> int:
        return PATCH_SIZES[self.image_type]


def make_entries(
    content: dict[str, Any],
    checkpoint: Path | None,
    graph: StripGraph,
    channels: int,
    image_size: tuple[int, int],
    opset: int,
) -> dict[str, str]:
    """The entries of an exported file.

    `content` is a loaded checkpoint's, or what else is known in its place.

    `channels` is how many the input has, `image_size` (height, width).
    """
    detector, (height, width) = graph.detector, image_size
    return {
        "schema_version": str(SCHEMA_VERSION),
        "product": PRODUCT,
        "checkpoint": checkpoint.name if checkpoint else "",
        "checkpoint_sha256": file_hash(checkpoint) if checkpoint else "",
        "training_dataset_path": content["training_dataset_path"] or "",
        "epoch": str(content["epoch"]),
        **_detector(detector),
        "align": detector.align,
        "input": graph.input_kind,
        "channels": " ".join(CHANNEL_NAMES[:channels]),
        "input_type": str(INPUTS[graph.input_kind]).removeprefix("torch."),
        "input_range": f"0 {largest_value(graph.input_kind, content['input_max']):g}",
        "input_max": str(content["input_max"]),
        "image_type": content["image_type"],
        "image_size": f"{height} {width}",
        **_tiling_entries(detector, image_size, PATCH_SIZES[content["image_type"]]),
        "outputs": " ".join(graph.output_names),
        **_columns(graph, content),
        "opset": str(opset),
        **_thresholds(content),
        **{name: json.dumps(content[name]) for name in MEASURED},
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


def _columns(graph: StripGraph, content: dict[str, Any]) -> dict[str, str]:
    """What the numbers of the further outputs mean."""
    columns = {}
    if "detections" in graph.outputs:
        columns["detections"] = " ".join(DETECTION_COLUMNS)
        columns["most_detections"] = str(MOST_DETECTIONS)
        columns["threshold_default"] = repr(default_threshold(content))
    if "alignment" in graph.outputs:
        columns["alignment"] = " ".join(MEASURES)
    return columns


def default_threshold(content: dict[str, Any]) -> float:
    """The calibrated threshold on the heatmap, for the rate that the training was asked for;
    UNCALIBRATED where there is none.
    """
    if not content["calibration"]:
        return UNCALIBRATED
    return threshold_for(content["calibration"], content["target_false_alarms"], "").value


def _thresholds(content: dict[str, Any]) -> dict[str, str]:
    """The threshold on the heatmap for the rate that the training was asked for, and for each of
    RATES.
    """
    rates = {"threshold": content["target_false_alarms"]} | {
        f"threshold_at_{rate:g}": rate for rate in RATES
    }
    if not content["calibration"]:
        return dict.fromkeys(rates, NO_THRESHOLD)
    return {
        name: repr(threshold_for(content["calibration"], rate, "").value)
        for name, rate in rates.items()
    }


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


def read_description(entries: dict[str, str]) -> Description:
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
    facts = (
        entries["image_type"],
        _input_max(entries["input_max"]),
        entries["align"],
        entries["training_dataset_path"],
    )
    return Description(*facts, entries["input"], channels[entries["channels"]], _measured(entries))


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
