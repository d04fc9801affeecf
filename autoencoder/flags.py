"""The command line of a reference-free detector's training."""

import argparse
from pathlib import Path
from typing import Any

from arguments import (
    CHECKPOINT_FOLDER,
    LARGEST_SEED,
    add_img_format,
    camera_range,
    positive,
    share,
    whole_number,
)
from autoencoder.losses import DEFAULT_LOSS, parse_loss
from autoencoder.model import LARGEST_INPUT, TOOL, WIDEST_BASE
from autoencoder.network import DEPTHS, SKIPS
from autoencoder.perceptual import KINDS as PERCEPTUAL_KINDS
from autoencoder.pseudo_defects import KINDS, PseudoDefects
from autoencoder.settings import CHOICES, FLIPS, FULL_PRESET, LEAST_CROPS, SMALL_PRESET, TASKS
from common.command_parser import group_flags
from common.errors import UserError
from common.mlflow_store import add_mlflow
from data.image_files import DEFAULT_INPUT_MAX
from training.flags import add_loop_flags

FLAG_GROUPS = {
    "pictures": "training_dataset_path img_format input_max valid_share per_class cache_size",
    "run": "checkpoint_path name resume overwrite save_every seed seeds epochs epoch_crops "
    "patience keep_epochs mlflow",
    "task and network": "task depth base_channels skips bottleneck",
    "crops": "input_size input_sizes scale_range zoom_range flips coarse_dropout",
    "loss and optimizer": "loss ssim_window perceptual perceptual_model bs accumulate lr "
    "lr_schedule weight_decay",
    "painted defects": "defect_kinds defect_size defect_rotation defect_contrast",
    "validation": "validate_every real_path unlabelled_path choose_by",
    "machine": "gpu_id num_workers amp compile deterministic sync_batch_norm",
}
TASK_HELP = (
    "segment: find the damage painted into a picture; repair: undo it; reconstruct: give the "
    "picture back"
)
SKIPS_HELP = (
    "levels of the encoder that the decoder sees directly; shallow: the first one, deep: all but "
    "the first"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags, in FLAG_GROUPS."""
    number = whole_number
    add_loop_flags(
        parser,
        f"an epoch is --epoch_crops crops; default: {_default_of('epochs')}",
        {name: _default_of(name) for name in ("bs", "lr", "lr_schedule")},
    )
    parser.add_argument(
        "--training_dataset_path",
        type=Path,
        help="ROOT of a data set like MVTec AD's, of one kind of object or several, "
        "or a folder of good pictures; default: none, needed unless --resume",
    )
    add_img_format(parser, default=None)
    parser.add_argument(
        "--input_max",
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest value that the camera can deliver",
    )
    parser.add_argument(
        "--valid_share", type=share, default=0.1, help="share of the good pictures to hold out"
    )
    parser.add_argument(
        "--per_class", action="store_true", help="train one model for each class folder"
    )
    parser.add_argument(
        "--cache_size",
        type=number(1),
        default=200,
        help="pictures kept in memory, by each loader process",
    )
    parser.add_argument(
        "--seeds",
        type=number(0, LARGEST_SEED),
        nargs="+",
        help="train an ensemble: one model with each seed",
    )
    parser.add_argument(
        "--epoch_crops",
        type=number(1),
        help=f"crops in an epoch; default: the pictures, at least {LEAST_CROPS}, on a GPU, "
        f"{SMALL_PRESET['epoch_crops']} on the CPU",
    )
    parser.add_argument(
        "--keep_epochs",
        type=number(1),
        metavar="N",
        help="keep the weights of every N-th epoch, for python -m autoencoder.epochs",
    )
    add_mlflow(parser, "settings, figures and pictures of each run")
    parser.add_argument("--task", choices=TASKS, default="segment", help=TASK_HELP)
    parser.add_argument("--depth", type=number(*DEPTHS), default=4, help="halvings of the size")
    parser.add_argument(
        "--base_channels",
        type=number(1, WIDEST_BASE),
        help=f"width of the first level; default: {_default_of('base_channels')}",
    )
    parser.add_argument("--skips", choices=SKIPS, default="all", help=SKIPS_HELP)
    parser.add_argument(
        "--bottleneck",
        type=number(1, WIDEST_BASE),
        metavar="CHANNELS",
        help="channels of the deepest level; default: as the widths go on",
    )
    parser.add_argument(
        "--input_size",
        type=number(8, LARGEST_INPUT),
        help=f"side of a crop in pixels; default: {_default_of('input_size')}",
    )
    parser.add_argument(
        "--input_sizes",
        type=number(8, LARGEST_INPUT),
        nargs="+",
        help="sides of the crops, another one in each batch; default: --input_size alone",
    )
    parser.add_argument(
        "--scale_range",
        type=positive,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="pixels: a picture's longer side is drawn from it before the crop; "
        "default: --zoom_range decides",
    )
    parser.add_argument(
        "--zoom_range",
        type=positive,
        nargs=2,
        default=[0.7, 1.4],
        metavar=("LOW", "HIGH"),
        help="factors of a picture's own size that a crop is drawn at",
    )
    parser.add_argument(
        "--flips", choices=FLIPS, default="none", help="directions that crops are mirrored in"
    )
    parser.add_argument(
        "--coarse_dropout",
        type=number(0, 100),
        default=0,
        metavar="HOLES",
        help="most rectangles of an input that are filled with its mean",
    )
    parser.add_argument(
        "--loss",
        default=DEFAULT_LOSS,
        help="sum of mse, l1, ssim and perceptual, each with its weight; "
        f"--task segment has the focal loss; default: {DEFAULT_LOSS}",
    )
    parser.add_argument(
        "--ssim_window", type=number(3, 99), default=11, help="side of SSIM's window in pixels"
    )
    parser.add_argument(
        "--perceptual",
        choices=PERCEPTUAL_KINDS,
        help="network of --loss perceptual: an earlier checkpoint, an untrained one, or "
        "EfficientNet-Lite0 where it is installed",
    )
    parser.add_argument(
        "--perceptual_model", type=Path, metavar="CHECKPOINT", help="of --perceptual own"
    )
    parser.add_argument(
        "--weight_decay", type=_not_negative, default=1e-5, help="weight decay of Adam"
    )
    usual = PseudoDefects()
    parser.add_argument(
        "--defect_kinds",
        default=",".join(usual.kinds),
        help=f"pseudo-defects that are painted, some of {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--defect_size",
        type=positive,
        nargs=2,
        default=list(usual.size),
        metavar=("LOW", "HIGH"),
        help="pixels: longer side of a pseudo-defect",
    )
    parser.add_argument(
        "--defect_rotation",
        type=_not_negative,
        default=usual.rotation,
        help="degrees: largest angle of a pseudo-defect to the picture's sides",
    )
    parser.add_argument(
        "--defect_contrast",
        type=positive,
        nargs=2,
        default=list(usual.contrast),
        metavar=("LOW", "HIGH"),
        help="grey levels 0-255 by which a pseudo-defect changes a picture",
    )
    parser.add_argument(
        "--validate_every",
        type=number(1),
        metavar="EPOCHS",
        help=f"validation interval; default: {_default_of('validate_every')}",
    )
    parser.add_argument(
        "--real_path", type=Path, help="a few labelled pictures with real defects, to validate on"
    )
    parser.add_argument(
        "--unlabelled_path",
        type=Path,
        help="pictures without labels, beside held-out ones",
    )
    parser.add_argument(
        "--choose_by",
        choices=CHOICES,
        default="loss",
        help="what the best epoch is chosen by: the held-out loss, or the AUROC on pseudo-defects "
        "or on --real_path",
    )
    parser.set_defaults(checkpoint_path=CHECKPOINT_FOLDER / TOOL)
    group_flags(parser, FLAG_GROUPS)


def require_consistent(values: dict[str, Any]) -> None:
    """Raise `UserError` for settings of which each is valid but that exclude each other."""
    sizes = values["input_sizes"] or [values["input_size"]]
    multiple = 2 ** values["depth"]
    flag = "--input_sizes" if values["input_sizes"] else "--input_size"
    if odd := [size for size in sizes if size % multiple]:
        raise UserError(
            f"{flag}: found {odd[0]}, expected a multiple of {multiple} for --depth "
            f"{values['depth']}"
        )
    for name in ("scale_range", "zoom_range"):
        if values[name] and values[name][0] > values[name][1]:
            raise UserError(
                f"--{name}: found {values[name][0]:g} {values[name][1]:g}, "
                "expected LOW no larger than HIGH"
            )
    try:
        terms = parse_loss(values["loss"])
    except UserError as error:
        raise UserError(f"--loss: {error}") from None
    if values["ssim_window"] % 2 == 0 or values["ssim_window"] > min(sizes):
        raise UserError(
            f"--ssim_window: found {values['ssim_window']}, "
            f"expected an odd number up to {min(sizes)}, the side of a crop"
        )
    if "perceptual" in terms and not values["perceptual"] and values["task"] != "segment":
        raise UserError(
            f"--loss perceptual: found no --perceptual, expected {', '.join(PERCEPTUAL_KINDS)}"
        )
    if (values["perceptual"] == "own") != bool(values["perceptual_model"]):
        raise UserError(
            "found one of --perceptual own and --perceptual_model, expected both or none"
        )
    if values["coarse_dropout"] and values["task"] == "segment":
        raise UserError(
            "--coarse_dropout: found --task segment, expected reconstruct or repair: "
            "a hole would be damage without a mask"
        )
    if values["choose_by"] == "real" and not values["real_path"]:
        raise UserError("--choose_by real: found no --real_path, expected pictures to choose by")
    PseudoDefects(
        tuple(kind.strip() for kind in values["defect_kinds"].split(",")),
        tuple(values["defect_size"]),
        values["defect_rotation"],
        tuple(values["defect_contrast"]),
    )


def _default_of(name: str) -> str:
    """The defaults of a flag on both kinds of device, for its help."""
    return f"{FULL_PRESET[name]} on a GPU, {SMALL_PRESET[name]} on the CPU"


def _not_negative(text: str) -> float:
    """Parse a number from 0 on. Raises `ValueError` or `argparse.ArgumentTypeError` for others."""
    value = float(text)
    if value == 0:
        return 0.0
    return positive(text)
