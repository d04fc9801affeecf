"""Train the defect classifier: is it a defect, of which kind, and where.

    # images in DATA/train/KIND and DATA/valid/KIND, masks in DATA/ground_truth_train/KIND, ...
    python -m classifier.train_defect_model --data_root dataset/parts --save_dir checkpoints/parts
    # in two stages: all but the backbone, then everything
    python -m classifier.train_defect_model --data_root dataset/parts --save_dir checkpoints/two \\
        --backbone efficientnet_lite0 --two_stages
    # the same in two commands
    python -m classifier.train_defect_model --data_root dataset/parts --save_dir stages/one \\
        --backbone efficientnet_lite0 --freeze_backbone --epochs 30 --lr 1e-3 --batch_size 32
    python -m classifier.train_defect_model --data_root dataset/parts --save_dir stages/two \\
        --backbone efficientnet_lite0 --init stages/one --epochs 70 --lr 1e-4 --batch_size 16
    # after an interruption, in either stage
    python -m classifier.train_defect_model --resume checkpoints/two

Images whose mask is not known train the kind alone. The folder of a run gets last.pth,
best_accuracy.pth (balanced accuracy on valid/), best_iou.pth (IoU of defective images), settings,
environment, metrics, TensorBoard events, curves and samples. Ctrl-C saves what was learnt so far.
"""

if __name__ == "__main__":
    if not __package__:  # started as a file: modules are found beside this file's folder
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from arguments import CHECKPOINT_FOLDER, require_like_flags
from classifier.backbone import RANDOM
from classifier.backbones import LITE0, require_known
from classifier.defect_checkpoint import (
    BEST_ACCURACY,
    BEST_IOU,
    LAST,
    find_run,
    load_content,
    make_network,
    require_one_run,
)
from classifier.defect_flags import add_flags, require_consistent, without_effect
from classifier.defect_settings import (
    STAGE1_FOLDER,
    STAGE2,
    STAGE2_FOLDER,
    DefectSettings,
    device_preset,
)
from classifier.defect_task import DefectImages, DefectTask
from classifier.fit_calibration import store_calibrations
from classifier.run_files import DefectRunFolder
from classifier.run_images import find_images, read_init
from common.command_parser import CommandParser, command_parser
from common.distributed import ProcessGroup, join_process_group
from common.errors import UserError, prefix_errors, run_command
from common.mlflow_store import require_mlflow
from common.notes import warn
from common.settings import from_values
from training.flags import given_flags
from training.guards import choose_algorithms, explained_failures
from training.loop import Training
from training.resume import (
    describe_resumption,
    require_resumable,
    require_state_fits,
    resumed_values,
)
from training.run_folder import describe_start, only_training_in, require_outside
from training.settings import Start
from training.tracking import write_tracked_start

# settings that may change when a run is resumed, besides those of every run
FREE = frozenset(("data_root", "cache_size", "init"))
# flags of --two_stages, with the settings of the first stage that they are
OF_STAGE1 = {"stage1_epochs": "epochs", "stage1_lr": "lr", "stage1_batch_size": "bs"}


@dataclass(frozen=True)
class PreparedRun:
    """A run that may start; `resumed` and `init` are contents of checkpoints, if there are any."""

    settings: DefectSettings
    images: DefectImages
    folder: DefectRunFolder
    resumed_from: Path | None
    resumed: dict[str, Any] | None
    init: dict[str, Any] | None


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process).

    The result has every setting, with the defaults that suit the device, and `given`, the names of
    the flags that the command line sets. A wrong command line ends the process.
    """
    parser = make_parser()
    defaults, given = given_flags(parser, arguments)
    preset = device_preset(given.get("gpu_id"))
    if given.get("two_stages"):
        preset |= STAGE2
    parsed = argparse.Namespace(**defaults | preset | given | {"given": list(given)})
    try:
        require_known(parsed.backbone)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")  # without the usage: the names are many already
    parsed.channels = None
    if parsed.image_size and len(parsed.image_size) == 1:
        parsed.image_size *= 2
    if not parsed.resume and not parsed.data_root:
        parser.error("found neither --data_root nor --resume, expected one of them")
    if parsed.two_stages and (parsed.freeze_backbone or parsed.init):
        parser.error("--two_stages: found --freeze_backbone or --init, expected neither")
    try:
        require_consistent(vars(parsed))
    except UserError as error:
        parser.error(str(error))
    return parsed


def make_parser() -> CommandParser:
    """The parser of the command line; a resumed run's settings are held against it, too."""
    parser = command_parser(__doc__)
    add_flags(parser)
    parser.set_defaults(checkpoint_path=CHECKPOINT_FOLDER / "classifier")
    return parser


