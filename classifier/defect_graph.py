"""What a classifier says of images, as one module: for inference, and for the exported file."""

import torch
from torch import nn
from torch.nn import functional

from classifier.defect_model import CLASSIFICATION, AttentionGuidedDefectClassifier
from deploy.export_module import largest_value

PROBABILITIES, MASK, ATTENTION, DISTANCE = "probabilities", "mask", "attention", "distance"


class DefectGraph(nn.Module):
    """Maps images (B, C, H, W) to a tuple of `outputs`:

    probabilities  (B, K), 0-1, of the kinds, at `temperature`
    mask           (B, 1, H, W), 0-1, that a pixel belongs to a defect
    attention      (B, h, w), 0-1, where the classification looked: a value for each cell
    distance       (B,), 0-2, of the features to those of the nearest training image

    Mask and attention are left out where the network has none, and the distance without
    `features` (N, D) of training images, which have length 1. `input_kind` is one of
    export_module.INPUTS: `unit`, values 0-1; `raw`, in the camera's range up to `input_max`;
    `uint8`.
    """

    def __init__(
        self,
        network: AttentionGuidedDefectClassifier,
        temperature: float = 1.0,
        features: torch.Tensor | None = None,
        input_kind: str = "unit",
        input_max: float = 255.0,
    ):
        super().__init__()
        self.network, self.temperature, self.input_kind = network, temperature, input_kind
        self.register_buffer("features", features)
        self.factor = None if input_kind == "unit" else 1 / largest_value(input_kind, input_max)
        self.outputs = (PROBABILITIES,)
        if network.architecture != CLASSIFICATION:
            self.outputs += (MASK, ATTENTION)
        if features is not None:
            self.outputs += (DISTANCE,)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.network(self.to_unit_range(images))
        results = [(output.logits / self.temperature).softmax(dim=1)]
        if output.mask_logits is not None:
            results += [output.mask_logits.sigmoid(), output.attention]
        if self.features is not None:
            results.append(1 - (unit_length(output.embedding) @ self.features.T).amax(dim=1))
        return tuple(results)

    def to_unit_range(self, images: torch.Tensor) -> torch.Tensor:
        """Scale images of the module's input kind to float32 0-1."""
        return images if self.factor is None else images.to(torch.float32) * self.factor


def unit_length(embedding: torch.Tensor) -> torch.Tensor:
    """Vectors (B, D) divided by their lengths: the distance of two is 1 minus their product."""
    return functional.normalize(embedding, dim=1)
