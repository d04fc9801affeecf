"""What a classifier says of images, as one module: for inference, and for the exported file."""

import torch
from torch import nn

from classifier.defect_model import CLASSIFICATION, AttentionGuidedDefectClassifier
from deploy.export_module import largest_value

PROBABILITIES, MASK, ATTENTION, DISTANCE = "probabilities", "mask", "attention", "distance"
LEAST_SPREAD = 1e-3  # of a feature, as a share of the standard deviation over all of them


class DefectGraph(nn.Module):
    """Maps images (B, C, H, W) to a tuple of `outputs`:

    probabilities  (B, K), 0-1, of the kinds, at `temperature`
    mask           (B, 1, H, W), 0-1, that a pixel belongs to a defect
    attention      (B, h, w), 0-1, where the classification looked: a value for each cell
    distance       (B,), 0-1, to the nearest training image, as `KnownImages` has it

    Mask and attention are left out where the network has none, and the distance without `known`
    images. `input_kind` is one of
    export_module.INPUTS: `unit`, values 0-1; `raw`, in the camera's range up to `input_max`;
    `uint8`.
    """

    def __init__(
        self,
        network: AttentionGuidedDefectClassifier,
        temperature: float = 1.0,
        known: "KnownImages | None" = None,
        input_kind: str = "unit",
        input_max: float = 255.0,
    ):
        super().__init__()
        self.network, self.temperature, self.input_kind = network, temperature, input_kind
        self.known = known
        self.factor = None if input_kind == "unit" else 1 / largest_value(input_kind, input_max)
        self.outputs = (PROBABILITIES,)
        if network.architecture != CLASSIFICATION:
            self.outputs += (MASK, ATTENTION)
        if known is not None:
            self.outputs += (DISTANCE,)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.network(self.to_unit_range(images))
        results = [(output.logits / self.temperature).softmax(dim=1)]
        if output.mask_logits is not None:
            results += [output.mask_logits.sigmoid(), output.attention]
        if self.known is not None:
            results.append(self.known(output.embedding))
        return tuple(results)

    def to_unit_range(self, images: torch.Tensor) -> torch.Tensor:
        """Scale images of the module's input kind to float32 0-1."""
        return images if self.factor is None else images.to(torch.float32) * self.factor


class KnownImages(nn.Module):
    """How unlike the training's images an image is, by the features that the head tells kinds by.

    `embeddings` (N, D) are those of training images. Each feature is measured in its standard
    deviations over them: features of large values would hide what is new otherwise.
    """

    def __init__(self, embeddings: torch.Tensor):
        super().__init__()
        deviations = embeddings.std(dim=0, correction=0)
        # a feature that never changed in training would be infinitely far at the slightest change
        spread = deviations + LEAST_SPREAD * embeddings.std(correction=0).clamp(min=LEAST_SPREAD)
        self.register_buffer("mean", embeddings.mean(dim=0))
        self.register_buffer("spread", spread)
        self.register_buffer("images", (embeddings - self.mean) / spread)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Distances (B,), 0-1: s / (1 + s), of the mean square s to the nearest training image."""
        scaled = (embeddings - self.mean) / self.spread
        products = scaled @ self.images.T
        squares = scaled.square().sum(dim=1, keepdim=True) + self.images.square().sum(dim=1)
        nearest = (squares - 2 * products).amin(dim=1).clamp(min=0) / self.images.shape[1]
        return nearest / (1 + nearest)
