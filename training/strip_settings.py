"""The settings of a strip detector's training, its run's name, and the rules for resuming it."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, shown
from common.locations import path_or_url
from data.image_files import STORED_ORDER
from data.recipe_file import check_amounts, check_names
from data.recipes import CLASSIC, RECIPES, settings_of_recipe
from data.splits import Dataset
from ops.likelihood import DEFAULT_WEIGHTING
from ops.tiling import PATCH_SIZES
from training.resume import require_resumable, resumed_values
from training.settings import LoopSettings, Start

RUN_NAME = "BgRemoval_lr{lr}_ep{epochs}_bs{bs}_{height}x{width}_{image_type}"
AUTO_WEIGHTING = "auto"  # the value of --weighting that leaves it to the held-out strips
STRIPS_HASH = "strips_sha256"  # entry of a checkpoint that identifies the run's strips
# Settings that may change on resume, besides those of every run. The teacher's file may move, since
# its hash is compared.
FREE = frozenset(
    ("training_dataset_path", "img_format", "cache_size", "target_false_alarms", "teacher")
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(LoopSettings):
    """Every setting of a strip detector's training; the fields are named like the flags.

    `recipe_settings` are all amounts of the recipe, `teacher_sha256` is the hash of the teacher's
    checkpoint. Both are stored with the run.
    """

    training_dataset_path: Path | str  # text is a URL
    image_type: str
    img_format: str | None
    num_defects_range: tuple[int, int]
    recipe: str
    align: str
    use_mask: bool
    cache_size: int
    gamma_start: float
    gamma_end: float
    gamma_schedule: str
    alpha: float
    base_channels: int
    input_max: float
    arch: str
    teacher: Path | None
    target_false_alarms: float
    recipe_settings: dict[str, Any]
    teacher_sha256: str | None = None
    weighting: str = "none"
    chooses_weighting: bool = False  # whether the end of the training may replace `weighting`
    name: str | None = None
    channels: tuple[int, ...] = STORED_ORDER  # numbers of Target, Ref1 and Ref2 in the files

    @property
    def patch(self) -> int:
        """Height and width of a training patch, in pixels."""
        return PATCH_SIZES[self.image_type]

    def run_name(self, image_size: tuple[int, int]) -> str:
        """The name of the run's files, for strips of `image_size` (height, width) in pixels."""
        if self.name is not None:
            return self.name
        height, width = image_size
        return RUN_NAME.format(height=height, width=width, **self.plain())


def run_pattern(values: dict[str, Any], given: Iterable[str]) -> str:
    """A glob for the names of runs that share the `given` settings with `values`."""
    if "name" in given:
        return glob.escape(values["name"])
    lr, bs, image_type = (
        values[name] if name in given else "*" for name in ("lr", "bs", "image_type")
    )
    return RUN_NAME.format(lr=lr, epochs="*", bs=bs, height="*", width="*", image_type=image_type)


def resumed_strip_values(
    values: dict[str, Any], start: Start, content: dict[str, Any], folder: Path, processes: int
) -> dict[str, Any]:
    """`resumed_values` for the strip detector.

    `content` is the checkpoint's, `folder` the one that it lies in. Raises `UserError`, without the
    path, when the run cannot continue as asked.
    """
    require_resumable(content, processes, [STRIPS_HASH])
    if not isinstance(content["training_dataset_path"], str):
        raise UserError("found no training_dataset_path, expected the folder of the run's strips")
    tool_values = {
        "training_dataset_path": path_or_url(content["training_dataset_path"]),
        **resumed_recipe(content),
        "weighting": _weighting_flag(content),
        "chooses_weighting": content.get("chooses_weighting", False),
    }
    if content["teacher"]:
        tool_values["teacher"] = Path(content["teacher"])
    elif "teacher" in start.given:
        raise UserError(
            "found a run without a teacher, "
            f"expected one that was begun with --teacher {values['teacher']}"
        )
    if "recipe_settings" in start.given:
        _require_same_amounts(values["recipe_settings"], tool_values["recipe_settings"])
    asked = values | {"weighting": _weighting_flag(values)}
    resumed = resumed_values(asked, start, content, folder, tool_values, FREE)
    if resumed["chooses_weighting"]:
        resumed["weighting"] = DEFAULT_WEIGHTING
    return resumed


def _weighting_flag(values: dict[str, Any]) -> str:
    """The value of --weighting that settings, or a checkpoint, follow from."""
    return AUTO_WEIGHTING if values.get("chooses_weighting") else values["weighting"]


def _require_same_amounts(given: dict[str, Any], stored: dict[str, Any]) -> None:
    """Raise `UserError`, without the path, when the command line has other amounts than a run."""
    for name, value in given.items():
        if stored.get(name) != value:
            raise UserError(
                f"found a run whose {name} is {stored.get(name)}, expected {value}: "
                "a resumed run keeps its settings"
            )


def resumed_recipe(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run, and the recipe's settings.

    A checkpoint that names no recipe has the classic one, which was the only one then. Raises
    `UserError`, without the path, when this code's recipe has other amounts than the run's by name,
    or the run has a value that is out of range.
    """
    recipe, stored = content.get("recipe", CLASSIC), content.get("recipe_settings", {})
    if not isinstance(stored, dict):
        raise UserError(f"found recipe_settings {shown(stored)}, expected amounts by name")
    if recipe not in RECIPES:
        raise UserError(f"found a run of --recipe {recipe}, expected one of {', '.join(RECIPES)}")
    check_names(stored, recipe)
    if missing := [name for name in settings_of_recipe(recipe) if name not in stored]:
        raise UserError(
            f"found a run with a recipe without {missing[0]}, which this code's recipe has"
        )
    return {"recipe": recipe, "recipe_settings": check_amounts(stored) if stored else {}}


def require_same_strips(content: dict[str, Any], dataset: Dataset) -> None:
    """Raise `UserError`, without the path, when a checkpoint was trained on other strips."""
    if content[STRIPS_HASH] != dataset.strips_hash():
        raise UserError(
            f"found a run on other strips, expected the {len(dataset.train)} "
            f"of {dataset.image_size} that are there now"
        )
