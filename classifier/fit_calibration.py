"""The calibration of a trained classifier, on the images of its data set.

A training fits it once it has ended and stores it in the best checkpoints, so that they need the
data set no more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classifier.calibration import (
    UNUSABLE,
    Calibration,
    at_temperature,
    fit_temperature,
    read_calibration,
)
from classifier.defect_checkpoint import (
    BEST_ACCURACY,
    BEST_IOU,
    CALIBRATION,
    DefectModel,
    load_defect_model,
)
from classifier.defect_data import LabelledPicture, list_labelled
from classifier.defect_graph import KnownImages
from classifier.defect_samples import LabelledImages
from classifier.tool import TOOL
from common.errors import UserError
from common.pipeline import grouped
from data.image_files import to_unit_range
from training.checkpoint import read_checkpoint, save_checkpoint

BATCH = 32  # images that are looked at together
MOST_KNOWN = 2000  # training images whose features are kept


@dataclass(frozen=True)
class FittedCalibration:
    """A calibration, and what is known of the training's images.

    `known`, on the CPU, is None where the network has no features, or without images of train/.
    """

    calibration: Calibration
    known: KnownImages | None

    def plain(self) -> dict[str, Any]:
        """The content for a checkpoint; `read_fitted` reads it."""
        known = self.known and dict(self.known.state_dict())
        return {"fitted": self.calibration.plain(), "known": known}


def read_fitted(content: object, embedding_dim: int | None) -> FittedCalibration:
    """The calibration of `FittedCalibration.plain`, for embeddings (N, embedding_dim).

    Raises `UserError` for anything else.
    """
    if not isinstance(content, dict) or set(content) != {"fitted", "known"}:
        raise UserError(UNUSABLE)
    calibration, state = read_calibration(content["fitted"]), content["known"]
    if state is None:
        return FittedCalibration(calibration, None)
    if embedding_dim is None or not _is_known(state, embedding_dim):
        raise UserError(UNUSABLE)
    known = KnownImages(torch.zeros_like(state["images"]))
    known.load_state_dict(state)
    return FittedCalibration(calibration, known)


def _is_known(state: object, width: int) -> bool:
    """Whether these are the buffers of `KnownImages`, of embeddings of a width."""
    if not isinstance(state, dict) or set(state) != {"mean", "spread", "images"}:
        return False
    is_finite = all(
        isinstance(tensor, torch.Tensor)
        and tensor.dtype == torch.float32
        and tensor.shape[-1:] == (width,)
        and bool(tensor.isfinite().all())
        for tensor in state.values()
    )
    return (
        is_finite
        and [state[name].ndim for name in ("mean", "spread", "images")] == [1, 1, 2]
        and 0 < len(state["images"]) <= MOST_KNOWN
        and bool((state["spread"] > 0).all())
    )


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


def store_calibrations(folder: Path, root: Path, device: torch.device) -> None:
    """Fit the calibration of each best checkpoint in `folder` on a data set, and store it there.

    Raises `UserError` as `fit_calibration`, and when the file system refuses.
    """
    for path in (folder / BEST_ACCURACY, folder / BEST_IOU):
        if not path.is_file():
            continue
        model = load_defect_model(path)
        model.network.to(device)
        if fitted := fit_calibration(model, root):
            content = read_checkpoint(path, TOOL)
            save_checkpoint(path, content | {CALIBRATION: fitted.plain()})


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
