"""A predictor that runs an exported file in ONNX Runtime: strips in grey levels to heatmaps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.device import choose_device
from common.errors import UserError, prefix_errors
from common.locations import location_of
from deploy.export_module import INPUTS, largest_value
from deploy.metadata import read_metadata
from deploy.session import ANY_DEVICE, SessionSettings, make_call, place_session
from evaluation.detector import Detector
from gaussian import MAX_GREY
from ops.candidates import CANDIDATES_PER_POINT
from ops.detector import AligningDetector

ONNX_TYPES = {torch.float32: "tensor(float)", torch.uint8: "tensor(uint8)"}
MOST_DIGITS = 6  # of a number of places
# by device; on a GPU the first calls choose algorithms and capture the graph
WARM_UP_CALLS = {"cpu": 1, "cuda": 3, "tensorrt": 3}


class OnnxPredictor:
    """Runs a full-strip ONNX file in ONNX Runtime, with up to `batch` strips per call.

    It is a `BatchPredictor` of evaluation/stream.py. `image_size` is the file's (height, width)
    in pixels.

    Raises `UserError`, naming the file, when the file is missing, when export_onnx_fullimage.py did
    not write it, or when the device cannot compute it.
    """

    def __init__(self, path: Path, settings: SessionSettings = ANY_DEVICE):
        with prefix_errors(path):
            self.placed = place_session(path, settings)
            self.session = self.placed.session
            self.device = self.placed.device
            self.batch = settings.batch
            entries = self.session.get_modelmeta().custom_metadata_map
            self.metadata = read_metadata(entries)
            nodes = [*self.session.get_inputs(), *self.session.get_outputs()[:1]]
            signature = [(node.name, node.type, *node.shape[1:]) for node in nodes]
            # an input or output may have any number of dimensions, or none
            height, width = [*signature[0], *(None,) * 2][3:5] if signature else (None, None)
            kind = ONNX_TYPES[INPUTS[self.metadata.input_kind]]
            expected = [
                ("input", kind, self.metadata.channels, height, width),
                ("output", "tensor(float)", 3, height, width),
            ]
            if signature != expected or not all(
                isinstance(length, int) for length in (height, width)
            ):
                raise UserError(
                    f"found inputs and outputs {signature}, "
                    "expected a file of export_onnx_fullimage.py"
                )
            self._call = make_call(self.placed, self.batch)
        self.align, self.image_size = self.metadata.info.align, (height, width)
        self.noise = self.metadata.info.noise or AligningDetector.noise
        self.most_points = _most_points(entries.get("places", ""))

    def warm_up(self) -> None:
        """Do the work of the first calls: allocate memory, choose algorithms, build engines.

        Raises `UserError` as `predict`.
        """
        black_strips = [self.prepare(np.zeros((3, *self.image_size), np.float32))] * self.batch
        for _ in range(WARM_UP_CALLS[self.device]):
            self.predict(black_strips)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to the heatmap (H, W), 0-1.

        Raises `UserError` as `prepare` and `predict`.
        """
        return self.predict([self.prepare(image)])[0]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Convert (3, H, W) grey levels 0-255 to one input of the file, (C, H, W).

        Raises `UserError` for a strip of another size than the file's.
        """
        if image.shape[1:] != self.image_size:
            raise UserError(
                f"found {image.shape[1:]} (height, width), "
                f"expected the ONNX file's {self.image_size}"
            )
        return self.to_model_input(image[None])[0]

    def predict(self, prepared: list[np.ndarray]) -> np.ndarray:
        """The heatmaps (n, H, W), 0-1, of n prepared strips; n is at most `batch`.

        Raises `UserError` when ONNX Runtime cannot compute them.
        """
        return self._call(np.stack(prepared))

    def to_model_input(self, images: np.ndarray) -> np.ndarray:
        """Convert (B, 3, H, W) grey levels 0-255 to the file's input (B, C, H, W)."""
        return to_model_input(
            images,
            self.metadata.input_kind,
            self.metadata.channels,
            self.metadata.info.input_max,
        )


def open_detector(path: Path, settings: SessionSettings) -> Detector:
    """The detector of an ONNX file; its predictor is an `OnnxPredictor`, not warmed up yet.

    Raises `UserError` as `OnnxPredictor`.
    """
    predictor = OnnxPredictor(path, settings)
    info = replace(predictor.metadata.info, image_size=predictor.image_size)
    return Detector(location_of(path), predictor, info, torch_device(predictor.device))


def torch_device(device: str) -> torch.device:
    """The device of the classical methods beside a model that runs on one of session.DEVICES."""
    return choose_device(-1 if device == "cpu" else None)


def _most_points(places: str) -> int | None:
    """How many points a file finds at once, from its metadata's `places`; empty: any number."""
    if not places.isdecimal() or len(places) > MOST_DIGITS:
        return None
    return max(1, int(places) // CANDIDATES_PER_POINT)


def to_model_input(
    images: np.ndarray, input_kind: str, channels: int, input_max: float
) -> np.ndarray:
    """Convert (B, 3, H, W) grey levels 0-255 to an ONNX file's input (B, `channels`, H, W).

    `input_kind`, one of export_module.INPUTS, sets the type and the range of values. `input_max` is
    the camera's largest value. A fourth channel is filled with zeros.
    """
    if channels > 3:
        images = np.concatenate([images, np.zeros_like(images[:, :1])], axis=1)
    values = np.multiply(images, largest_value(input_kind, input_max) / MAX_GREY, dtype=np.float32)
    return np.rint(values).astype(np.uint8) if input_kind == "uint8" else values
