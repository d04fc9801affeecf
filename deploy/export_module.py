"""The exported module: from a camera's strips to the heatmap and to what a line derives from it.

The input is one of INPUTS: `unit`, values 0-1; `raw`, in the camera's range; `uint8`. A fourth
channel, which production files have, is ignored. The outputs are some of OUTPUTS, the heatmap
first.
"""

import torch
from torch import nn
from torch.nn import functional

from evaluation.detections import LOGIT_RANGE, NEIGHBOURHOOD, TIE_BREAK
from model import with_two_zero_channels
from ops.detector import AligningDetector
from ops.inspected_contrast import ContrastResponse, contrast_map, inspected_contrast, noise_map
from ops.missing import missing_probability

# kinds of --input, with the tensor's type
INPUTS = {"unit": torch.float32, "raw": torch.float32, "uint8": torch.uint8}
# kinds of --outputs, with the tensor's name
OUTPUTS = {
    "heatmap": "output",
    "score": "score",
    "detections": "detections",
    "alignment": "alignment",
    "inspected_contrast": "inspected_contrast",
    "contrast_map": "contrast_map",
    "missing": "missing",
}
CONTRASTS = ("inspected_contrast", "contrast_map")  # outputs that need a `ContrastResponse`
INPUT_CHANNELS = (3, 4)  # possible numbers of channels; only the first three are used
UINT8_MAX = 255.0
MOST_DETECTIONS = 100  # per strip: for a strip with more a list no longer helps
# peaks that are examined: more than detections, as plateaus are reduced to one pixel afterwards
CANDIDATES = 4 * MOST_DETECTIONS
DETECTION_COLUMNS = ("y", "x", "heatmap")
NO_DETECTION = -1.0  # y and x of the rows beyond a strip's last detection


