"""The calibration of a trained classifier, on the images of its data set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from classifier.calibration import Calibration, at_temperature, fit_temperature
from classifier.defect_checkpoint import DefectModel
from classifier.defect_data import LabelledPicture, list_labelled
from classifier.defect_graph import unit_length
from classifier.defect_samples import LabelledImages
from common.errors import UserError
from common.pipeline import grouped
from data.image_files import to_unit_range

BATCH = 32  # images that are looked at together
MOST_FEATURES = 2000  # training images whose features are kept


@dataclass(frozen=True)
class FittedCalibration:
    """A calibration, and the features (N, D) of training images, each of length 1.

    `features` is None where the network has none, or without images of the training.
    """

    calibration: Calibration
    features: torch.Tensor | None


def fit_calibration(model: DefectModel, root: Path) -> FittedCalibration | None:
    """Fit the temperature on valid/ of a data set, and keep features of its train/.

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
    features, distances = None, ()
    if train and held_out is not None:
        features = _look_at(model, _evenly(train, MOST_FEATURES))[1]
        distances = tuple((1 - (held_out @ features.T).amax(dim=1)).tolist())
    calibration = Calibration(
        temperature,
        tuple(probabilities.max(axis=1).tolist()),
        tuple((logits.argmax(axis=1) == labels).tolist()),
        distances,
    )
    return FittedCalibration(calibration, features)


@torch.inference_mode()
def _look_at(
    model: DefectModel, pictures: list[LabelledPicture]
) -> tuple[np.ndarray, torch.Tensor | None]:
    """Logits (N, K) and features (N, D) of length 1, on the CPU; None where there are none."""
    images = LabelledImages(pictures, model.input_max, model.channels, model.image_size, True, 0)
    device = next(model.network.parameters()).device
    logits, features = [], []
    for numbers in grouped(range(len(pictures)), BATCH):
        batch = np.stack([images[number][0] for number in numbers])
        output = model.network(torch.from_numpy(to_unit_range(batch)).to(device))
        logits.append(output.logits.float().cpu().numpy())
        if output.embedding is not None:
            features.append(unit_length(output.embedding.float()).cpu())
    return np.concatenate(logits), torch.cat(features) if features else None


def _evenly(pictures: list[LabelledPicture], most: int) -> list[LabelledPicture]:
    """At most so many pictures, spread evenly over all."""
    if len(pictures) <= most:
        return pictures
    return [pictures[number * len(pictures) // most] for number in range(most)]
