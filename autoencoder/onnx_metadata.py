"""The metadata of an ONNX file of this tool: everything that a reader needs to use the file.

Entries are strings by name, in the form of deploy/metadata.py, which has those of a strip
detector's file. `tool` tells the two apart.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from autoencoder.calibration import GoodScores
from autoencoder.model import TOOL
from autoencoder.picture_graph import OUTPUTS, PictureGraph
from autoencoder.scorer import PER_SOURCE, plane_names
from common.errors import UserError, shown
from common.product import PRODUCT
from data.image_files import INPUT_MAX_LIMITS
from deploy.export_module import INPUTS, largest_value
from deploy.metadata import SCHEMA_VERSION
from evaluation.model_info import KEPT_WITH_MODEL, require_tool
from evaluation.thresholds import is_calibration

CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
COMMAND = "python -m autoencoder.export"


@dataclass(frozen=True)
class PictureMetadata:
    """The entries that a reader needs, checked.

    `input_kind` is one of export_module.INPUTS, `channels` the input's number of channels, 1 or 3.
    `good` has the scores of held-out good pictures, and `target` is the share of them that the
    file's own thresholds are set for. `maps` names what the score is made of.
    """

    input_kind: str
    channels: int
    input_max: float
    good: GoodScores
    target: float
    training_dataset_path: str
    maps: str


def make_entries(
    graph: PictureGraph,
    good: GoodScores,
    target: float,
    facts: dict[str, str],
    channels: int,
    input_max: float,
    opset: int,
) -> dict[str, str]:
    """Make the entries of an exported file.

    `facts` are entries on what the file was made from; `target` is a share of good pictures.
    """
    scorer, settings = graph.scorer, graph.scorer.settings
    height, width = scorer.image_size
    thresholds = [threshold.value for threshold in good.thresholds(target)]
    return {
        "schema_version": str(SCHEMA_VERSION),
        "product": PRODUCT,
        "tool": TOOL,
        **facts,
        "input": graph.input_kind,
        "channels": " ".join(CHANNEL_NAMES[channels]),
        "input_type": str(INPUTS[graph.input_kind]).removeprefix("torch."),
        "input_range": f"0 {largest_value(graph.input_kind, input_max):g}",
        "input_max": str(input_max),
        "image_size": f"{height} {width}",
        "outputs": " ".join(OUTPUTS),
        "maps": ", ".join(dict.fromkeys(plane_names(scorer.sources, settings))),
        **{name: str(value) for name, value in vars(settings).items() if name not in PER_SOURCE},
        "top_share": repr(scorer.top_share),
        "opset": str(opset),
        "clusters": json.dumps(good.names, ensure_ascii=False),
        "target_false_alarms": repr(target),
        "thresholds": " ".join(map(repr, thresholds)),
        "calibration": json.dumps([*good.of_clusters, good.of_all]),
    }


def read_picture_metadata(entries: dict[str, str]) -> PictureMetadata:
    """Parse and check the entries of an ONNX file of this tool.

    Raises `UserError`, without the path, for entries that are missing or unusable, and for a file
    of another tool or of a newer version.
    """
    require_tool(entries.get("tool", "strip detector"), TOOL)
    needed = ("input", "channels", "input_max", "clusters", "target_false_alarms", "calibration")
    missing = [name for name in ("schema_version", *needed) if name not in entries]
    if missing:
        raise UserError(
            f"found no {', '.join(missing)} in its metadata, expected a file of {COMMAND}"
        )
    version = entries["schema_version"]
    if not version.isdecimal() or version > str(SCHEMA_VERSION):
        raise UserError(
            f"found metadata of schema version {shown(version)}, "
            f"expected {SCHEMA_VERSION} at most: a newer suite exported it"
        )
    channels = {" ".join(names): count for count, names in CHANNEL_NAMES.items()}
    for name, known in (("input", INPUTS), ("channels", channels)):
        if entries[name] not in known:
            raise UserError(
                f"found {name} {shown(entries[name])} in its metadata, "
                f"expected one of {', '.join(known)}"
            )
    return PictureMetadata(
        entries["input"],
        channels[entries["channels"]],
        _number(entries, "input_max", *INPUT_MAX_LIMITS),
        _good_scores(entries),
        _number(entries, "target_false_alarms", 0, 1),
        entries.get("training_dataset_path", ""),
        entries.get("maps", ""),
    )


def _good_scores(entries: dict[str, str]) -> GoodScores:
    names, calibrations = _parse(entries, "clusters"), _parse(entries, "calibration")
    is_usable = (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(calibrations, list)
        and len(calibrations) == len(names) + 1 > 1
        and all(scores is None or is_calibration(scores) for scores in calibrations[:-1])
        and is_calibration(calibrations[-1])
    )
    if not is_usable:
        raise UserError(
            f"found unusable clusters or calibration in its metadata, expected those of {COMMAND}"
        )
    return GoodScores(tuple(names), tuple(calibrations[:-1]), calibrations[-1], KEPT_WITH_MODEL)


def _parse(entries: dict[str, str], name: str) -> Any:
    try:
        return json.loads(entries[name])
    except (ValueError, RecursionError):
        raise UserError(f"found {name} in its metadata that is no JSON") from None


def _number(entries: dict[str, str], name: str, lowest: float, highest: float) -> float:
    """Parse a number above `lowest` and up to `highest`."""
    try:
        value = float(entries[name])
    except ValueError:
        value = math.nan
    if not lowest < value <= highest:
        raise UserError(
            f"found {name} {shown(entries[name])} in its metadata, "
            f"expected a number above {lowest:g} and up to {highest:g}"
        )
    return value
