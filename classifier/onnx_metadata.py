"""The metadata of an exported classifier: everything that a reader needs to use the file.

Entries are strings by name, in the form of deploy/metadata.py, which has those of a strip
detector's file. `tool` tells the two apart.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from classifier.calibration import Calibration, read_calibration
from classifier.defect_checkpoint import MOST_CHANNELS, MOST_KINDS, WIDEST
from classifier.defect_graph import DefectGraph
from classifier.loaded_classifier import CalibratedModel
from classifier.metrics import MASK_THRESHOLD
from classifier.tool import TOOL
from common.errors import UserError, shown
from common.files import file_hash
from common.product import PRODUCT
from data.image_files import INPUT_MAX_LIMITS
from deploy.export_module import INPUTS, largest_value
from deploy.metadata import SCHEMA_VERSION
from evaluation.model_info import STRIP_DETECTOR, require_tool

COMMAND = "python -m classifier.export_defect_model"
NEEDED = ("kinds", "input", "channels", "input_max", "image_size", "outputs", "calibration")


@dataclass(frozen=True)
class ClassifierMetadata:
    """The entries that a reader needs, checked.

    `input_kind` is one of export_module.INPUTS and `image_size` (height, width). `stride` is the
    side of a cell of the attention in pixels. `calibration` is None for an uncalibrated model.
    """

    kinds: tuple[str, ...]
    input_kind: str
    channels: int
    input_max: float
    image_size: tuple[int, int]
    outputs: tuple[str, ...]
    stride: int
    calibration: Calibration | None
    network: str


def make_entries(
    calibrated: CalibratedModel,
    graph: DefectGraph,
    targets: dict[str, float | None],
    opset: int,
) -> dict[str, str]:
    """The entries of an exported file; `targets` are target_error and target_unknown."""
    model, calibration = calibrated.model, None
    if calibrated.fitted:
        calibration = calibrated.fitted.calibration
    height, width = model.image_size
    limits = {}
    if calibration:
        limits["highest_known_distance"] = calibration.highest_known(targets["target_unknown"])
        if targets["target_error"] is not None:
            limits["lowest_sure_confidence"] = calibration.lowest_sure(targets["target_error"])
    return {
        "schema_version": str(SCHEMA_VERSION),
        "product": PRODUCT,
        "tool": TOOL,
        "checkpoint": model.path.name,
        "checkpoint_sha256": file_hash(model.path),
        "data_root": str(model.settings.get("data_root", "")),
        "network": model.describe(),
        "kinds": json.dumps(model.kinds, ensure_ascii=False),
        "input": graph.input_kind,
        "channels": str(model.channels),
        "input_type": str(INPUTS[graph.input_kind]).removeprefix("torch."),
        "input_range": f"0 {largest_value(graph.input_kind, model.input_max):g}",
        "input_max": str(model.input_max),
        "image_size": f"{height} {width}",
        "outputs": " ".join(graph.outputs),
        "cell": str(model.network.backbone.stride),
        "mask_threshold": str(MASK_THRESHOLD),
        "temperature": repr(graph.temperature),
        **{name: repr(value) for name, value in targets.items() if value is not None},
        **{name: repr(value) for name, value in limits.items() if math.isfinite(value)},
        "calibration": json.dumps(calibration.plain() if calibration else None),
        "opset": str(opset),
    }


def read_classifier_metadata(entries: dict[str, str]) -> ClassifierMetadata:
    """Parse and check the entries of an ONNX file of this tool.

    Raises `UserError`, without the path, for entries that are missing or unusable, and for a file
    of another tool or of a newer version.
    """
    require_tool(entries.get("tool", STRIP_DETECTOR), TOOL)
    if missing := [name for name in ("schema_version", *NEEDED, "cell") if name not in entries]:
        raise UserError(
            f"found no {', '.join(missing)} in its metadata, expected a file of {COMMAND}"
        )
    version = _whole(entries["schema_version"], "schema_version", 10**6)
    if version > SCHEMA_VERSION:
        raise UserError(
            f"found metadata of schema version {version}, expected {SCHEMA_VERSION} at most: "
            "a newer suite exported it"
        )
    if entries["input"] not in INPUTS:
        raise _unusable("input", entries["input"])
    kinds, calibration = (_parse(entries, name) for name in ("kinds", "calibration"))
    is_list = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    if not is_list or not 2 <= len(set(kinds)) == len(kinds) <= MOST_KINDS:
        raise _unusable("kinds", entries["kinds"])
    sides = entries["image_size"].split(" ")
    if len(sides) != 2:
        raise _unusable("image_size", entries["image_size"])
    height, width = (_whole(side, "image_size", WIDEST) for side in sides)
    return ClassifierMetadata(
        tuple(kinds),
        entries["input"],
        _whole(entries["channels"], "channels", MOST_CHANNELS),
        _input_max(entries["input_max"]),
        (height, width),
        tuple(entries["outputs"].split(" ")),
        _whole(entries["cell"], "cell", WIDEST),
        None if calibration is None else read_calibration(calibration),
        entries.get("network", ""),
    )


def _unusable(name: str, value: object) -> UserError:
    return UserError(
        f"found {name} {shown(value)} in its metadata, expected that of a file of {COMMAND}"
    )


def _whole(text: str, name: str, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 7 or not 1 <= int(text) <= most:
        raise _unusable(name, text)
    return int(text)


def _input_max(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not INPUT_MAX_LIMITS[0] <= value <= INPUT_MAX_LIMITS[1]:
        raise _unusable("input_max", text)
    return value


def _parse(entries: dict[str, str], name: str) -> Any:
    try:
        return json.loads(entries[name])
    except (ValueError, RecursionError):
        raise UserError(f"found {name} in its metadata that is no JSON") from None
