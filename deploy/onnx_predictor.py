"""An exported file as a predictor: strips in grey levels to heatmaps, in ONNX Runtime."""

from pathlib import Path

import numpy as np
import torch

from common.errors import UserError, prefix_errors
from deploy.export_module import INPUTS, largest_value
from deploy.metadata import read_metadata
from deploy.session import ANY_DEVICE, SessionSettings, make_call, place_session
from gaussian import MAX_GREY

ONNX_TYPES = {torch.float32: "tensor(float)", torch.uint8: "tensor(uint8)"}
# on a GPU the first ones choose algorithms and capture the graph
WARM_UP_CALLS = {"cpu": 1, "cuda": 3, "tensorrt": 3}


class OnnxPredictor:
    """A full-strip ONNX file in ONNX Runtime, called with up to `batch` strips at once; a
    `BatchPredictor` of evaluate.py.

    Raises `UserError`, naming the file, for one that is missing or not of export_onnx_fullimage.py,
    and for a device that does not compute it.
    """

    def __init__(self, path: Path, settings: SessionSettings = ANY_DEVICE):
        with prefix_errors(path):
            self.placed = place_session(path, settings)
            self.session, self.device, self.batch = (
                self.placed.session,
                self.placed.device,
                settings.batch,
            )
            self.metadata = read_metadata(self.session.get_modelmeta().custom_metadata_map)
            nodes = [*self.session.get_inputs(), self.session.get_outputs()[0]]
            signature = [(node.name, node.type, *node.shape[1:]) for node in nodes]
            height, width = signature[0][-2:]
            kind = ONNX_TYPES[INPUTS[self.metadata.input_kind]]
            expected = [
                ("input", kind, self.metadata.channels, height, width),
                ("output", "tensor(float)", 3, height, width),
            ]
            if signature != expected or not all(
                isinstance(length, int) for length in (height, width)
            ):
                raise UserError(
                    f"found inputs and outputs {signature}, expected a file of export_onnx_fullimage.py"
                )
            self._call = make_call(self.placed, self.batch)
        self.align, self.image_size = self.metadata.info.align, (height, width)

    def warm_up(self) -> None:
        """Have done what only the first calls do: memory, the choice of algorithms, engines.

        Raises `UserError` as `predict`.
        """
        nothing = [self.prepare(np.zeros((3, *self.image_size), np.float32))] * self.batch
        for _ in range(WARM_UP_CALLS[self.device]):
            self.predict(nothing)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.predict([self.prepare(image)])[0]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels to what the file takes.

        Raises `UserError` for a strip of another size.
        """
        if image.shape[1:] != self.image_size:
            raise UserError(
                f"found {image.shape[1:]} (height, width), expected the ONNX file's {self.image_size}"
            )
        return self.to_model_input(image[None])[0]

    def predict(self, prepared: list[np.ndarray]) -> np.ndarray:
        """(n, H, W) heatmaps of n strips, no more than `batch`.

        Raises `UserError` when ONNX Runtime cannot compute them.
        """
        return self._call(np.stack(prepared))

    def to_model_input(self, images: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) grey levels as the file takes them."""
        return to_model_input(
            images,
            self.metadata.input_kind,
            self.metadata.channels,
            self.metadata.info.input_max,
        )


def to_model_input(
    images: np.ndarray, input_kind: str, channels: int, input_max: float
) -> np.ndarray:
    """(B, 3, H, W) grey levels as an ONNX file takes them: of a kind in export_module.INPUTS, and
    with so many channels.
    """
    if channels > 3:
        images = np.concatenate([images, np.zeros_like(images[:, :1])], axis=1)
    values = np.multiply(images, largest_value(input_kind, input_max) / MAX_GREY, dtype=np.float32)
    return np.rint(values).astype(np.uint8) if input_kind == "uint8" else values
