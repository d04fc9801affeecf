"""What --resume means: which checkpoint a run goes on from, and which settings it goes on with."""

import argparse
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.recipes import CLASSIC, RECIPES, settings_of_recipe
from data.splits import Dataset
from training.checkpoint import BEST_SUFFIX
from training.run_folder import NOT_FINITE_SUFFIX

RUN_NAME = "BgRemoval_lr{lr}_ep{epochs}_bs{bs}_{height}x{width}_{image_type}"
RESUME_KEYS = ("optimizer_state_dict", "history", "step", "loss_sum", "loss_count", "processes", "strips_sha256")
# Flags that a resumed run may be given anew. Every other one is part of what the run is, and stays as it was.
FREE_ON_RESUME = ("training_dataset_path", "checkpoint_path", "epochs", "gpu_id", "cache_size", "num_workers", "save_every")
FREE_ON_RESUME += ("patience", "compile", "deterministic", "target_false_alarms", "resume", "overwrite")
FREE_ON_RESUME += ("teacher",)  # it may have moved: its hash tells whether it is the same


def run_name(arguments: argparse.Namespace, image_size: tuple[int, int]) -> str:
    height, width = image_size
    return RUN_NAME.format(height=height, width=width, **vars(arguments))


def find_last(arguments: argparse.Namespace) -> Path:
    """The checkpoint that --resume means. Raises `UserError` when a folder has none of a run like the one that was asked for."""
    place = arguments.checkpoint_path if arguments.resume is True else arguments.resume
    is_best = place.name.endswith(BEST_SUFFIX)
    if is_best and not arguments.overwrite and "checkpoint_path" not in arguments.given:
        raise UserError(f"{place}: found a best checkpoint, expected a last one, or --overwrite to lose what came after the best")
    if not place.is_dir():
        return place
    lr, bs, image_type = (getattr(arguments, name) if name in arguments.given else "*" for name in ("lr", "bs", "image_type"))
    pattern = RUN_NAME.format(lr=lr, epochs="*", bs=bs, height="*", width="*", image_type=image_type)
    others = (BEST_SUFFIX, NOT_FINITE_SUFFIX)
    found = [path for path in place.glob(f"{pattern}.pth") if not path.name.endswith(others)]
    if not found:
        raise UserError(f"{place}: found no {pattern}.pth, expected the last checkpoint of a run to go on with")
    return max(found, key=lambda path: path.stat().st_mtime)


def resumed_settings(arguments: argparse.Namespace, content: dict[str, Any], folder: Path, processes: int) -> argparse.Namespace:
    """The settings of the run, from its checkpoint's content, and those that were given anew.

    Raises `UserError`, without the path, when the checkpoint cannot be resumed, or not as asked.
    """
    missing = [key for key in RESUME_KEYS if key not in content]
    if missing:
        raise UserError(f"found no {missing[0]}, expected a checkpoint of a training that can be resumed")
    if content["processes"] != processes:
        raise UserError(f"found a run of {content['processes']} processes (NPROC), expected as many as now: {processes}")
    settings = {name: content[name] for name in vars(arguments) if name in content and name != "gpu_id"}
    settings |= {"checkpoint_path": folder, "training_dataset_path": Path(content["training_dataset_path"])}
    settings |= recipe_of(content)
    if content["teacher"]:
        settings["teacher"] = Path(content["teacher"])
    elif "teacher" in arguments.given:
        raise UserError(f"found a run without a teacher, expected one that was begun with --teacher {arguments.teacher}")
    for name in arguments.given:
        value = getattr(arguments, name)
        if name not in FREE_ON_RESUME and name in settings and settings[name] != value:
            raise UserError(
                f"found a run of --{name} {settings[name]}, expected {value}: a run goes on with the settings that it has"
            )
        settings[name] = value
    done = len(content["history"]) + bool(content["step"])
    if settings["epochs"] < done:
        raise UserError(f"found a run in its epoch {done}, expected none after --epochs {settings['epochs']}")
    return argparse.Namespace(**vars(arguments) | settings)


def recipe_of(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run and its settings; the classic one where a checkpoint names none, as there was no other then.

    Raises `UserError`, without the path, when this code has not the recipe that the run was begun with.
    """
    recipe, begun = content.get("recipe", CLASSIC), content.get("recipe_settings", {})
    if recipe not in RECIPES:
        raise UserError(f"found a run of --recipe {recipe}, expected one of {', '.join(RECIPES)}")
    now = settings_of_recipe(recipe)
    changed = [name for name in (*begun, *now) if begun.get(name) != now.get(name)]
    if changed:
        was, is_now = begun.get(changed[0]), now.get(changed[0])
        raise UserError(f"found a run with a recipe whose {changed[0]} is {was}, expected {is_now}, which this code has")
    return {"recipe": recipe, "recipe_settings": begun}


def require_same_strips(content: dict[str, Any], dataset: Dataset) -> None:
    """Raise `UserError`, without the path, when a checkpoint is of other strips."""
    if content["strips_sha256"] != dataset.strips_hash():
        raise UserError(
            f"found a run on other strips, expected the {len(dataset.train)} of {dataset.image_size} that are there now"
        )


def describe_resumption(resumed: Path, content: dict[str, Any], arguments: argparse.Namespace) -> str:
    text = f"going on from {resumed}: {content['epoch']} of {content['epochs']} epochs and {content['step']} steps done"
    if arguments.epochs != content["epochs"]:
        text += f"; now of {arguments.epochs} epochs, which gamma and learning rate follow from here on"
    return text
