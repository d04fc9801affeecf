"""The same graph in fewer bits: float16 for a GPU, int8 for a CPU.

Whether one may stand in for float32, precision_gate.py says.

Only the network's layers change. Input, registration, the differences that a network is told of,
softmax and outputs stay float32: a hundredth of a pixel or a threshold of 0.999 needs the digits.
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
from model import SegmentationNetwork, SegmentationNetworkONNXFullImage

# --precision, and what the file says
PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
FIRST_PER_CHANNEL_OPSET = 13  # of QuantizeLinear with a scale for each channel
# with these in between, values stay in 8 bits from layer to layer
QUANTIZED = ("Conv", "MaxPool", "Concat", "Resize")


class HalfPrecision(nn.Module):
    """A network, made to compute its layers in float16: (B, 3, h, w) float32 to logits (B, 2, h, w)
    float32.
    """

    def __init__(self, network: SegmentationNetwork):
        super().__init__()
        self.network = network.half()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.segment(self.network.features(images).half()).float()


def in_half_precision(
    detector: SegmentationNetworkONNXFullImage,
) -> SegmentationNetworkONNXFullImage:
    """The detector with a network in float16; its own stays as it is."""
    half = copy.deepcopy(detector)
    half.patch_network.network = HalfPrecision(half.patch_network.network)
    return half


def quantize(source: Path, output: Path, batches: Iterable[np.ndarray]) -> None:
    """Write a float32 file with its network in 8 bits, ranges measured on `batches` (B, C, H, W) of
    the file's own input.

    Static, weights for each channel by itself, quantized and dequantized around each layer (QDQ);
    the first layer, which reads differences of a grey level or two, and the head stay float32.
    Raises `UserError` for an opset that cannot carry it.
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


def inner_layers(graph: onnx.GraphProto) -> list[str]:
    """The names of a network's nodes of QUANTIZED types after its first layer and before its head,
    in a graph of this suite.

    The registration's filters work on single planes, so the first convolution across planes is the
    network's; its head is the last one before the probability, whose exponential is the only one.
    What is joined for the head, which may read differences, is not among them.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    planes = {
        weights.name: weights.dims[1] for weights in graph.initializer if len(weights.dims) == 4
    }
    (exponential,) = (node for node in graph.node if node.op_type == "Exp")
    before = {id(node) for node in _sources(exponential, made_by)}
    nodes = [node for node in graph.node if id(node) in before]
    convolutions = [number for number, node in enumerate(nodes) if node.op_type == "Conv"]
    first = next(number for number in convolutions if planes.get(nodes[number].input[1], 0) > 1)
    inner, head = nodes[first + 1 : convolutions[-1]], nodes[convolutions[-1]]
    return [
        node.name
        for node in inner
        if node.op_type in QUANTIZED and head.input[0] not in node.output
    ]


def _sources(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes that a node depends on, each once."""
    seen, waiting = set(), [node]
    while waiting:
        for name in waiting.pop().input:
            source = made_by.get(name)
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                waiting.append(source)
                yield source


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Iterable[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Keeps its advice off the screen: the graph needs no preparation, and what it costs is
    measured afterwards.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
