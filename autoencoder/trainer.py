"""Train the reference-free detector on good pictures alone.

    # a data set like MVTec AD's, or a folder of good pictures
    python -m autoencoder.trainer --training_dataset_path dataset/textures
    # a model of each class, three of them with other seeds as an ensemble
    python -m autoencoder.trainer --training_dataset_path dataset/textures --per_class --seeds 1 2 3
    # the plan: rebuild pictures, compare by SSIM and squared error
    python -m autoencoder.trainer --training_dataset_path dataset/textures \\
        --task reconstruct --skips none
    # after an interruption
    python -m autoencoder.trainer --resume

A run writes its files into --checkpoint_path, under --name or Autoencoder_{task}_lr{lr}_ep{epochs}_
bs{bs}_{input_size}: the last and the best checkpoint, settings, environment, metrics, TensorBoard
events, curves, and a picture of the same pictures after each epoch. Ctrl-C saves what was learnt so
far.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import glob
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from arguments import require_different, require_like_flags
from autoencoder.flags import add_flags, require_consistent
from autoencoder.model import TOOL, load_content, make_network
from autoencoder.pictures import Pictures, find_pictures, groups_of
from autoencoder.settings import RUN_NAME, AutoencoderSettings, device_preset
from autoencoder.task import LIBRARY_SUFFIX, MORE_SUFFIXES, AutoencoderTask
from common.command_parser import CommandParser, command_parser
from common.distributed import ProcessGroup, join_process_group
from common.errors import UserError, prefix_errors, run_command
from common.mlflow_store import require_mlflow
from common.settings import from_values
from data.folder import split_folder
from training.flags import given_flags
from training.guards import choose_algorithms, explained_failures
from training.loop import Training
from training.resume import (
    AUTO,
    describe_resumption,
    find_last_checkpoint,
    require_resumable,
    require_state_fits,
    resumed_values,
)
from training.run_folder import RunFolder, describe_start, only_training_in, require_outside
from training.settings import Start
from training.tracking import write_tracked_start

# settings that may change when a run is resumed, besides those of every run
FREE = frozenset(("training_dataset_path", "img_format", "cache_size", "keep_epochs"))
PATHS = ("training_dataset_path", "real_path", "unlabelled_path", "perceptual_model")
# flags whose default depends on the device; a run has a value of each
DERIVED = ("bs", "lr", "lr_schedule", "epochs", "input_size", "base_channels", "amp")
DERIVED += ("validate_every",)


@dataclass(frozen=True)
class PreparedRun:
    """A run that may start; `resumed` is the checkpoint to continue from, if any."""

    settings: AutoencoderSettings
    pictures: Pictures
    folder: RunFolder
    resumed: Path | None


@dataclass(frozen=True)
class Member:
    """One of the models that a command trains: its class folder, if it has one, and its settings.

    `may_be_new` says that a resumed command begins the run where there is none.
    """

    group: str | None
    values: dict[str, Any]
    may_be_new: bool


def parse_args(
    arguments: list[str] | None = None, description: str = __doc__
) -> argparse.Namespace:
    """Parse a command line (None: that of the process); --help begins with the `description`.

    The result has every setting, with the defaults that suit the device, and `given`, the names of
    the flags that the command line sets. A wrong command line ends the process.
    """
    parser = make_parser(description)
    defaults, given = given_flags(parser, arguments)
    preset = device_preset(given.get("gpu_id"))
    parsed = argparse.Namespace(**defaults | preset | given | {"given": list(given)})
    if parsed.resume in (None, AUTO) and not parsed.training_dataset_path:
        parser.error(
            "found neither --training_dataset_path nor --resume, expected one of them; "
            "python prepare_dataset.py textures --output dataset/textures makes a data set"
        )
    try:
        if parsed.resume in (None, AUTO):
            require_consistent(vars(parsed))
    except UserError as error:
        parser.error(str(error))
    return parsed


def make_parser(description: str = __doc__) -> CommandParser:
    """The parser of the command line; a resumed run's settings are held against it, too."""
    parser = command_parser(description)
    add_flags(parser)
    return parser


