"""Reduced precision of an exported graph: float16 for a GPU, int8 for a CPU.

Only the network's layers change. Input, registration, the differences that a network receives,
softmax and outputs stay float32: a hundredth of a pixel or a threshold of 0.999 needs the digits.
precision_gate.py decides whether a variant may replace float32.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from common.errors import UserError
from deploy.onnx_export import stamp_ir_version
from model import SegmentationNetwork, SegmentationNetworkONNXFullImage

# values of --precision, with the name in the file's metadata
PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
FIRST_PER_CHANNEL_OPSET = 13  # the first in which QuantizeLinear has a scale per channel
# all of these, so that values stay in 8 bits from layer to layer
QUANTIZED = ("Conv", "MaxPool", "Concat", "Resize")


class HalfPrecision(nn.Module):
    """A network whose layers compute in float16.

    It maps images (B, 3, h, w) float32 to logits (B, 2, h, w) float32. It converts `network` in
    place.
    """

    def __init__(self, network: SegmentationNetwork):
        super().__init__()
        self.network = network.half()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.segment(self.features(images))

    def features(self, images: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """As the network's, in float32."""
        return self.network.features(images, noise)

    def segment(self, features: torch.Tensor) -> torch.Tensor:
        """As the network's, of input planes (B, planes, h, w) float32."""
        return self.network.segment(features.half()).float()


def in_half_precision(
    detector: SegmentationNetworkONNXFullImage,
) -> SegmentationNetworkONNXFullImage:
    """A copy of the detector whose network computes in float16."""
    half = copy.deepcopy(detector)
    half.patch_network.network = HalfPrecision(half.patch_network.network)
    return half


def quantize(source: Path, output: Path, batches: Iterable[np.ndarray]) -> None:
    """Write a copy of a float32 file with its network in 8 bits.

    The quantization is static, with a scale per weight channel, and in QDQ form: a quantizing and a
    dequantizing node around each layer. The ranges are measured on `batches` (B, C, H, W) of the
    file's input. The first layer, which reads differences of a grey level or two, and the head stay
    float32. Raises `UserError` when the file's opset is below FIRST_PER_CHANNEL_OPSET.
    """
    model = onnx.load(source)
    opset = model.opset_import[0].version
    if opset < FIRST_PER_CHANNEL_OPSET:
        raise UserError(f"--opset_version {opset}: int8 needs {FIRST_PER_CHANNEL_OPSET} or newer")
    with quiet_quantizer():
        quantize_static(
            source,
            output,
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_quantize=inner_layers(model.graph),
        )
    quantized = onnx.load(output)
    stamp_ir_version(quantized)
    onnx.save(quantized, output)


def inner_layers(graph: onnx.GraphProto) -> list[str]:
    """The names of a network's QUANTIZED nodes after its first layer and before its head.

    In a graph of this suite the registration's filters work on single planes, so the first
    convolution across planes is the network's. The head is the last convolution before the
    probability, which has the graph's only exponential. The head's own input is left out, since it
    may contain differences.
    """
    producers = {output: node for node in graph.node for output in node.output}
    planes = {
        weights.name: weights.dims[1] for weights in graph.initializer if len(weights.dims) == 4
    }
    (exponential,) = (node for node in graph.node if node.op_type == "Exp")
    upstream = {id(node) for node in _sources(exponential, producers)}
    nodes = [node for node in graph.node if id(node) in upstream]
    convolutions = [number for number, node in enumerate(nodes) if node.op_type == "Conv"]
    first = next(number for number in convolutions if planes.get(nodes[number].input[1], 0) > 1)
    inner, head = nodes[first + 1 : convolutions[-1]], nodes[convolutions[-1]]
    return [
        node.name
        for node in inner
        if node.op_type in QUANTIZED and head.input[0] not in node.output
    ]


def _sources(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]
) -> Iterator[onnx.NodeProto]:
    """The nodes that a node depends on, each once; `producers` maps a value to its node."""
    seen, waiting = set(), [node]
    while waiting:
        for name in waiting.pop().input:
            source = producers.get(name)
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                waiting.append(source)
                yield source


class _Batches(CalibrationDataReader):
    """Batches of the file's input in the form that the quantizer reads."""

    def __init__(self, batches: Iterable[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Suppress the quantizer's advice.

    The graph needs no preparation, and the precision gate measures the cost of quantization.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