def train(arguments: argparse.Namespace) -> list[Path]:
    """Train all stages that the flags ask for, one after the other.

    Returns the folder of each stage in the main process, none in the others. Raises `UserError` for
    input that cannot be trained on.
    """
    folders = []
    values, start = first_stage(arguments)
    with join_process_group(arguments.gpu_id) as processes:
        processes.run_on_main(partial(require_mlflow, arguments.mlflow))
        if processes.is_main and not arguments.resume:  # a resumed run has its own settings
            for line in without_effect(vars(arguments), arguments.given):
                warn(line)
        while True:
            settings = train_stage(values, start, processes, arguments.mlflow)
            folders.append(settings.checkpoint_path)
            if not settings.next_stage:
                return folders if processes.is_main else []
            values = vars(settings) | next_values(settings)
            last = values["checkpoint_path"] / LAST
            may_resume = start.resume is not None and last.is_file()
            start = Start(last if may_resume else None, start.overwrite)


def first_stage(arguments: argparse.Namespace) -> tuple[dict[str, Any], Start]:
    """The settings and the start of the stage that a command begins or goes on with."""
    values, given = dict(vars(arguments)), set(arguments.given)
    folder = values["checkpoint_path"]
    if arguments.resume:
        last = find_last(folder if arguments.resume is True else arguments.resume)
        if last.name in (BEST_ACCURACY, BEST_IOU) and not arguments.overwrite:
            raise UserError(
                f"{last}: found a best checkpoint, expected {LAST}, "
                "or --overwrite to lose what came after the best"
            )
        # the folder to go on in is that of the checkpoint, unless another one is given
        is_other = arguments.resume is not True and "checkpoint_path" in given
        given -= set() if is_other else {"checkpoint_path"}
        values["checkpoint_path"] = folder if is_other else last.parent
        if is_other:
            _require_no_other_run(folder, has_stages=False)
        return values, Start(last, arguments.overwrite, frozenset(given))
    _require_no_other_run(folder, arguments.two_stages)
    if arguments.two_stages:
        second = folder / STAGE2_FOLDER / LAST
        if second.exists() and not arguments.overwrite:
            raise UserError(
                f"{second}: found a second stage, expected --resume to go on, "
                "--overwrite to lose it and begin again, or another --save_dir"
            )
        values["next_stage"] = {name: values[name] for name in OF_STAGE1.values()}
        values |= {name: values[flag] for flag, name in OF_STAGE1.items()}
        values |= {"freeze_backbone": True, "checkpoint_path": folder / STAGE1_FOLDER}
    return values, Start(None, arguments.overwrite)


def _require_no_other_run(folder: Path, has_stages: bool) -> None:
    """Raise `UserError` for a folder of a run in another number of stages than the one to begin.

    Not even --overwrite would replace its checkpoints, which have other names.
    """
    if found := find_run(folder, not has_stages):
        before, now = ("one stage", "two stages") if has_stages else ("two stages", "one stage")
        raise UserError(
            f"{found}: found a run in {before}, expected a new --save_dir for one in {now}"
        )


def find_last(place: Path) -> Path:
    """The last checkpoint of a run: the file itself, or in a folder that of its latest stage.

    Raises `UserError` for a folder without any, and as `require_one_run`.
    """
    if not place.is_dir():
        return place
    require_one_run(place)
    folders = (place, place / STAGE2_FOLDER, place / STAGE1_FOLDER)
    found = [folder / LAST for folder in folders if (folder / LAST).is_file()]
    if not found:
        raise UserError(f"{place}: found no {LAST}, expected the last checkpoint of a run")
    return found[0]


def next_values(settings: DefectSettings) -> dict[str, Any]:
    """The settings of the second stage that differ from those of the first."""
    return settings.next_stage | {
        "freeze_backbone": False,
        "init": settings.checkpoint_path,
        "pretrained": None,
        "epochs_before": settings.epochs_before + settings.epochs,
        "checkpoint_path": settings.checkpoint_path.with_name(STAGE2_FOLDER),
        "next_stage": None,
    }


def train_stage(
    values: dict[str, Any], start: Start, processes: ProcessGroup, mlflow: str | None
) -> DefectSettings:
    """Train one stage, which the MLflow at a URI gets too, and return its settings.

    Raises `UserError`.
    """
    with ExitStack() as resources:
        run = processes.run_on_main(lambda: prepare(values, start, processes, resources))
        settings, folder, after_save = run.settings, run.folder, []
        choose_algorithms(settings)
        if processes.is_main:
            started = describe_start(processes, run.resumed_from)
            after_save += write_tracked_start(folder, settings.plain(), started, mlflow, resources)
        with explained_failures(settings.bs):
            task = DefectTask(settings, run.images, processes, run.resumed, run.init)
            Training(task, settings, processes, folder, run.resumed, after_save).run()
        store = partial(store_calibrations, settings.checkpoint_path, settings.data_root)
        processes.run_on_main(partial(store, processes.device))
    return settings


