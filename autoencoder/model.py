"""The reference-free detector's models, as the tool's other modules and its files know them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoencoder.network import DEPTHS, SKIPS, UNet
from autoencoder.settings import TASKS
from common.errors import UserError, prefix_errors, shown
from data.image_files import INPUT_MAX_LIMITS
from training.checkpoint import (
    is_stored,
    read_checkpoint,
    require_entries,
    require_weights_fit,
)

TOOL = "autoencoder"  # written into checkpoints, libraries and ONNX files
COMMAND = "python -m autoencoder.trainer"
WIDEST_BASE = 1024  # channels: the limit of --base_channels and --bottleneck
LARGEST_INPUT = 4096  # pixels: the limit of --input_size


@dataclass(frozen=True)
class Model:
    """A trained model: its network in evaluation mode and the facts that belong to it.

    `train` and `valid` are the pictures that it was trained on and those held out, as paths
    relative to `training_dataset_path`; `hashes` has the hash of each one's pixels by that path.
    `settings` is the whole content of the checkpoint without weights and optimizer.
    """

    path: Path
    network: UNet
    task: str
    channels: int
    input_size: int
    input_max: float
    epoch: int
    training_dataset_path: Path
    train: tuple[str, ...]
    valid: tuple[str, ...]
    hashes: dict[str, str]
    settings: dict[str, Any]


def load_model(path: Path) -> Model:
    """Load a checkpoint of this tool.

    Raises `UserError`, naming the file, when it is missing, is not a checkpoint, was written by
    another tool, or holds an unusable value.
    """
    with prefix_errors(path):
        content = load_content(path)
        network = make_network(content)()
        network.load_state_dict(content["model_state_dict"])
    weights = ("model_state_dict", "optimizer_state_dict")
    return Model(
        path,
        network.eval(),
        content["task"],
        content["channels"],
        content["input_size"],
        content["input_max"],
        content["epoch"],
        Path(content["training_dataset_path"]),
        tuple(content["train_pictures"]),
        tuple(content["valid_pictures"]),
        content["picture_hashes"],
        {name: value for name, value in content.items() if name not in weights},
    )


def load_content(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint of this tool, for `load_model` and for a training to go on.

    Raises `UserError`, without the path.
    """
    content = read_checkpoint(path, TOOL, COMMAND)
    if content.get("kind") is not None:
        raise UserError(f"found a {shown(content['kind'])}, expected a checkpoint of {COMMAND}")
    require_entries(content, CHECKS, COMMAND)
    require_weights_fit(content, make_network(content))
    return content


def make_network(content: dict[str, Any]) -> partial[UNet]:
    """What makes the network that settings or a checkpoint's content describe."""
    return partial(
        UNet,
        content["channels"],
        content["depth"],
        content["base_channels"],
        content["skips"],
        content["bottleneck"],
        outputs_of(content["task"], content["channels"]),
    )


def outputs_of(task: str, channels: int) -> int:
    """The channels of a network's output: one logit to segment, else the picture's own."""
    return 1 if task == "segment" else channels


def _is_width(value: object) -> bool:
    return type(value) is int and 1 <= value <= WIDEST_BASE


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and is_stored(tensor) for name, tensor in value.items()
    )


CHECKS = {
    "model_state_dict": _is_state,
    "task": lambda value: value in TASKS,
    "channels": lambda value: type(value) is int and value in (1, 3),
    "input_size": lambda value: type(value) is int and 1 <= value <= LARGEST_INPUT,
    "input_max": lambda value: (
        type(value) in (int, float) and INPUT_MAX_LIMITS[0] <= value <= INPUT_MAX_LIMITS[1]
    ),
    "epoch": lambda value: type(value) is int and value >= 0,
    "depth": lambda value: type(value) is int and DEPTHS[0] <= value <= DEPTHS[1],
    "base_channels": _is_width,
    "skips": lambda value: isinstance(value, str) and value in SKIPS,
    "bottleneck": lambda value: value is None or _is_width(value),
    "training_dataset_path": lambda value: isinstance(value, str),
    "train_pictures": _is_texts,
    "valid_pictures": _is_texts,
    "picture_hashes": lambda value: (
        isinstance(value, dict) and _is_texts(list(value)) and _is_texts(list(value.values()))
    ),
}
