"""The settings of a training of the strip detector, the name of its run, and how they are resumed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.recipes import CLASSIC, RECIPES, settings_of_recipe
from data.splits import Dataset
from ops.tiling import PATCH_SIZES
from training.resume import require_resumable, resumed_values
from training.settings import LoopSettings, Start

RUN_NAME = "BgRemoval_lr{lr}_ep{epochs}_bs{bs}_{height}x{width}_{image_type}"
STRIPS_HASH = "strips_sha256"  # the entry of a checkpoint that tells which strips a run is on
FREE = frozenset(  # besides those of every run
    # a teacher may have moved: its hash is compared
    ("training_dataset_path", "cache_size", "target_false_alarms", "teacher")
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(LoopSettings):
    """Every setting of a training of the strip detector; the fields have the names of the flags.

    `recipe_settings` are all amounts of the recipe, `teacher_sha256` is the hash of the teacher's
    checkpoint; both are kept with the run.
    """

    training_dataset_path: Path
    image_type: str
    img_format: str
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

    @property
    def patch(self) -> int:
        """Height and width of a training patch, in pixels."""
        return PATCH_SIZES[self.image_type]

    def run_name(self, image_size: tuple[int, int]) -> str:
        height, width = image_size
        return RUN_NAME.format(height=height, width=width, **self.plain())


def run_pattern(values: dict[str, Any], given: Iterable[str]) -> str:
    """What the names of runs fit that are like the one that was asked for."""
    lr, bs, image_type = (
        values[name] if name in given else "*" for name in ("lr", "bs", "image_type")
    )
    return RUN_NAME.format(lr=lr, epochs="*", bs=bs, height="*", width="*", image_type=image_type)


def resumed_strip_values(
    values: dict[str, Any], start: Start, content: dict[str, Any], folder: Path, processes: int
) -> dict[str, Any]:
    """As `resumed_values`, of the strip detector.

    Raises `UserError`, without the path, where the run cannot go on as asked.
    """
    require_resumable(content, processes, [STRIPS_HASH])
    own = {
        "training_dataset_path": Path(content["training_dataset_path"]),
        **resumed_recipe(content),
    }
    if content["teacher"]:
        own["teacher"] = Path(content["teacher"])
    elif "teacher" in start.given:
        raise UserError(
            f"found a run without a teacher, expected one that was begun with --teacher {values['teacher']}"
        )
    return resumed_values(values, start, content, folder, own, FREE)


def resumed_recipe(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run and its settings; the classic one where a checkpoint names none, as there
    was no other then.

    Raises `UserError`, without the path, when this code has not the recipe that the run was begun
    with.
    """
    recipe, begun = content.get("recipe", CLASSIC), content.get("recipe_settings", {})
    if recipe not in RECIPES:
        raise UserError(f"found a run of --recipe {recipe}, expected one of {', '.join(RECIPES)}")
    now = settings_of_recipe(recipe)
    changed = [name for name in (*begun, *now) if begun.get(name) != now.get(name)]
    if changed:
        was, is_now = begun.get(changed[0]), now.get(changed[0])
        raise UserError(
            f"found a run with a recipe whose {changed[0]} is {was}, expected {is_now}, which this code has"
        )
    return {"recipe": recipe, "recipe_settings": begun}


def require_same_strips(content: dict[str, Any], dataset: Dataset) -> None:
    """Raise `UserError`, without the path, when a checkpoint is of other strips."""
    if content[STRIPS_HASH] != dataset.strips_hash():
        raise UserError(
            f"found a run on other strips, expected the {len(dataset.train)} of {dataset.image_size} that are there now"
        )
