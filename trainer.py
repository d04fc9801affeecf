"""Train the segmentation network on good strips.

    # the demo strips, which train.sh makes
    python trainer.py
    # your strips, with the settings that suit the device
    python trainer.py --training_dataset_path /data/strips/train/good
    # eight GPUs
    torchrun --nproc_per_node=8 trainer.py --training_dataset_path /data/strips/train/good
    # the first recipe of this suite
    python trainer.py --training_dataset_path /data/strips/train/good \\
        --recipe classic --align none --arch unet
    # after an interruption
    python trainer.py --resume

A run writes its files into --checkpoint_path, under --name or
BgRemoval_lr{lr}_ep{epochs}_bs{bs}_{h}x{w}_{image_type}: the last and the best checkpoint, settings,
environment, metrics, TensorBoard events and pictures. When the data set has test strips, it also
writes the best checkpoint's scores and pictures of them. Ctrl-C saves what was learnt so far.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arguments import (
    CHECKPOINT_FOLDER,
    add_channels,
    add_image_type,
    add_img_format,
    add_remote_cache,
    add_target_false_alarms,
    add_true_or_false,
    camera_range,
    positive,
    require_like_flags,
    set_remote,
    share,
    whole_number,
)
from common.command_parser import command_parser, group_flags
from common.distributed import ProcessGroup, join_process_group
from common.errors import UserError, prefix_errors, run_command
from common.locations import path_or_url
from common.mlflow_store import add_mlflow, require_mlflow
from common.settings import from_values
from data.folder import GOOD, StripFile, split_beside
from data.image_files import DEFAULT_INPUT_MAX
from data.recipe_file import read_recipe_settings
from data.recipes import RECIPE_DEFAULTS, RECIPES, ROBUST
from data.registered_copies import aligned_copies
from data.remote_folder import local_view
from data.splits import Dataset, find_dataset
from evaluation.calibration import channel_measure, measure
from evaluation.detector import Detector
from evaluation.model_info import require_order
from evaluation.predictors import TorchPredictor
from evaluation.results import Rules
from evaluation.thresholds import DEFAULT_RATE, Threshold
from model import ARCHITECTURES
from ops.likelihood import DEFAULT_WEIGHTING, WEIGHTINGS
from ops.registration import ALIGN_MODES
from reporting.descriptions import describe_result
from reporting.pictures import StripWriter
from reporting.score_folder import evaluate_with_baselines, write_everything
from reporting.scored_folder import REPORT
from training.checkpoint import build_network, load_checkpoint, model_info, save_checkpoint
from training.distillation import check_teacher, require_not_of_run
from training.flags import add_loop_flags, given_flags
from training.guards import choose_algorithms, explained_failures
from training.loop import Training
from training.presets import FEWEST_STEPS, device_preset, epochs_for, steps_per_epoch
from training.remote_run import RunCopies, begin_run, copy_run, pull_run, with_local_run
from training.resume import AUTO, describe_resumption, find_last_checkpoint, require_state_fits
from training.run_folder import (
    ALIGNED_SUFFIX,
    TEST_SUFFIX,
    RunFolder,
    describe_start,
    only_training_in,
)
from training.schedules import GAMMA_SCHEDULES
from training.settings import Start
from training.strip_settings import (
    AUTO_WEIGHTING,
    TrainingSettings,
    require_same_strips,
    resumed_strip_values,
    run_pattern,
)
from training.strip_task import StripTask, selection_metric
from training.tracking import write_tracked_start
from training.weighting_choice import choose_weighting

DEMO_STRIPS = Path(__file__).resolve().parent / "dataset" / "demo" / "train" / GOOD
# flags whose default depends on others or on the device; a run has a value of each
DERIVED = ("epochs", "base_channels", "amp", "weighting")
RECIPE_HELP = (
    "how samples are made: classic paints strong defects, robust also faint ones, "
    "on channels that differ"
)
AMOUNTS_HELP = "YAML file with any amounts of --recipe robust, such as contrast: [5, 100]"
ALIGN_HELP = (
    "register the references to Target by fractions of a pixel (shift), "
    "match their gain and offset, too (full), "
    "and follow parts that bend and rows that vibrate (fine)"
)
WEIGHTING_HELP = (
    "what multiplies the odds of each pixel's probability: likelihood, (1 + L) squared, or "
    "strong_likelihood, (1 + L) to the fourth power, L being the likelihood ratio of a point that "
    f"Target alone has. {AUTO_WEIGHTING} trains with {DEFAULT_WEIGHTING}, and at the end "
    "takes none where that finds more of the held-out strips' points; none with --align none"
)
TEACHER_HELP = "checkpoint of a larger network, which this one learns from besides the masks"
# test strips of each kind whose panels are drawn; inference_pytorch.sh draws all
TEST_PICTURES_PER_KIND = 10
FLAG_GROUPS = {
    "strips": "training_dataset_path img_format channels image_type input_max use_mask",
    "run": "checkpoint_path name resume overwrite save_every seed epochs patience mlflow",
    "painted defects": "recipe recipe_settings num_defects_range",
    "network": "arch base_channels align weighting teacher",
    "loss and optimizer": "bs accumulate lr lr_schedule alpha gamma_start gamma_end gamma_schedule",
    "threshold": "target_false_alarms",
    "machine": "gpu_id num_workers cache_size amp compile deterministic sync_batch_norm "
    "remote_cache_gb prefetch",
}


@dataclass(frozen=True)
class PreparedRun:
    """A run that may start; `resumed` is the checkpoint to continue from, if any."""

    settings: TrainingSettings
    dataset: Dataset
    folder: RunFolder
    resumed: Path | None

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with its own files, and is no new run."""
        return bool(self.resumed) and self.resumed.resolve() == self.folder.last.resolve()


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process).

    The result has every setting, with the recipe's defaults, and `given`, the names of the flags
    that the command line sets. A wrong command line ends the process.
    """
    parser = make_parser()
    defaults, given = given_flags(parser, arguments)
    recipe = given.get("recipe", defaults["recipe"])
    # a resumed run has its own recipe, and the classic one takes no amounts
    takes_amounts = ROBUST if given.get("resume") and "recipe" not in given else recipe
    amounts = given.get("recipe_settings")
    derived = {
        "recipe_settings": read_recipe_settings(amounts, takes_amounts if amounts else recipe),
        "teacher_sha256": None,
        "given": list(given),
    }
    preset = device_preset(given.get("gpu_id"))
    parsed = argparse.Namespace(**defaults | preset | RECIPE_DEFAULTS[recipe] | given | derived)
    parsed.chooses_weighting = parsed.weighting == AUTO_WEIGHTING and parsed.align != "none"
    if parsed.weighting == AUTO_WEIGHTING:
        parsed.weighting = DEFAULT_WEIGHTING if parsed.chooses_weighting else "none"
    if parsed.resume in (None, AUTO) and not parsed.training_dataset_path:
        if not DEMO_STRIPS.is_dir():
            parser.error(
                "found neither --training_dataset_path nor --resume, expected one of them, or demo "
                "strips: python prepare_dataset.py demo --output dataset/demo makes them"
            )
        parsed.training_dataset_path = DEMO_STRIPS
    problem = None if parsed.resume not in (None, AUTO) else find_contradiction(vars(parsed))
    if problem:
        parser.error(problem)
    return parsed


def find_contradiction(values: dict[str, Any]) -> str | None:
    """A line on settings of which each is valid but that exclude each other; None without any."""
    weighting, align = values["weighting"], values["align"]
    if weighting != "none" and align == "none":
        return f"--weighting {weighting}: found --align none, expected registered references"
    fewest, most = values["num_defects_range"]
    if fewest > most:
        return f"--num_defects_range: found {[fewest, most]}, expected MIN no larger than MAX"
    return None


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line; a resumed run's settings are held against it, too."""
    parser = command_parser(__doc__)
    number = whole_number
    parser.add_argument(
        "--training_dataset_path",
        type=path_or_url,
        help="folder of good strips, usually ROOT/train/good",
    )
    add_loop_flags(
        parser,
        "an epoch is every tile of every strip once; default: 30 on a GPU, 10 on the CPU, "
        f"more where strips are so few that {FEWEST_STEPS} steps need it",
        location=path_or_url,
    )
    add_image_type(parser, default="strip")
    add_img_format(parser, default=None)
    add_channels(parser, default="target,ref1,ref2")
    parser.add_argument(
        "--num_defects_range",
        type=number(3, 1000),
        nargs=2,
        default=[4, 10],
        metavar=("MIN", "MAX"),
        help="fewest and most points in a painted patch, background points included",
    )
    parser.add_argument("--recipe", choices=RECIPES, default=ROBUST, help=RECIPE_HELP)
    parser.add_argument("--recipe_settings", type=Path, metavar="FILE", help=AMOUNTS_HELP)
    parser.add_argument("--align", choices=ALIGN_MODES, default="fine", help=ALIGN_HELP)
    weightings = (AUTO_WEIGHTING, *WEIGHTINGS)
    parser.add_argument(
        "--weighting", choices=weightings, default=AUTO_WEIGHTING, help=WEIGHTING_HELP
    )
    add_true_or_false(
        parser, "--use_mask", help="use the masks of valid/ and test/; False: image metrics only"
    )
    parser.add_argument(
        "--cache_size",
        type=number(0),
        default=100,
        help="decoded strips kept in memory; uncompressed TIFFs need none",
    )
    parser.add_argument(
        "--gamma_start", type=positive, default=1.0, help="focal loss gamma of the first epoch"
    )
    parser.add_argument(
        "--gamma_end", type=positive, default=3.0, help="focal loss gamma of the last epoch"
    )
    parser.add_argument(
        "--gamma_schedule",
        choices=GAMMA_SCHEDULES,
        default="cosine",
        help="how gamma changes in between; constant: gamma_start throughout",
    )
    parser.add_argument(
        "--alpha",
        type=share,
        default=0.75,
        help="focal loss weight of the defects; the background has 1 - alpha",
    )
    parser.add_argument(
        "--base_channels",
        type=number(1, 1024),
        default=None,
        help="width of the first level; default: 64 on a GPU, 16 on the CPU",
    )
    parser.add_argument(
        "--input_max",
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest value that the camera can deliver",
    )
    parser.add_argument(
        "--arch",
        choices=ARCHITECTURES,
        default="difference",
        help="mobile: for lines without a GPU; difference: also reads the channels' differences",
    )
    parser.add_argument("--teacher", type=Path, metavar="CHECKPOINT", help=TEACHER_HELP)
    add_target_false_alarms(parser, default=DEFAULT_RATE)
    add_remote_cache(parser)
    add_mlflow(parser, "settings, figures and pictures of the run")
    group_flags(parser, FLAG_GROUPS)
    return parser


