"""Checkpoints of the defect classifier: their content checked, and the network rebuilt from it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from classifier.averaged_flips import AveragedFlips
from classifier.backbone import RANDOM
from classifier.backbones import BACKBONES, make_backbone
from classifier.defect_model import ARCHITECTURES, GUIDANCES, AttentionGuidedDefectClassifier
from classifier.defect_settings import STAGE1_FOLDER, STAGE2_FOLDER
from classifier.tool import TOOL
from common.errors import UserError, prefix_errors
from data.image_files import INPUT_MAX_LIMITS
from deploy.onnx_file import read_file
from evaluation.model_info import STRIP_DETECTOR, require_tool
from training.checkpoint import (
    is_stored,
    read_checkpoint,
    require_entries,
    require_weights_fit,
)

COMMAND = "python -m classifier.train_defect_model"
LAST, BEST_ACCURACY, BEST_IOU = "last.pth", "best_accuracy.pth", "best_iou.pth"
CALIBRATION = "calibration"  # entry of FittedCalibration, in the best checkpoints of a whole run
CROPS = "crops"  # entry of how crops of strips were made; None for other images
MOST_KINDS, MOST_CHANNELS, WIDEST = 1000, 64, 4096


@dataclass(frozen=True)
class DefectModel:
    """A trained classifier: its network in evaluation mode and the facts that belong to it.

    `kinds` are the names of the classes in the order of the logits. Images are brought to
    `channels` and `image_size` (height, width) before the network, and their files have values of 0
    to `input_max`. `calibration` is the entry CALIBRATION, unchecked; None in files without it.
    `settings` is the content of the checkpoint without it, weights and optimizer.
    """

    path: Path
    network: AttentionGuidedDefectClassifier | AveragedFlips
    kinds: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    input_max: float
    epoch: int
    settings: dict[str, Any]
    calibration: Any = None

    def describe(self) -> str:
        """The network in words."""
        frozen = ", frozen" if self.settings["freeze_backbone"] else ""
        flips = ", averaged over flips" if isinstance(self.network, AveragedFlips) else ""
        return f"{self.settings['architecture']} on {self.settings['backbone']}{frozen}{flips}"

    def averaged_over_flips(self) -> "DefectModel":
        """The model whose answers are means over flips; without the calibration of this one.

        Raises `UserError` for a network that never saw a flipped image.
        """
        if not self.settings.get("augment", True):
            raise UserError(
                "--average_flips: found a training with --augment False, "
                "expected one that saw flipped images"
            )
        return replace(self, network=AveragedFlips(self.network), calibration=None)


def load_defect_model(path: Path) -> DefectModel:
    """Load a checkpoint of this tool.

    Raises `UserError`, naming the file, when it is missing, is not a checkpoint, was written by
    another tool, or holds an unusable value.
    """
    with prefix_errors(path):
        content = load_content(path)
        network = make_network(content)
        network.load_state_dict(content["model_state_dict"])
    others = ("model_state_dict", "optimizer_state_dict", CALIBRATION)
    return DefectModel(
        path,
        network.eval(),
        tuple(content["kinds"]),
        content["channels"],
        tuple(content["image_size"]),
        content["input_max"],
        content["epoch"],
        {name: value for name, value in content.items() if name not in others},
        content.get(CALIBRATION),
    )


def load_content(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint of this tool. Raises `UserError`, without the path."""
    if path.suffix.lower() == ".onnx" and path.is_file():
        _refuse_exported(path)
    content = read_checkpoint(path, TOOL, COMMAND)
    require_entries(content, CHECKS, COMMAND)
    require_weights_fit(content, lambda: make_network(content))
    return content


def _refuse_exported(path: Path) -> None:
    """Raise `UserError`, without the path, for an ONNX file: of which tool it is, or of this one.

    Who reads the checkpoint refuses a file that is no ONNX file either.
    """
    try:
        tool = read_file(path).get("tool", STRIP_DETECTOR)
    except UserError:
        return
    require_tool(tool, TOOL)
    raise UserError(f"found an exported file, expected a checkpoint of {COMMAND}")