def train(arguments: argparse.Namespace) -> list[Path]:
    """Train all models that the flags ask for, one after the other.

    Returns the paths of their best checkpoints in the main process, none in the others. Raises
    `UserError` for input that cannot be trained on.
    """
    best = []
    with join_process_group(arguments.gpu_id) as processes:
        processes.run_on_main(partial(require_mlflow, arguments.mlflow))
        members = processes.run_on_main(lambda: list(members_of(arguments)))
        for number, member in enumerate(members, start=1):
            if len(members) > 1 and processes.is_main:
                group = f" of {member.group}" if member.group is not None else ""
                print(f"model {number} of {len(members)}{group}, seed {member.values['seed']}")
            path = train_member(arguments, member, processes)
            best += [path] if path else []
    return best


def members_of(arguments: argparse.Namespace) -> Iterator[Member]:
    """The models that --seeds and --per_class ask for; one without these flags.

    A class has a folder of its own in --checkpoint_path, a seed is part of a run's name. Raises
    `UserError` where there are no class folders.
    """
    values = {name: value for name, value in vars(arguments).items()}
    seeds, per_class = values.pop("seeds"), values.pop("per_class")
    if not seeds and not per_class:
        yield Member(None, values, False)
        return
    if isinstance(arguments.resume, Path) and arguments.resume != AUTO:
        raise UserError(
            f"--resume {arguments.resume}: found --seeds or --per_class, "
            "expected --resume without a path: it goes on with all of them"
        )
    if not arguments.training_dataset_path:
        flag = "--seeds" if seeds else "--per_class"
        raise UserError(f"found no --training_dataset_path, expected it beside {flag}")
    require_different("--seeds", seeds or [])
    settings = from_values(AutoencoderSettings, values)
    for group in groups_of(settings) if per_class else [None]:
        for seed in seeds or [None]:
            changed = dict(values)
            if group is not None:
                changed["checkpoint_path"] = settings.checkpoint_path / group
            if seed is not None:
                changed |= {"seed": seed, "name": f"{settings.run_name()}_seed{seed}"}
            yield Member(group, changed, True)


def train_member(
    arguments: argparse.Namespace, member: Member, processes: ProcessGroup
) -> Path | None:
    """Train one model; its best checkpoint's path in the main process, None in the others."""
    with ExitStack() as resources:
        run = processes.run_on_main(lambda: prepare(arguments, member, processes, resources))
        settings, folder, after_save = run.settings, run.folder, []
        choose_algorithms(settings)
        if processes.is_main:
            started = describe_start(processes, run.resumed)
            after_save += write_tracked_start(
                folder, settings.plain(), started, arguments.mlflow, resources
            )
        with explained_failures(settings.bs):
            task = AutoencoderTask(settings, run.pictures, processes)
            content = load_content(run.resumed) if run.resumed else None
            Training(task, settings, processes, folder, content, after_save).run()
        return folder.best if processes.is_main else None


def prepare(
    arguments: argparse.Namespace, member: Member, processes: ProcessGroup, resources: ExitStack
) -> PreparedRun:
    """Check and prepare everything that a run needs, in the main process.

    `resources` holds the lock of the checkpoint folder. Raises `UserError` when the training cannot
    start.
    """
    values = member.values
    start = Start(arguments.resume, arguments.overwrite, frozenset(arguments.given))
    resumed = _find_resumed(start, member)
    content = {}
    if resumed:
        with prefix_errors(resumed):
            content = load_content(resumed)
            values = _resumed_values(values, start, content, resumed.parent, processes.count)
            require_consistent(values)
            require_state_fits(content, make_network(content), "U-Net")
    settings = from_values(AutoencoderSettings, values)
    if settings.sync_batch_norm and processes.device.type != "cuda":
        raise UserError("--sync_batch_norm: found the CPU, expected GPUs")
    require_outside(
        "--checkpoint_path",
        settings.checkpoint_path,
        settings.training_dataset_path,
        "good ones",
    )
    resources.enter_context(only_training_in(settings.checkpoint_path))
    pictures = find_pictures(settings, settings.checkpoint_path, member.group)
    if resumed:
        with prefix_errors(resumed):
            _require_same_pictures(content, pictures)
    folder = RunFolder(settings.checkpoint_path, settings.run_name(), MORE_SUFFIXES)
    folder.prepare(resumed, start.overwrite or start.resume == AUTO)
    if resumed:
        print(describe_resumption(resumed, content, settings.epochs))
    return PreparedRun(settings, pictures, folder, resumed)


