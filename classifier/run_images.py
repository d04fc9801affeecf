"""What a run begins with: its verified images, and the checkpoint of an earlier stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from classifier.crops import read_crop_facts
from classifier.defect_checkpoint import COMMAND, checkpoint_in, load_content
from classifier.defect_data import (
    LabelledPicture,
    describe_unused,
    list_labelled,
    order_kinds,
    unused_masks,
)
from classifier.defect_model import CONCATENATED, SEGMENTATION
from classifier.defect_samples import LabelledImages, read_shape
from classifier.defect_settings import DefectSettings
from classifier.defect_task import DefectImages
from common.errors import UserError, prefix_errors
from common.notes import warn, warn_once
from data.folder import GOOD

# settings that two stages share: a network that begins with the weights of another
SAME_AS_INIT = ("backbone", "architecture", "guidance", "decoder_channels", "head_channels")
SAME_AS_INIT += ("channels", "use_uncertainty_weighting")


def find_images(settings: DefectSettings) -> tuple[DefectSettings, DefectImages]:
    """The verified images of a run, and its settings with their size and channels.

    Raises `UserError` for a data set without two kinds to train on, for a kind that is held out
    alone, and with a line for each file that cannot be used.
    """
    root = settings.data_root
    train, valid = (list_labelled(root, split) for split in ("train", "valid"))
    if not train:
        raise UserError(f"{root}: found no train/, expected train/KIND/ with images of each kind")
    kinds = order_kinds(picture.kind for picture in train)
    if len(kinds) < 2:
        raise UserError(
            f"{root}: found one kind in train/ ({kinds[0]}), expected two or more: "
            "a classifier tells them apart"
        )
    if unseen := sorted({picture.kind for picture in valid} - set(kinds)):
        raise UserError(f"{root}: found {unseen[0]} in valid/, expected a kind of train/")
    if settings.architecture == SEGMENTATION:
        _require_masks(root, train, kinds)
    if not valid:
        warn(f"{root} has no valid/: the last epoch is the best one")
    unused = [line for split in ("train", "valid") for line in unused_masks(root, split)]
    for line in describe_unused(unused):
        warn_once(line)  # a second stage has the same images
    channels, size = read_shape(train[0], settings.input_max)
    settings = replace(
        settings, image_size=settings.image_size or size, channels=settings.channels or channels
    )
    is_resized = settings.image_size != size

    def images_of(pictures: list[LabelledPicture]) -> LabelledImages:
        return LabelledImages(
            pictures,
            settings.input_max,
            settings.channels,
            settings.image_size,
            is_resized,
            settings.cache_size,
        )

    images, held_out = images_of(train), images_of(valid) if valid else None
    digest = images.verify("reading train/")
    if held_out:
        held_out.verify("reading valid/")
    return settings, DefectImages(kinds, images, held_out, digest, read_crop_facts(root))


def _require_masks(root: Path, train: list[LabelledPicture], kinds: list[str]) -> None:
    """Raise `UserError` where a mask alone could learn nothing, or tell no image from others."""
    if kinds[0] != GOOD:
        raise UserError(
            f"{root}: found no kind {GOOD}, expected it for --architecture segmentation"
        )
    if not any(picture.mask for picture in train):
        raise UserError(f"{root}: found no mask, expected some for --architecture segmentation")


def read_init(
    settings: DefectSettings, images: DefectImages
) -> tuple[DefectSettings, dict[str, Any]]:
    """The checkpoint that the weights begin with, and the settings with the epochs before it.

    Raises `UserError` for a checkpoint of another network, or of other kinds.
    """
    path = checkpoint_in(settings.init)
    with prefix_errors(f"--init {path}"):
        content = load_content(path)
        plain = settings.plain()
        for name in SAME_AS_INIT:
            if not _is_same(name, content[name], plain[name]):
                raise UserError(
                    f"found a network of --{name} {content[name]}, expected {plain[name]}"
                )
        if content["kinds"] != images.kinds:
            raise UserError(
                f"found a network of the kinds {', '.join(content['kinds'])}, "
                f"expected {', '.join(images.kinds)}"
            )
        before = [content.get(name) for name in ("epochs_before", "epochs")]
        if not all(type(number) is int and 0 <= number < 2**31 for number in before):
            raise UserError(f"found no epochs, expected a checkpoint of {COMMAND}")
    return replace(settings, epochs_before=sum(before)), content


def _is_same(name: str, before: Any, now: Any) -> bool:
    """Whether two values of a setting of SAME_AS_INIT make the same network."""
    if name == "guidance":  # the others differ in a gradient alone
        return (before == CONCATENATED) == (now == CONCATENATED)
    return before == now