def train(arguments: argparse.Namespace) -> Path | None:
    """Run a training to its end and score the test strips.

    Returns the best checkpoint's path in the main process, None in the others. Raises `UserError`
    for input that cannot be trained on.
    """
    set_remote(arguments)
    local, url = with_local_run(arguments)
    with join_process_group(arguments.gpu_id) as processes, ExitStack() as resources:

        def prepare_here() -> PreparedRun:
            require_mlflow(arguments.mlflow)  # before anything else takes time
            if arguments.resume:
                pattern = run_pattern(vars(arguments), arguments.given)
                pull_run(arguments.resume, arguments.checkpoint_path, pattern)
            prepared = prepare(local, processes, resources)
            if url and not prepared.goes_on:
                overwrite = arguments.overwrite or arguments.resume == AUTO
                begin_run(prepared.folder, url, overwrite)
            return prepared

        run = processes.run_on_main(prepare_here)
        settings, dataset, folder = run.settings, run.dataset, run.folder
        if url and processes.is_main:
            resources.callback(copy_run, folder, url)  # however the training ends
        choose_algorithms(settings)
        after_save = []
        if processes.is_main:
            started = describe_start(processes, run.resumed)
            after_save += write_tracked_start(
                folder, settings.plain(), started, arguments.mlflow, resources
            )
            if url:
                after_save.append(RunCopies(folder, url, settings.save_every))
        with explained_failures(settings.bs):
            task = StripTask(settings, dataset, processes.device)
            Training(
                task,
                settings,
                processes,
                folder,
                load_checkpoint(run.resumed) if run.resumed else None,
                after_save,
            ).run()
        if not processes.is_main:
            return None
        folder.remove_aligned()
        detector = measure_best(folder, dataset, settings, processes.device)
        settings = replace(settings, weighting=detector.predictor.weighting)
        threshold = detector.threshold()
        print(threshold.describe())
        if dataset.test:
            score_test_strips(detector, folder, dataset.test, threshold, settings)
        return folder.best