def prepare(
    values: dict[str, Any], start: Start, processes: ProcessGroup, resources: ExitStack
) -> PreparedRun:
    """Check and prepare everything that a stage needs, in the main process.

    `resources` holds the lock of the run's folder. Raises `UserError` when it cannot start.
    """
    resumed = init = None
    if start.resume:
        with prefix_errors(start.resume):
            resumed = load_content(start.resume)
            values = _resumed_values(values, start, resumed, processes.count)
            require_consistent(values)
            require_state_fits(resumed, partial(make_network, resumed), "settings")
    settings = from_values(DefectSettings, values)
    if settings.sync_batch_norm and processes.device.type != "cuda":
        raise UserError("--sync_batch_norm: found the CPU, expected GPUs")
    require_outside("--save_dir", settings.checkpoint_path, settings.data_root, "images")
    resources.enter_context(only_training_in(settings.checkpoint_path))
    settings, images = find_images(settings)
    if resumed:
        with prefix_errors(start.resume):
            _require_same_images(resumed, images)
    elif settings.init:
        settings, init = read_init(settings, images)
    if settings.patience and not images.valid:
        raise UserError("--patience: found no valid/, expected images to measure an epoch on")
    is_random = settings.pretrained == RANDOM or (
        settings.pretrained is None and settings.backbone != LITE0
    )
    if settings.freeze_backbone and is_random and not resumed and not init:
        warn(
            f"--freeze_backbone: the weights of {settings.backbone} are random and will stay so; "
            "--pretrained gives it others"
        )
    folder = DefectRunFolder(settings.checkpoint_path)
    folder.prepare(start.resume, start.overwrite)
    if settings.next_stage and not start.resume:  # an earlier second stage is not of this run
        second = settings.checkpoint_path.with_name(STAGE2_FOLDER)
        DefectRunFolder(second).prepare(None, start.overwrite)
    if resumed:
        print(describe_resumption(start.resume, resumed, settings.epochs))
    return PreparedRun(settings, images, folder, start.resume, resumed, init)


def _resumed_values(
    values: dict[str, Any], start: Start, content: dict[str, Any], processes: int
) -> dict[str, Any]:
    """The settings of a resumed run. Raises `UserError`, without the path, as `resumed_values`."""
    require_resumable(content, processes)
    names = {setting.name for setting in fields(DefectSettings)}
    if missing := sorted((names | {"images_hash"}) - content.keys()):
        raise UserError(f"found no {missing[0]}, expected a run of this version")
    kept = {name: content[name] for name in names if name != "gpu_id"}
    for name in ("bs", "lr", "lr_schedule", "epochs", "amp", "data_root"):
        if kept[name] is None:
            raise UserError(f"found a run of --{name} None, expected a value")
    require_like_flags(make_parser(), kept)
    next_stage = kept["next_stage"]
    if next_stage is not None:
        if not isinstance(next_stage, dict) or set(next_stage) != set(OF_STAGE1.values()):
            raise UserError("found no settings of the next stage, expected those of --two_stages")
        require_like_flags(make_parser(), next_stage)
    if type(kept["epochs_before"]) is not int:
        raise UserError("found no epochs_before, expected a number of epochs")
    tool_values = {name: content[name] and Path(content[name]) for name in ("data_root", "init")}
    values = values | {"next_stage": None, "epochs_before": 0}
    if next_stage:  # these flags are those of the stage that has not begun
        given = {name: values[name] for name in next_stage if name in start.given}
        tool_values["next_stage"] = next_stage | given
        mine = {name: values[flag] for flag, name in OF_STAGE1.items() if flag in start.given}
        values |= mine
        start = replace(start, given=start.given - given.keys() | mine.keys())
    return resumed_values(values, start, content, values["checkpoint_path"], tool_values, FREE)


def _require_same_images(content: dict[str, Any], images: DefectImages) -> None:
    """Raise `UserError`, without the path, when a checkpoint was trained on other images."""
    if content["images_hash"] != images.images_hash or content["kinds"] != images.kinds:
        raise UserError(
            f"found a run on other images, expected the {len(images.train)} that are there now"
        )


def main() -> int:
    """Train, print the folders of the stages and return the exit code."""
    for folder in train(parse_args()):
        names = [name for name in (BEST_ACCURACY, BEST_IOU, LAST) if (folder / name).is_file()]
        print(f"checkpoints in {folder}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
