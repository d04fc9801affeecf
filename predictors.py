"""What answers a strip: `predictor(image (3, H, W) grey levels 0-255)` gives a heatmap (H, W) float32, defect probability 0-1.

Its `align` says what it does to the references first: one of alignment.MODES.
"""

import sys
from contextlib import AbstractContextManager
from errors import UserError, about, one_line
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from alignment import Alignment
from dataloader import to_unit_range
from gaussian import GREY_LEVELS
from model import SegmentationNetwork, SegmentationNetworkONNXFullImage
from model_file import read_description
from strip_graph import INPUTS

ONNX_TYPES = {torch.float32: "tensor(float)", torch.uint8: "tensor(uint8)"}
ERRORS_ONLY = 3  # of ONNX Runtime's log severities


class TorchPredictor:
    """A network in PyTorch: the very module that is exported, for strips of any size of at least one patch."""

    def __init__(self, network: SegmentationNetwork, patch: int, device: torch.device, align: str = "none", mode: str = "tiles"):
        self.network = network.to(device, memory_format=torch.channels_last)  # faster, on the CPU too
        self.patch, self.device, self.align, self.mode = patch, device, align, mode
        self._full_image: SegmentationNetworkONNXFullImage | None = None

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        size = image.shape[1:]
        if self._full_image is None or self._full_image.tiling.image_size != size:
            whole = SegmentationNetworkONNXFullImage(self.network, size, self.patch, self.align, self.mode)
            self._full_image = whole.to(self.device)
        was_training = self.network.training
        self._full_image.eval()
        with full_precision():
            heatmap = self._full_image(to_batch(image, self.device))[0, 0].cpu().numpy()
        self.network.train(was_training)
        return heatmap


class StripAligner:
    """What `Alignment` makes of one strip, in grey levels: for training, and to know how far strips were off."""

    def __init__(self, mode: str, device: torch.device):
        self.alignment = Alignment(mode).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) grey levels to the same, which may leave 0-255 where the references were matched, and (2, MEASURES)."""
        with full_precision():
            strips, measures = self.alignment(to_batch(image, self.device))
        return (strips[0] * GREY_LEVELS).cpu().numpy(), measures[0].cpu().numpy()


class ClassicalPredictor:
    """A detector of classical.py, for strips of any size."""

    def __init__(self, detector: nn.Module, device: torch.device):
        self.detector = detector.to(device)
        self.device, self.align = device, detector.align

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        with full_precision():
            return self.detector(to_batch(image, self.device))[0, 0].cpu().numpy()


class OnnxPredictor:
    """A full-strip ONNX file in ONNX Runtime: one call per strip, on CUDA where there is one and on the CPU elsewhere.

    Raises `UserError`, naming the file, for one that is missing or not of export_onnx_fullimage.py.
    """

    def __init__(self, path: Path):
        with about(path):
            self.session = open_session(path)
            self.description = read_description(self.session.get_modelmeta().custom_metadata_map)
            nodes = [*self.session.get_inputs(), self.session.get_outputs()[0]]
            signature = [(node.name, node.type, *node.shape[1:]) for node in nodes]
            height, width = signature[0][-2:]
            kind = ONNX_TYPES[INPUTS[self.description.input_kind]]
            expected = [("input", kind, self.description.channels, height, width), ("output", "tensor(float)", 3, height, width)]
            if signature != expected or not all(isinstance(length, int) for length in (height, width)):
                raise UserError(f"found inputs and outputs {signature}, expected a file of export_onnx_fullimage.py")
        self.align, self.image_size = self.description.align, (height, width)
        self.device = "CUDA" if "CUDAExecutionProvider" in self.session.get_providers() else "CPU"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.shape[1:] != self.image_size:
            raise UserError(f"found {image.shape[1:]} (height, width), expected the ONNX file's {self.image_size}")
        return self.session.run(["output"], {"input": self.as_asked(image[None])})[0][0, 0]

    def as_asked(self, images: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) grey levels as the file takes them."""
        return as_asked(images, self.description.input_kind, self.description.channels, self.description.input_max)


def as_asked(images: np.ndarray, input_kind: str, channels: int, input_max: float) -> np.ndarray:
    """(B, 3, H, W) grey levels as an ONNX file takes them: of a kind in strip_graph.INPUTS, and with so many channels."""
    if channels > 3:
        images = np.concatenate([images, np.zeros_like(images[:, :1])], axis=1)
    if input_kind == "unit":
        return to_unit_range(images)
    if input_kind == "raw":
        return images * np.float32(input_max / GREY_LEVELS)
    return np.rint(images).astype(np.uint8)


def to_batch(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """(3, H, W) grey levels to (1, 3, H, W), values 0-1, on a device."""
    return torch.from_numpy(to_unit_range(image))[None].to(device)


def full_precision() -> AbstractContextManager[None]:
    """Convolutions on a GPU without TF32, which would move heatmaps by about 1e-3."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def open_session(path: Path, use_cuda: bool = True) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session. Raises `UserError`, without the path, for a file that is missing or not a model.

    CUDA is asked for only where torch finds a GPU: asking in vain prints a long error. Importing torch has loaded its libraries.
    """
    if not path.is_file():
        raise UserError("found no such file, expected an ONNX file written by export_onnx_fullimage.py")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    has_cuda = torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    providers = [("CUDAExecutionProvider", {"use_tf32": 0})] if use_cuda and has_cuda else []
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for every status, without a common parent
        raise UserError(f"found no model that ONNX Runtime can load ({one_line(error)}), expected a whole ONNX file") from None
    if providers and "CUDAExecutionProvider" not in session.get_providers():
        print("warning: torch finds a GPU but ONNX Runtime cannot use it; running on the CPU", file=sys.stderr)
    return session