def _find_resumed(start: Start, member: Member) -> Path | None:
    """The checkpoint that a run continues from; None for a run that begins."""
    if not start.resume:
        return None
    values = member.values
    if member.may_be_new:
        name = from_values(AutoencoderSettings, values).run_name()
        last = values["checkpoint_path"] / f"{name}.pth"
        return last if last.is_file() else None
    pattern = _run_pattern(values, start.given)
    return find_last_checkpoint(start, values["checkpoint_path"], pattern, (LIBRARY_SUFFIX,))


def _run_pattern(values: dict[str, Any], given: frozenset[str]) -> str:
    """A glob for the names of runs that share the `given` settings with `values`."""
    if "name" in given:
        return glob.escape(values["name"])
    named = ("task", "lr", "bs", "input_size")
    shared = {name: values[name] if name in given else "*" for name in named}
    return RUN_NAME.format(epochs="*", **shared)


def _resumed_values(
    values: dict[str, Any], start: Start, content: dict[str, Any], folder: Path, processes: int
) -> dict[str, Any]:
    """The settings of a resumed run. Raises `UserError`, without the path, as `resumed_values`."""
    require_resumable(content, processes)
    names = {setting.name for setting in fields(AutoencoderSettings)}
    if missing := sorted(names - content.keys()):
        raise UserError(f"found no {missing[0]}, expected a run of this version")
    kept = {name: content[name] for name in names if name != "gpu_id"}
    for name in DERIVED:
        if kept[name] is None:
            raise UserError(f"found a run of --{name} None, expected a value")
    require_like_flags(make_parser(), kept)
    tool_values = {name: content[name] and Path(content[name]) for name in PATHS}
    return resumed_values(values, start, content, folder, tool_values, FREE)


def _require_same_pictures(content: dict[str, Any], pictures: Pictures) -> None:
    """Raise `UserError`, without the path, when a checkpoint was trained on other pictures."""
    if any(content[name] != value for name, value in pictures.facts().items()):
        raise UserError(
            f"found a run on other pictures, expected the {len(pictures.hashes)} that are there now"
        )


def main() -> int:
    """Train, print the best checkpoints and the next command, and return the exit code."""
    arguments = parse_args()
    best = train(arguments)
    for path in best:
        print(f"best checkpoint: {path}")
    if best:
        print("\n".join(next_commands(arguments, best)))
    return 0


def next_commands(arguments: argparse.Namespace, best: list[Path]) -> list[str]:
    """What to run after a training that has left the `best` checkpoints.

    Models of different classes are no ensemble: with --per_class it is the command of the first
    class, and a line on the others.
    """
    command = ["python", "-m", f"{TOOL}.inference", "--models"]
    if not arguments.per_class:
        return [f"next: {shlex.join([*command, *map(str, best)])}"]
    place = best[0].parent
    folder = arguments.training_dataset_path / place.name
    words = [*command, *(str(path) for path in best if path.parent == place)]
    tested = shlex.quote(str(folder)) if split_folder(folder, "test") else "..."
    lines = [f"next, for {place.name}: {shlex.join(words)} --test_path {tested}"]
    if others := list(dict.fromkeys(path.parent.name for path in best if path.parent != place)):
        lines.append(
            f"the same for {', '.join(others)}, each with its own --models, --test_path and "
            "--output_dir"
        )
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
