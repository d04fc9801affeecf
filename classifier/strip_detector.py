"""The strip detector as a function of strips to heatmaps, for tools that make their own strips."""

from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import UserError
from data.image_files import DEFAULT_INPUT_MAX, STORED_ORDER
from deploy.onnx_predictor import OnnxPredictor
from evaluation.predictors import DetectorPredictor, TorchPredictor
from evaluation.stream import Predictor
from ops.classical import choose_sigma, classical_detector
from training.checkpoint import build_network, load_checkpoint, model_info


@dataclass(frozen=True)
class StripDetector:
    """A predictor, strips (3, H, W) in grey levels to heatmaps (H, W) 0-1, and its strips."""

    predictor: Predictor
    input_max: float = DEFAULT_INPUT_MAX
    order: tuple[int, ...] = STORED_ORDER


def open_detector(
    model: Path | None,
    method: str | None,
    input_max: float = DEFAULT_INPUT_MAX,
    order: tuple[int, ...] = STORED_ORDER,
) -> StripDetector:
    """The detector of a checkpoint, an ONNX file or, without one, a classical method; on the CPU.

    A model knows how to read strips; `input_max` and `order` are for a classical method. Raises
    `UserError` for a file that is no strip detector's.
    """
    device = torch.device("cpu")
    if model is None:
        detector = classical_detector(method, choose_sigma(method, {}))
        return StripDetector(DetectorPredictor(detector, device), input_max, order)
    if not model.is_file():
        raise UserError(f"{model}: found no such file, expected a checkpoint or an ONNX file")
    if model.suffix.lower() == ".onnx":
        predictor = OnnxPredictor(model)
        info = predictor.metadata.info
    else:
        content = load_checkpoint(model)
        info = model_info(content)
        network = build_network(content, model)
        predictor = TorchPredictor(
            network, info.patch, device, info.align, info.weighting, info.ignores_missing
        )
    return StripDetector(predictor, info.input_max, info.order)