class StripGraph(nn.Module):
    """Maps strips (B, C, H, W), C as in INPUT_CHANNELS, to a tuple of `outputs`:

    heatmap     (B, 3, H, W), the detector's 0-1 and two channels of zeros
    score       (B,), the heatmap's maximum
    detections  (B, MOST_DETECTIONS, 3), the strongest local maxima above `threshold` (1,): y, x,
                heatmap; strongest first. Rows beyond the last detection are -1, -1, 0
    alignment   (B, 2, MEASURES), what `Alignment` measured of each reference
    inspected_contrast  (B,), grey levels 0-255, as inspected_contrast.py has it for `response`
    contrast_map  (B, 1, H, W), grey levels 0-255, what a point at each pixel needs
    missing     (B, 1, H, W), 0-1, the probability that what differs at a pixel is a missing feature

    `input_max` is the camera's largest value, by which a `raw` input is divided. `response` is what
    the detector finds at the file's own threshold, whatever `threshold` is.
    """

    def __init__(
        self,
        detector: AligningDetector,
        input_kind: str = "unit",
        input_max: float = UINT8_MAX,
        outputs: tuple[str, ...] = ("heatmap",),
        response: ContrastResponse | None = None,
    ):
        super().__init__()
        self.detector, self.input_kind, self.outputs = detector, input_kind, outputs
        self.factor = None if input_kind == "unit" else 1 / largest_value(input_kind, input_max)
        self.response = response

    @property
    def output_names(self) -> list[str]:
        """The names of the output tensors, in their order."""
        return [OUTPUTS[output] for output in self.outputs]

    def forward(
        self, images: torch.Tensor, threshold: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        # slicing three channels of three would add a copy to the graph
        images = images if int(images.shape[1]) == 3 else images[:, :3]
        strips, measures = self.detector.align_references(self.to_unit_range(images))
        heatmap, contrasts = self.detector.counted_heatmap(strips), self.contrasts(strips)
        make = {
            "heatmap": lambda: with_two_zero_channels(heatmap),
            "score": lambda: heatmap.amax(dim=(1, 2, 3)),
            "detections": lambda: strongest_peaks(heatmap, threshold),
            "alignment": lambda: measures,
            "missing": lambda: missing_probability(strips),
        }
        return tuple(
            contrasts[output] if output in contrasts else make[output]() for output in self.outputs
        )

    def contrasts(self, strips: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those of CONTRASTS that are outputs, by name, of aligned strips (B, 3, H, W)."""
        wanted = [output for output in self.outputs if output in CONTRASTS]
        if not wanted:
            return {}
        noise = noise_map(strips, self.response.noise)
        make = {"inspected_contrast": inspected_contrast, "contrast_map": contrast_map}
        return {output: make[output](noise, self.response) for output in wanted}

    def to_unit_range(self, images: torch.Tensor) -> torch.Tensor:
        """Scale images of the module's input kind to float32 0-1."""
        return images if self.factor is None else images.to(torch.float32) * self.factor


def largest_value(input_kind: str, input_max: float) -> float:
    """The largest value of an input kind of INPUTS, for a camera with values up to `input_max`."""
    return {"unit": 1.0, "raw": input_max, "uint8": UINT8_MAX}[input_kind]


def strongest_peaks(heatmap: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The strongest local maxima of heatmaps (B, 1, H, W) above a threshold (1,).

    Returns (B, MOST_DETECTIONS, 3) as in `StripGraph`. Peaks and order are those of
    `detections.find_peaks`, except on a plateau of equal values: here the pixel with the highest
    surroundings remains, or the first of several. There it is the most central one.
    """
    size = 2 * NEIGHBOURHOOD + 1
    is_peak = (heatmap == functional.max_pool2d(heatmap, size, stride=1, padding=NEIGHBOURHOOD)) & (
        heatmap > threshold
    )
    peaks, pixel = torch.where(is_peak, heatmap, NO_DETECTION).flatten(1).topk(CANDIDATES, dim=1)
    width = heatmap.shape[3]
    y, x = torch.div(pixel, width, rounding_mode="floor"), pixel % width
    rank = torch.where(
        peaks == NO_DETECTION,
        -torch.inf,
        logit_margin(peaks) + TIE_BREAK * margin_around(heatmap, y, x),
    )
    is_near = (_pairwise_differences(y).abs() <= NEIGHBOURHOOD) & (
        _pairwise_differences(x).abs() <= NEIGHBOURHOOD
    )
    is_beaten = is_near & (
        (rank[:, None] > rank[:, :, None])
        | ((rank[:, None] == rank[:, :, None]) & (_pairwise_differences(pixel) < 0))
    )
    rank, order = torch.where(is_beaten.any(dim=2), -torch.inf, rank).topk(MOST_DETECTIONS, dim=1)
    found = torch.stack(
        [column.gather(1, order).to(torch.float32) for column in (y, x, peaks)], dim=2
    )
    return torch.where(
        rank[:, :, None] > -torch.inf,
        found,
        torch.tensor([NO_DETECTION, NO_DETECTION, 0.0], device=heatmap.device),
    )


def logit_margin(probability: torch.Tensor) -> torch.Tensor:
    """`detections.logit_margin` of probabilities 0-1, of any shape, in float64."""
    probability = probability.to(torch.float64)
    # ONNX Runtime clips doubles from opset 12 on
    limit = torch.tensor(LOGIT_RANGE, dtype=torch.float64, device=probability.device)
    return (torch.log(probability) - torch.log(1 - probability)).minimum(limit).maximum(-limit)


def margin_around(heatmap: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The mean logit margin of 3x3 pixels around points of heatmaps (B, 1, H, W).

    `y` and `x` are (B, N) integers. Returns (B, N) float64.
    """
    padded = functional.pad(heatmap, (1, 1, 1, 1), mode="replicate")
    width = padded.shape[3]
    pixels = torch.stack(
        [(y + row) * width + x + column for row in range(3) for column in range(3)], dim=1
    ).flatten(1)
    return logit_margin(padded.flatten(1).gather(1, pixels)).reshape(-1, 9, y.shape[1]).mean(dim=1)


def _pairwise_differences(values: torch.Tensor) -> torch.Tensor:
    """Differences (B, N, N) of values (B, N): element [b, i, j] is value j minus value i."""
    return values[:, None] - values[:, :, None]
