"""Write and read checkpoints.

A checkpoint is written atomically. Reading it never runs code from the file.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError, one_line, prefix_errors, shown
from common.files import atomic_write
from common.storage import fetch
from data.image_files import DEFAULT_INPUT_MAX, INPUT_MAX_LIMITS
from data.image_headers import require_decodable
from evaluation.model_info import (
    MEASURED,
    STRIP_DETECTOR,
    UNMEASURED,
    ModelInfo,
    check_measured,
    require_order,
    require_tool,
)
from model import ARCHITECTURES, SegmentationNetwork
from ops.likelihood import WEIGHTINGS
from ops.registration import ALIGN_MODES
from ops.tiling import PATCH_SIZES

# by the name that a checkpoint holds
NETWORK_CLASSES = {network.__name__: network for network in ARCHITECTURES.values()}
FIRST_LAYER = "encoder.0.0.0.weight"  # (base_channels, planes, 3, 3) in every network
REQUIRED_KEYS = ("model_state_dict", "img_height", "img_width", "image_type", "epoch", "seed")
# of the keys that a file of only REQUIRED_KEYS leaves out
DEFAULTS = {
    "tool": STRIP_DETECTOR,
    "network": SegmentationNetwork.__name__,
    "input_max": DEFAULT_INPUT_MAX,
    "align": "none",
    "weighting": "none",
    "training_dataset_path": None,
    "channels": [0, 1, 2],
    "teacher": None,
    "teacher_sha256": None,
    **UNMEASURED,
}
KEY_TYPES = {
    "tool": str,
    "img_height": int,
    "img_width": int,
    "image_type": str,
    "epoch": int,
    "seed": int,
    "network": str,
    "input_max": (int, float),
    "align": str,
    "weighting": str,
    "training_dataset_path": (str, type(None)),
    "teacher": (str, type(None)),
    "teacher_sha256": (str, type(None)),
}
BEST_SUFFIX = "_best.pth"
COMMAND = "trainer.py"  # writes a strip detector's checkpoints


def name_of_run(checkpoint: str) -> str:
    """The name of the run that a checkpoint is of, its last or its best one, by the file's name."""
    return checkpoint.removesuffix(BEST_SUFFIX).removesuffix(".pth")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content`: plain tensors, numbers, strings, lists and dicts.

    Raises `UserError` when the file system refuses, for example on a full disk.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch raises this on a full disk
            raise OSError(f"{one_line(error)}; is the disk full?") from None


def read_checkpoint(path: Path, tool: str, command: str = COMMAND) -> dict[str, Any]:
    """Read a checkpoint that `command` of `tool` wrote, with its tensors on the CPU.

    Raises `UserError`, without the path, for a file that is missing, is not a checkpoint, or was
    written by another tool.
    """
    if not path.is_file():
        raise UserError(f"found no such file, expected a checkpoint (.pth) written by {command}")
    path = fetch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch and pickle raise exceptions of many types
        raise UserError(
            "found no readable checkpoint (or one that needs pickled code), "
            f"expected one of {command}"
        ) from None
    if not isinstance(content, dict):
        return {}  # a file of something else has none of the entries
    require_tool(content.get("tool", STRIP_DETECTOR), tool)
    return content


def require_entries(
    content: dict[str, Any], checks: dict[str, Callable[[Any], bool]], command: str
) -> None:
    """Raise `UserError`, without the path, where an entry is missing, or its check fails.

    `command` is what writes such a checkpoint.
    """
    for name, is_usable in checks.items():
        if name not in content:
            raise UserError(f"found a file without {name}, expected a checkpoint of {command}")
        if not is_usable(content[name]):
            raise UserError(
                f"found {name} {shown(content[name])}, expected a checkpoint of {command}"
            )


def require_weights_fit(content: dict[str, Any], make_network: Callable[[], nn.Module]) -> None:
    """Raise `UserError`, without the path, for weights that are not those of the network."""
    with torch.device("meta"):  # shapes alone: a damaged width may ask for more than there is
        network = make_network()
    expected, found = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
        for weights in (network.state_dict(), content["model_state_dict"])
    )
    if found != expected:
        raise UserError(
            f"found weights that do not fit the {type(network).__name__} that the file describes"
        )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check a strip detector's checkpoint.

    DEFAULTS fill in the keys that a file of only the six REQUIRED_KEYS leaves out.

    Raises `UserError`, naming the file, when it is missing, is not a checkpoint, was written by
    another tool, lacks a required key or holds an unusable value.
    """
    with prefix_errors(path):
        content = read_checkpoint(path, STRIP_DETECTOR)
        missing = [key for key in REQUIRED_KEYS if key not in content]
        if missing:
            raise UserError(
                f"found a file without {', '.join(missing)}, expected a checkpoint of {COMMAND}"
            )
        weights = content["model_state_dict"]
        if not (
            isinstance(weights, dict)
            and weights
            and all(isinstance(name, str) and is_stored(tensor) for name, tensor in weights.items())
        ):
            raise UserError(
                "found a model_state_dict that does not hold tensors by name, "
                f"expected a checkpoint of {COMMAND}"
            )
        content = DEFAULTS | content
        wrong = [
            key
            for key, kinds in KEY_TYPES.items()
            if not isinstance(content[key], kinds) or isinstance(content[key], bool)
        ]
        if wrong:
            raise UserError(
                f"found {wrong[0]} {shown(content[wrong[0]])}, expected a checkpoint of {COMMAND}"
            )
        size = (content["img_height"], content["img_width"])
        if min(size) < 1:
            raise UserError(f"found strips of {size} (height, width), expected at least 1 pixel")
        require_decodable(math.prod(size) * 3, size)
        if content["image_type"] not in PATCH_SIZES:
            raise UserError(
                f"found image type {shown(content['image_type'])}, "
                f"expected one of {', '.join(PATCH_SIZES)}"
            )
        if content["align"] not in ALIGN_MODES:
            raise UserError(
                f"found align {shown(content['align'])}, expected one of {', '.join(ALIGN_MODES)}"
            )
        if content["weighting"] not in WEIGHTINGS:
            raise UserError(
                f"found weighting {shown(content['weighting'])}, "
                f"expected one of {', '.join(WEIGHTINGS)}"
            )
        if content["weighting"] != "none" and content["align"] == "none":
            raise UserError(
                f"found weighting {content['weighting']} and align none, "
                "expected registered references"
            )
        if not INPUT_MAX_LIMITS[0] <= content["input_max"] <= INPUT_MAX_LIMITS[1]:
            raise UserError(
                f"found input_max {shown(content['input_max'])}, "
                "expected the camera's largest value"
            )
        require_order(content["channels"])
        check_measured(content)
        return content


def is_stored(value: object) -> bool:
    """Whether a value is a dense tensor on the CPU, each of whose elements is in the file.

    A tensor that repeats one element may describe a network of any size in a small file.
    """
    if not isinstance(value, torch.Tensor) or value.is_quantized:
        return False
    is_dense = value.layout is torch.strided and value.device.type == "cpu"
    return is_dense and value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def model_info(content: dict[str, Any]) -> ModelInfo:
    """The facts of a model from the content that `load_checkpoint` returns."""
    return ModelInfo(
        content["image_type"],
        content["input_max"],
        content["align"],
        (content["img_height"], content["img_width"]),
        content["epoch"],
        content["training_dataset_path"],
        {name: content[name] for name in MEASURED},
        content["weighting"],
        tuple(content["channels"]),
    )


def build_network(content: dict[str, Any], path: Path) -> SegmentationNetwork:
    """Build the network of a loaded checkpoint, in evaluation mode.

    The shape of the weights gives the network's width.

    Raises `UserError`, naming `path`, when the network is unknown or the weights do not fit it.
    """
    weights = content["model_state_dict"]
    with prefix_errors(path):
        name = content["network"]
        if name not in NETWORK_CLASSES:
            raise UserError(
                f"found weights of the network {shown(name)}, "
                f"expected one of {', '.join(NETWORK_CLASSES)}"
            )
        if FIRST_LAYER not in weights:
            first = next(iter(weights))
            raise UserError(
                f"found weights of another network (they begin with {shown(first)}), "
                f"expected those of {name}"
            )
        try:
            # without memory first: a damaged width may ask for more than there is
            with torch.device("meta"):
                shapes = NETWORK_CLASSES[name](base_channels=len(weights[FIRST_LAYER]))
            shapes.load_state_dict(weights, assign=True)
            network = NETWORK_CLASSES[name](base_channels=len(weights[FIRST_LAYER]))
            network.load_state_dict(weights)
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"found weights that do not fit the {name} of this version ({one_line(error)})"
            ) from None
    return network.eval()