def make_network(
    content: dict[str, Any], pretrained: str | None = RANDOM
) -> AttentionGuidedDefectClassifier:
    """The network that settings, kinds and a backbone's configuration describe.

    `pretrained` is that of `make_backbone`. Raises `UserError` as it does.
    """
    backbone = make_backbone(
        content["backbone"], content["channels"], pretrained, content["backbone_config"]
    )
    network = AttentionGuidedDefectClassifier(
        backbone,
        len(content["kinds"]),
        content["dropout"],
        tuple(content["decoder_channels"]),
        tuple(content["head_channels"]),
        content["architecture"],
        content["guidance"],
        content["use_uncertainty_weighting"],
    )
    return network.freeze_backbone() if content["freeze_backbone"] else network


def checkpoint_in(place: Path) -> Path:
    """The checkpoint itself, or in a folder the best one, else the last one.

    In a folder of two stages they are those of the second one. Raises `UserError` for a folder
    without any, and as `require_one_run`.
    """
    if not place.is_dir():
        return place
    require_one_run(place)
    candidates = [
        folder / name for folder in (place, place / STAGE2_FOLDER) for name in (BEST_ACCURACY, LAST)
    ]
    found = [path for path in candidates if path.is_file()]
    if not found:
        raise UserError(f"{place}: found no {BEST_ACCURACY}, expected a folder of {COMMAND}")
    return found[0]


def find_run(folder: Path, has_stages: bool) -> Path | None:
    """A checkpoint of the run in a folder, or of the run in two stages; None where there is none.

    A folder has one run, in one stage or in two: its checkpoints are looked up by the folder.
    """
    folders = (folder / STAGE2_FOLDER, folder / STAGE1_FOLDER) if has_stages else (folder,)
    paths = [place / name for place in folders for name in (LAST, BEST_ACCURACY, BEST_IOU)]
    return next((path for path in paths if path.is_file()), None)


def require_one_run(folder: Path) -> None:
    """Raise `UserError` for a folder of a run in one stage and of another one in two."""
    single, staged = (find_run(folder, has_stages) for has_stages in (False, True))
    if single and staged:
        raise UserError(
            f"{folder}: found two runs, {single.name} and {staged.relative_to(folder)}, "
            "expected one, or the checkpoint itself"
        )


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and is_stored(tensor) for name, tensor in value.items()
    )


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _are_counts(value: object, most: int = WIDEST) -> bool:
    return (
        isinstance(value, list) and 0 < len(value) < 16 and all(_is_count(n, most) for n in value)
    )


def _is_plain(value: object) -> bool:
    """Whether a value is a setting of a network of transformers: no larger one than they have."""
    if isinstance(value, list):
        return len(value) < 100 and all(map(_is_plain, value))
    is_number = type(value) in (int, float) and abs(value) < 1e6
    return value is None or isinstance(value, bool | str) or is_number


CHECKS = {
    "model_state_dict": _is_state,
    "kinds": lambda value: (
        isinstance(value, list)
        and 2 <= len(value) <= MOST_KINDS
        and all(isinstance(kind, str) for kind in value)
        and len(set(value)) == len(value)
    ),
    "channels": lambda value: _is_count(value, MOST_CHANNELS),
    "image_size": lambda value: _are_counts(value) and len(value) == 2,
    "input_max": lambda value: (
        type(value) in (int, float) and INPUT_MAX_LIMITS[0] <= value <= INPUT_MAX_LIMITS[1]
    ),
    "epoch": lambda value: type(value) is int and value >= 0,
    "backbone": lambda value: isinstance(value, str) and value in BACKBONES,
    "backbone_config": lambda value: (
        value is None
        or (
            isinstance(value, dict)
            and all(isinstance(name, str) for name in value)
            and all(map(_is_plain, value.values()))
        )
    ),
    "architecture": lambda value: isinstance(value, str) and value in ARCHITECTURES,
    "guidance": lambda value: isinstance(value, str) and value in GUIDANCES,
    "decoder_channels": _are_counts,
    "head_channels": _are_counts,
    "dropout": lambda value: type(value) in (int, float) and 0 <= value < 1,
    "use_uncertainty_weighting": lambda value: isinstance(value, bool),
    "freeze_backbone": lambda value: isinstance(value, bool),
}
