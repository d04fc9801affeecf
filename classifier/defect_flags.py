"""The command line of a defect classifier's training."""

import argparse
from collections.abc import Container
from pathlib import Path
from typing import Any

from arguments import add_true_or_false, camera_range, from_0_to_1, positive, whole_number
from classifier.backbones import BACKBONES, LITE0, SMALL
from classifier.defect_loss import (
    ALPHA,
    BETA,
    END,
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    SEG_LOSSES,
    START,
    SWITCH_EPOCH,
    WEIGHT_SCHEDULES,
)
from classifier.defect_model import (
    ARCHITECTURES,
    CLASSIFICATION,
    DECODER_CHANNELS,
    GUIDANCES,
    GUIDED,
    HEAD_CHANNELS,
    SEGMENTATION,
    STOPPED,
)
from classifier.defect_settings import BALANCED, NO_WEIGHTS, PRESET, STAGE1, STAGE2
from common.command_parser import add_alias, group_flags
from common.errors import UserError
from common.mlflow_store import add_mlflow
from data.image_files import DEFAULT_INPUT_MAX
from training.flags import add_loop_flags

LARGEST_SIDE, WIDEST = 4096, 4096  # pixels; channels of a layer
FLAG_GROUPS = {
    "images": "data_root image_size input_max cache_size augment",
    "run": "save_dir resume overwrite save_every seed epochs patience mlflow",
    "stages": "init two_stages stage1_epochs stage1_lr stage1_batch_size freeze_backbone",
    "network": "backbone pretrained architecture guidance decoder_channels head_channels dropout",
    "loss and optimizer": "alpha beta use_dynamic_weights weight_schedule switch_epoch "
    "use_uncertainty_weighting focal_loss focal_alpha focal_gamma class_weights seg_loss "
    "batch_size accumulate lr lr_schedule weight_decay",
    "machine": "gpu_id num_workers amp compile deterministic sync_batch_norm",
}
PRETRAINED_HELP = (
    "first weights of the backbone: a folder with config.json and safetensors for a network of "
    f"transformers, hub:NAME to download them, or none for random ones; default: ImageNet's for "
    f"{LITE0}, where they are installed, and random ones for all others"
)
ARCHITECTURE_HELP = (
    "attention_guided: the mask weights the features that are classified; dual_branch: both are "
    "branches that attention joins; or one half of it"
)
GUIDANCE_HELP = (
    "mean: mean of the features under the mask; stopped: the class does not change the mask; "
    "concatenated: the mask is a further feature"
)
TWO_STAGES_HELP = (
    f"first train all but the backbone, then everything: into {{save_dir}}/stage1 and stage2; "
    f"defaults of the second stage: --epochs {STAGE2['epochs']} --batch_size {STAGE2['bs']} "
    f"--lr {STAGE2['lr']:g}"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags, in FLAG_GROUPS."""
    add_loop_flags(
        parser,
        f"an epoch is every image once; default: {PRESET['epochs']}",
        {name: str(PRESET[name]) for name in ("bs", "lr", "lr_schedule")},
        has_name=False,  # a run has a folder of its own
    )
    add_alias(parser, "--bs", "--batch_size")
    add_alias(parser, "--checkpoint_path", "--save_dir")
    add_mlflow(parser, "settings, figures and pictures of each stage")
    _add_image_flags(parser)
    _add_network_flags(parser)
    _add_loss_flags(parser)
    group_flags(parser, FLAG_GROUPS)


def _add_image_flags(parser: argparse.ArgumentParser) -> None:
    number = whole_number
    parser.add_argument(
        "--data_root",
        type=Path,
        help="data set with train/KIND/, valid/KIND/ and masks in ground_truth_train/KIND/; "
        "default: none, needed unless --resume",
    )
    parser.add_argument(
        "--image_size",
        type=number(8, LARGEST_SIDE),
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width, that images are resized to; default: their own size",
    )
    parser.add_argument(
        "--input_max",
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest value that the camera can deliver",
    )
    parser.add_argument(
        "--cache_size",
        type=number(0),
        default=4000,
        help="images kept in memory, by each process, and at most 1 GiB",
    )
    add_true_or_false(
        parser,
        "--augment",
        "change images at random: flips, turns, small shifts and scale, light, noise, blur",
    )


def _add_network_flags(parser: argparse.ArgumentParser) -> None:
    number = whole_number
    parser.add_argument(  # without `choices`: `require_known` says it in one line
        "--backbone", default=SMALL, metavar="NAME", help=", ".join(BACKBONES)
    )
    parser.add_argument("--pretrained", metavar="FOLDER", help=PRETRAINED_HELP)
    parser.add_argument(
        "--freeze_backbone", action="store_true", help="train everything but the backbone"
    )
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default=GUIDED, help=ARCHITECTURE_HELP
    )
    parser.add_argument("--guidance", choices=GUIDANCES, default=STOPPED, help=GUIDANCE_HELP)
    parser.add_argument(
        "--decoder_channels",
        type=number(1, WIDEST),
        nargs="+",
        default=list(DECODER_CHANNELS),
        help="width of each stage of the segmentation decoder",
    )
    parser.add_argument(
        "--head_channels",
        type=number(1, WIDEST),
        nargs="+",
        default=list(HEAD_CHANNELS),
        help="width of each hidden layer of the classification head",
    )
    parser.add_argument("--dropout", type=_dropout, default=0.1, help="share dropped in the head")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="CHECKPOINT",
        help="begin with the weights of this checkpoint, or of the best one in this folder",
    )
    parser.add_argument("--two_stages", action="store_true", help=TWO_STAGES_HELP)
    parser.add_argument(
        "--stage1_epochs",
        type=number(1),
        default=STAGE1["epochs"],
        help="epochs of the first of --two_stages",
    )
    parser.add_argument(
        "--stage1_lr",
        type=positive,
        default=STAGE1["lr"],
        help="learning rate of the first of --two_stages",
    )
    parser.add_argument(
        "--stage1_batch_size",
        type=number(1),
        default=STAGE1["bs"],
        help="images per batch of the first of --two_stages",
    )


def _add_loss_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alpha", type=positive, default=ALPHA, help="weight of the kind's loss")
    parser.add_argument("--beta", type=positive, default=BETA, help="weight of the mask's loss")
    parser.add_argument(
        "--use_dynamic_weights",
        action="store_true",
        help=f"weights {START[0]:g} and {START[1]:g} until --switch_epoch, then {END[0]:g} and "
        f"{END[1]:g}",
    )
    parser.add_argument(
        "--weight_schedule",
        choices=WEIGHT_SCHEDULES,
        default="step",
        help="how --use_dynamic_weights changes them",
    )
    parser.add_argument(
        "--switch_epoch",
        type=whole_number(1),
        default=SWITCH_EPOCH,
        help="epoch from which --use_dynamic_weights has its last weights",
    )
    parser.add_argument(
        "--use_uncertainty_weighting",
        action="store_true",
        help="train the weights of both losses as log-variances",
    )
    parser.add_argument(
        "--focal_loss", action="store_true", help="focal loss of the kind, not cross-entropy"
    )
    parser.add_argument("--focal_alpha", type=from_0_to_1, default=FOCAL_ALPHA, help="its factor")
    parser.add_argument("--focal_gamma", type=positive, default=FOCAL_GAMMA, help="its exponent")
    parser.add_argument(
        "--class_weights",
        choices=(NO_WEIGHTS, BALANCED),
        default=NO_WEIGHTS,
        help="balanced: rare kinds count as much as frequent ones",
    )
    parser.add_argument(
        "--seg_loss",
        choices=SEG_LOSSES,
        default="bce_dice",
        help="loss of the mask; dice is of defective images alone, but with bce_dice_all",
    )
    parser.add_argument(
        "--weight_decay", type=from_0_to_1, default=1e-4, help="weight decay of Adam"
    )


def require_consistent(values: dict[str, Any]) -> None:
    """Raise `UserError` for settings of which each is valid but that exclude each other."""
    if values["image_size"] and len(values["image_size"]) > 2:
        raise UserError(
            f"--image_size: found {len(values['image_size'])} numbers, "
            "expected one side, or height and width"
        )
    if values["use_dynamic_weights"] and values["use_uncertainty_weighting"]:
        raise UserError(
            "found --use_dynamic_weights and --use_uncertainty_weighting, expected one of them"
        )
    both_losses = values["architecture"] not in (CLASSIFICATION, SEGMENTATION)
    if values["use_uncertainty_weighting"] and not both_losses:
        raise UserError(
            f"--use_uncertainty_weighting: found --architecture {values['architecture']}, "
            "expected one that has a kind and a mask to weight"
        )
    if values["init"] and values["pretrained"]:
        raise UserError("found --init and --pretrained, expected one of them")


def without_effect(values: dict[str, Any], given: Container[str]) -> list[str]:
    """A line on the flags of `given` that other settings leave without effect, for each reason."""
    is_dynamic, architecture = values["use_dynamic_weights"], values["architecture"]
    rules = (
        (is_dynamic, "alpha beta", "with --use_dynamic_weights"),
        (values["use_uncertainty_weighting"], "alpha beta", "with --use_uncertainty_weighting"),
        (not is_dynamic, "weight_schedule switch_epoch", "without --use_dynamic_weights"),
        (not values["focal_loss"], "focal_alpha focal_gamma", "without --focal_loss"),
        (
            not values["two_stages"],
            "stage1_epochs stage1_lr stage1_batch_size",
            "without --two_stages",
        ),
        (architecture != GUIDED, "guidance", f"with --architecture {architecture}"),
    )
    idle = [
        ([f"--{name}" for name in names.split() if name in given], reason)
        for applies, names, reason in rules
        if applies
    ]
    return [f"{', '.join(flags)}: no effect {reason}" for flags, reason in idle if flags]


def _dropout(text: str) -> float:
    """Parse a share from 0 to below 1.

    Raises `ValueError` or `argparse.ArgumentTypeError` for other texts.
    """
    value = from_0_to_1(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a share below 1")
    return value