def prepare(
    arguments: argparse.Namespace, processes: ProcessGroup, resources: ExitStack
) -> PreparedRun:
    """Check and prepare everything that a run needs, in the main process.

    `resources` holds the lock of the checkpoint folder. Raises `UserError` when the training cannot
    start.
    """
    values = vars(arguments)
    start = Start(arguments.resume, arguments.overwrite, frozenset(arguments.given))
    resumed = (
        find_last_checkpoint(start, arguments.checkpoint_path, run_pattern(values, start.given))
        if start.resume
        else None
    )
    content = load_checkpoint(resumed) if resumed else {}
    if resumed:
        with prefix_errors(resumed):
            kept = {name: content[name] for name in values if name in content}
            if "channels" in kept:
                require_order(kept.pop("channels"))
            for name in ("gpu_id", "recipe_settings"):  # which are checked elsewhere
                kept.pop(name, None)
            require_like_flags(make_parser(), kept)
            for name in DERIVED:
                if kept.get(name, "") is None:
                    raise UserError(f"found a run of --{name} None, expected a value")
            values = resumed_strip_values(values, start, content, resumed.parent, processes.count)
            problem = find_contradiction(values)
            if problem:
                raise UserError(problem)
            make_network = partial(
                ARCHITECTURES[values["arch"]], base_channels=values["base_channels"]
            )
            require_state_fits(
                content,
                make_network,
                f"{make_network.func.__name__} of --base_channels {values['base_channels']}",
            )
    settings = from_values(TrainingSettings, values)
    if settings.sync_batch_norm and processes.device.type != "cuda":
        raise UserError("--sync_batch_norm: found the CPU, expected GPUs")
    if settings.teacher:
        settings = replace(settings, teacher_sha256=check_teacher(settings))
    resources.enter_context(only_training_in(settings.checkpoint_path))
    dataset = find_strips(settings)
    if settings.patience and selection_metric(dataset, settings.use_mask) is None:
        raise UserError(
            "--patience: found no good and defective strips to validate on, "
            "expected them in valid/, or no valid/ at all"
        )
    if resumed:
        with prefix_errors(resumed):
            require_same_strips(content, dataset)
    elif "epochs" not in start.given:
        settings = with_enough_steps(settings, dataset, processes.count)
    folder = RunFolder(settings.checkpoint_path, settings.run_name(dataset.image_size))
    if settings.teacher:
        require_not_of_run(settings.teacher, (folder.last, folder.best))
    folder.prepare(resumed, start.overwrite or start.resume == AUTO)
    if settings.align != "none":
        copies = aligned_copies(
            dataset.train,
            settings.align,
            settings.input_max,
            folder.file(ALIGNED_SUFFIX),
            processes.device,
        )
        dataset = replace(dataset, copies=copies)
    if resumed:
        print(describe_resumption(resumed, content, settings.epochs))
    return PreparedRun(settings, dataset, folder, resumed)


