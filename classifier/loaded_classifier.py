"""A trained classifier as inference takes it, from a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from classifier.calibration import Calibration
from classifier.defect_checkpoint import DefectModel, checkpoint_in, load_defect_model
from classifier.defect_graph import DefectGraph
from classifier.fit_calibration import FittedCalibration, fit_calibration, read_fitted
from common.errors import UserError, prefix_errors
from common.notes import warn

# images (B, C, H, W), 0-1, to the outputs of `DefectGraph` by name
Predict = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier and the facts that belong to it, as `DefectModel` has them.

    A cell of its attention is `stride` pixels of the network's image along each side.
    `calibration` is None where there were no held-out images. `shown` are settings for a report.
    """

    name: str
    kinds: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    input_max: float
    stride: int
    calibration: Calibration | None
    predict: Predict
    shown: dict[str, str]


@dataclass(frozen=True)
class CalibratedModel:
    """A checkpoint's model with its calibration, None without held-out images.

    `root` is the data set of the calibration, None where it is no longer there. `calibrated_on`
    says in words where the calibration is from.
    """

    model: DefectModel
    root: Path | None
    fitted: FittedCalibration | None
    calibrated_on: str = "nothing"

    def graph(self, input_kind: str = "unit") -> DefectGraph:
        """The module of model and calibration, in evaluation mode."""
        fitted, model = self.fitted, self.model
        temperature, known = (
            (fitted.calibration.temperature, fitted.known) if fitted else (1.0, None)
        )
        return DefectGraph(model.network, temperature, known, input_kind, model.input_max).eval()


def load_calibrated(
    path: Path, data_root: Path | None, device: torch.device, averages_flips: bool = False
) -> CalibratedModel:
    """Load a checkpoint, or the best one in a folder, with its calibration.

    That is fitted on the data set `data_root`; None means the one that the training stored in the
    checkpoint or, for a file without it, one that is fitted on the training's data set. Where that
    is no longer there, the classifier is not calibrated. With `averages_flips` it is the model of
    `DefectModel.averaged_over_flips`, whose calibration no file stores. Raises `UserError` for a
    file that is no checkpoint of this tool, and for a `data_root` that cannot be used.
    """
    model = load_defect_model(checkpoint_in(path))
    if averages_flips:
        with prefix_errors(model.path):
            model = model.averaged_over_flips()
    model.network.to(device)
    root = data_root or _trained_on(model.settings)
    if model.calibration is not None and not data_root:
        with prefix_errors(model.path):
            fitted = read_fitted(model.calibration, model.network.embedding_dim)
        return CalibratedModel(model, root, fitted, "valid/ of the training's data set")
    fitted = fit_calibration(model, root) if root else None
    if fitted:
        return CalibratedModel(model, root, fitted, str(root / "valid"))
    if data_root:
        raise UserError(f"--data_root {root}: found no valid/, expected held-out images in it")
    warn(
        "found no held-out images of the training, so confidences are not calibrated: "
        "--data_root FOLDER names a data set with valid/"
    )
    return CalibratedModel(model, None, None)


def load_classifier(
    path: Path, data_root: Path | None, device: torch.device, averages_flips: bool = False
) -> LoadedClassifier:
    """A checkpoint as inference takes it. Raises `UserError` as `load_calibrated`."""
    calibrated = load_calibrated(path, data_root, device, averages_flips)
    model, graph = calibrated.model, calibrated.graph().to(device)

    @torch.inference_mode()
    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        results = graph(torch.from_numpy(images).to(device))
        return {name: found.float().cpu().numpy() for name, found in zip(graph.outputs, results)}

    return LoadedClassifier(
        model.path.name,
        model.kinds,
        model.channels,
        model.image_size,
        model.input_max,
        model.network.backbone.stride,
        calibrated.fitted.calibration if calibrated.fitted else None,
        predict,
        {
            "checkpoint": str(model.path.absolute()),
            "network": model.describe(),
            "epoch": str(model.epoch + 1),
            "calibrated on": calibrated.calibrated_on,
            "device": str(device),
        },
    )


def _trained_on(settings: dict[str, object]) -> Path | None:
    """The data set of the training, where it is still there."""
    root = settings.get("data_root")
    return Path(root) if isinstance(root, str) and Path(root).is_dir() else None
