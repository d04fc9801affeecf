"""The calibration of a trained classifier, on the images of its data set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from classifier.calibration import Calibration, at_temperature, fit_temperature
from classifier.defect_checkpoint import DefectModel
from classifier.defect_data import LabelledPicture, list_labelled
from classifier.defect_graph import KnownImages
from classifier.defect_samples import LabelledImages
from common.errors import UserError
from common.pipeline import grouped
from data.image_files import to_unit_range

BATCH = 32  # images that are looked at together
MOST_KNOWN = 2000  # training images whose features are kept


@dataclass(frozen=True)
class FittedCalibration:
    """A calibration, and what is known of the training's images.

    `known`, on the CPU, is None where the network has no features, or without images of train/.
    """

    calibration: Calibration
    known: KnownImages | None


def fit_calibration(model: DefectModel, root: Path) -> FittedCalibration | None:
    """Fit the temperature on valid/ of a data set, and keep what its train/ looks like.

    The network stays on the device where it is. None without images in valid/. Raises `UserError`
    for a data set that is missing, an image that cannot be used, and a kind in valid/ that the
    network does not know.
    """
    valid, train = list_labelled(root, "valid"), list_labelled(root, "train")
    if not valid:
        return None
    if unseen := sorted({picture.kind for picture in valid} - set(model.kinds)):
        raise UserError(
            f"{root}: found {unseen[0]} in valid/, expected one of {', '.join(model.kinds)}"
        )
    logits, held_out = _look_at(model, valid)
    labels = np.array([model.kinds.index(picture.kind) for picture in valid])
    temperature = fit_temperature(logits, labels)
    probabilities = at_temperature(np.exp(logits - logits.max(axis=1, keepdims=True)), temperature)
    known, distances = None, ()
    if train and held_out is not None:
        known = KnownImages(_look_at(model, _evenly(train, MOST_KNOWN))[1])
        distances = tuple(known(held_out).tolist())
    calibration = Calibration(
        temperature,
        tuple(probabilities.max(axis=1).tolist()),
        tuple((logits.argmax(axis=1) == labels).tolist()),
        distances,
    )
    return FittedCalibration(calibration, known)


@torch.inference_mode()
def _look_at(
    model: DefectModel, pictures: list[LabelledPicture]
) -> tuple[np.ndarray, torch.Tensor | None]:
    """Logits (N, K) and embeddings (N, D), on the CPU; None where there are none."""
    images = LabelledImages(pictures, model.input_max, model.channels, model.image_size, True, 0)
    device = next(model.network.parameters()).device
    logits, embeddings = [], []
    for numbers in grouped(range(len(pictures)), BATCH):
        batch = np.stack([images[number][0] for number in numbers])
        output = model.network(torch.from_numpy(to_unit_range(batch)).to(device))
        logits.append(output.logits.float().cpu().numpy())
        if output.embedding is not None:
            embeddings.append(output.embedding.float().cpu())
    return np.concatenate(logits), torch.cat(embeddings) if embeddings else None


def _evenly(pictures: list[LabelledPicture], most: int) -> list[LabelledPicture]:
    """At most so many pictures, spread evenly over all."""
    if len(pictures) <= most:
        return pictures
    return [pictures[number * len(pictures) // most] for number in range(most)]