def with_enough_steps(
    settings: TrainingSettings, dataset: Dataset, processes: int
) -> TrainingSettings:
    """The settings with more epochs where the strips are few; prints why."""
    facts = len(dataset.train), dataset.image_size, processes
    epochs = epochs_for(settings, *facts)
    if epochs > settings.epochs:
        print(
            f"epochs: {epochs} instead of {settings.epochs}, because {len(dataset.train)} strips "
            f"are {steps_per_epoch(settings, *facts)} steps an epoch and {FEWEST_STEPS} steps are "
            "needed; --epochs sets another number"
        )
    return replace(settings, epochs=epochs)


def strips_folder(settings: TrainingSettings) -> Path:
    """The folder of good strips; of a URL the local one that stands for it."""
    path = settings.training_dataset_path
    return local_view(path, with_splits=True) if isinstance(path, str) else path


def find_strips(settings: TrainingSettings) -> Dataset:
    """The verified strips of a run. Raises `UserError` when some cannot be used."""
    return find_dataset(
        strips_folder(settings),
        settings.checkpoint_path,
        settings.patch,
        settings.img_format,
        settings.input_max,
        settings.recipe,
        settings.use_mask,
        settings.recipe_settings,
        settings.channels,
    )


def measure_best(
    folder: RunFolder, dataset: Dataset, settings: TrainingSettings, device: torch.device
) -> Detector:
    """Measure the best checkpoint on held-out strips, and store the results in it.

    They are the weighting, unless the command line names it, the calibration, from which the
    threshold follows, the contrast that points need to be found, the channels' ranges and the
    baselines' sigmas.
    """
    content = load_checkpoint(folder.best)
    network, weighting = build_network(content, folder.best), settings.weighting
    if settings.chooses_weighting:
        weighting = choose_weighting(network, dataset.valid, settings, device)
        content["weighting"] = weighting
        save_checkpoint(folder.last, load_checkpoint(folder.last) | {"weighting": weighting})
    predictor = TorchPredictor(network, settings.patch, device, settings.align, weighting)
    measured = measure(predictor, dataset.train, dataset.valid, settings.input_max, device)
    measured["target_false_alarms"] = settings.target_false_alarms
    measured["value_range"] = dataset.values.usual()
    save_checkpoint(folder.best, content | measured)
    info = replace(model_info(content), image_size=None, measured=measured)
    return Detector(folder.best.name, predictor, info, device)


def score_test_strips(
    detector: Detector,
    folder: RunFolder,
    strips: list[StripFile],
    threshold: Threshold,
    settings: TrainingSettings,
) -> None:
    """Score the test strips like an inference, and write the results beside the checkpoint.

    Raises `UserError` when a strip could not be scored.
    """
    output = folder.file(TEST_SUFFIX)
    rules = Rules(
        threshold,
        patch=detector.patch,
        measure=channel_measure(
            detector.predictor.align,
            detector.device,
            detector.info.contrast_response(threshold.value),
        ),
    )
    writer = StripWriter(output, TEST_PICTURES_PER_KIND)
    result = evaluate_with_baselines(detector, strips, rules, writer)
    scored = split_beside(strips_folder(settings), "test")
    write_everything(output, detector, scored, result, threshold, settings.plain())
    print(f"{folder.best.name} on {len(result.results)} test strips, which it has never seen:")
    for line in describe_result(result):
        print(f"  {line}")
    for warning in result.warnings:
        print(f"  warning: {warning}")
    print(f"  pictures, verdicts and {REPORT} are in {output}")
    if result.problems:  # every strip passed the checks before the first epoch
        raise UserError("\n".join(result.problems))


def main() -> int:
    """Train, print the best checkpoint and the next command, and return the exit code."""
    best_path = train(parse_args())
    if best_path is None:
        return 0
    print(f"best checkpoint: {best_path}")
    is_default = best_path.absolute().parent == Path(__file__).absolute().parent / CHECKPOINT_FOLDER
    exporting = f"python export_onnx_fullimage.py --checkpoint_path {shlex.quote(str(best_path))}"
    print(f"next: {'bash inference_onnx.sh' if is_default else exporting}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
