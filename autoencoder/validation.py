"""Validation without defects: what a network makes of held-out good pictures.

The loss on their crops; how well painted damage is told from none, beside what two trivial scores
reach on the same pictures; and where the user has them, how well real defects are.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from autoencoder.pseudo_defects import PseudoDefects
from autoencoder.samples import VALID_STREAM, CachedPictures, draw_crop, make_sample, reduce_to
from autoencoder.settings import AutoencoderSettings
from autoencoder.trivial_scores import MeanPicture, local_contrast
from common.distributed import ProcessGroup
from common.errors import UserError
from data.folder import evenly_spaced
from data.image_files import Channels, to_unit_range
from data.pictures import PictureFile, list_pictures, read_picture
from evaluation.metrics import image_figures

HELD_OUT_LOSS, PSEUDO, REAL = "held_out_loss", "pseudo_auroc", "real_auroc"
# what two scores without a network reach on the pictures of the pseudo AUROC
TRIVIAL = ("contrast_auroc", "mean_picture_auroc")
UNLABELLED = "unlabelled_above_held_out"
LEAST_CROPS, MOST_CROPS = 32, 128  # of the held-out pictures, for the loss
BATCH = 16  # crops
MOST_PICTURES = 40  # of each kind of picture that is scored whole
MOST_AVERAGED = 100  # pictures of a group in its mean picture
LARGEST_FIELD = 512  # pixels: of a larger picture the middle is scored
SMOOTHING = 5  # pixels: side of the mean around each pixel of a map
TOP_SHARE = 0.005  # of a map's pixels, whose mean is the picture's score


class HeldOut:
    """The held-out pictures of a run, cropped, painted and scored the same in every epoch.

    What is drawn does not depend on the run's seed, so that runs with different seeds compare.
    `training` are pictures to paint from and to take the mean picture of. Raises `UserError` when a
    picture cannot be read, and where a folder of the settings has none that serve.
    """

    def __init__(
        self,
        valid: list[PictureFile],
        training: list[PictureFile],
        settings: AutoencoderSettings,
        defects: PseudoDefects,
        channels: Channels,
    ):
        self.settings, self.defects, self.channels = settings, defects, channels
        self.pictures = CachedPictures(valid, settings)
        self.crops = [self._draw_crop(number) for number in range(_crops_of(valid))]
        chosen = evenly_spaced(valid, MOST_PICTURES)
        self.groups = [picture.group for picture in chosen]
        self.good = [self._field(picture) for picture in chosen]
        self.painted = [self._paint(number) for number in range(len(self.good))]
        self.trivial = self._measure_trivial(training)
        self.real: list[tuple[np.ndarray, bool]] = self._real() if settings.real_path else []
        self.unlabelled = self._unlabelled() if settings.unlabelled_path else []

    def _draw_crop(self, number: int) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng((VALID_STREAM, 0, number))
        picture = self.pictures[number % len(self.pictures)]
        crop = draw_crop(picture, self.settings.sizes[0], self.settings, generator)
        return make_sample(crop, self.settings, self.defects, self.pictures, generator)

    def _paint(self, number: int) -> np.ndarray:
        generator = np.random.default_rng((VALID_STREAM, 1, number))
        return self.defects.paint(self.good[number], generator, self.pictures)[0]

    def _field(self, picture: PictureFile) -> np.ndarray:
        """The part of a picture that is scored, (C, h, w) grey levels, at the scale of training."""
        pixels, _ = read_picture(picture, self.settings.input_max)
        if self.settings.scale_range:
            pixels = reduce_to(pixels, float(np.mean(self.settings.scale_range)))
        starts = [max(0, (side - LARGEST_FIELD) // 2) for side in pixels.shape[1:]]
        y, x = (slice(start, start + LARGEST_FIELD) for start in starts)
        return np.ascontiguousarray(pixels[:, y, x])

    def _measure_trivial(self, training: list[PictureFile]) -> dict[str, float | None]:
        """The pseudo AUROC of two scores without a network: fixed, so measured once.

        A picture is compared with the mean picture of its own group.
        """
        means = {}
        for group in set(self.groups):
            of_group = [picture for picture in training if picture.group == group]
            means[group] = MeanPicture(map(self._field, evenly_spaced(of_group, MOST_AVERAGED)))
        sides = self.good, self.painted
        contrasts = [[local_contrast(field) for field in side] for side in sides]
        differences = [
            [means[group].score(field) for group, field in zip(self.groups, side)] for side in sides
        ]
        return dict(zip(TRIVIAL, (_auroc(*contrasts), _auroc(*differences))))

    def _real(self) -> list[tuple[np.ndarray, bool]]:
        """Good and defective pictures of --real_path; without good ones the held-out are taken."""
        found = self._list(self.settings.real_path)
        labelled = {
            is_defective: [picture for picture in found if picture.is_defective is is_defective]
            for is_defective in (False, True)
        }
        if not labelled[True]:
            raise UserError(
                f"--real_path {self.settings.real_path}: found no pictures of a kind of defect, "
                "expected them in folders named after their kind, such as scratch/"
            )
        return [
            (self._field(picture), is_defective)
            for is_defective, pictures in labelled.items()
            for picture in evenly_spaced(pictures, MOST_PICTURES)
        ] + ([] if labelled[False] else [(field, False) for field in self.good])

    def _unlabelled(self) -> list[np.ndarray]:
        pictures = self._list(self.settings.unlabelled_path)
        return [self._field(picture) for picture in evenly_spaced(pictures, MOST_PICTURES)]

    def _list(self, folder: Path) -> list[PictureFile]:
        return list_pictures(
            folder, self.settings.img_format, use_masks=False, channels=self.channels
        )

    def measure(
        self,
        network: nn.Module,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        processes: ProcessGroup,
    ) -> dict[str, float | None]:
        """The figures of a network by name; each process computes its share of them.

        `loss` takes the output and the target of a batch. A figure is not finite when the network's
        output is not.
        """
        network.eval()
        device = processes.device
        sides = {
            "good": self.good,
            "painted": self.painted,
            "real good": [field for field, is_defective in self.real if not is_defective],
            "real": [field for field, is_defective in self.real if is_defective],
            "unlabelled": self.unlabelled,
        }
        fields = list(enumerate((side, field) for side in sides for field in sides[side]))
        with torch.inference_mode():
            losses = [
                float(loss(network(inputs), targets)) * len(inputs)
                for inputs, targets in self._batches(processes, device)
            ]
            scores = [
                (number, side, score_field(network, field, self.settings.task, device))
                for number, (side, field) in processes.share(fields)
            ]
        gathered = processes.gather((sum(losses), scores))
        total = sum(part for part, _ in gathered) / len(self.crops)
        found = {side: [] for side in sides}
        for _, side, score in sorted(one for _, part in gathered for one in part):
            found[side].append(score)
        if not all(map(math.isfinite, [total, *itertools.chain(*found.values())])):
            return {HELD_OUT_LOSS: math.nan}
        figures = {HELD_OUT_LOSS: total, PSEUDO: _auroc(found["good"], found["painted"])}
        figures |= self.trivial
        if self.real:
            figures[REAL] = _auroc(found["real good"], found["real"])
        if self.unlabelled:
            figures[UNLABELLED] = float(np.mean(np.array(found["unlabelled"]) > max(found["good"])))
        return figures

    def shown(self, count: int) -> list[np.ndarray]:
        """So many pictures (C, h, w) of each side, good, painted and real defective ones.

        They are spread over all, so that they show several groups.
        """
        real = [field for field, is_defective in self.real if is_defective]
        return [
            field
            for side in (self.good, self.painted, real)
            for field in side[:: -(-len(side) // count) or 1]
        ]

    def probe(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of one batch, on which a network's health is measured."""
        return _stack(self.crops[:BATCH], device)

    def _batches(
        self, processes: ProcessGroup, device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This process's share of the crops in batches: inputs and targets."""
        mine = processes.share(self.crops)
        for first in range(0, len(mine), BATCH):
            yield _stack(mine[first : first + BATCH], device)


def score_field(network: nn.Module, field: np.ndarray, task: str, device: torch.device) -> float:
    """The mean of the strongest TOP_SHARE of a picture's smoothed error, or of its mask.

    `field` is (C, h, w) grey levels. The score compares pictures of one network, nothing else.
    """
    picture = torch.from_numpy(to_unit_range(field))[None].to(device)
    height, width = field.shape[1:]
    output = network(pad_to_multiple(picture, network.multiple))[:, :, :height, :width].float()
    if task == "segment":
        error = output
    else:
        error = (output.clamp(0, 1) - picture).square().mean(dim=1, keepdim=True)
    smooth = functional.avg_pool2d(
        error, SMOOTHING, stride=1, padding=SMOOTHING // 2, count_include_pad=False
    ).flatten()
    return float(smooth.topk(max(1, round(TOP_SHARE * len(smooth)))).values.mean())


def pad_to_multiple(pictures: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pictures (B, C, h, w), continued at the bottom and on the right by their last pixels."""
    height, width = pictures.shape[-2:]
    around = (0, -width % multiple, 0, -height % multiple)
    return functional.pad(pictures, around, "replicate")


def _auroc(good: list[float], defective: list[float]) -> float | None:
    labels = [False] * len(good) + [True] * len(defective)
    return image_figures(labels, good + defective)["image_auroc"]


def _crops_of(valid: list[PictureFile]) -> int:
    return min(MOST_CROPS, max(LEAST_CROPS, 2 * len(valid)))


def _stack(
    samples: list[dict[str, torch.Tensor]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs and the targets of several samples as batches on the device."""
    return tuple(
        torch.stack([sample[name] for sample in samples]).to(
            device, memory_format=torch.channels_last
        )
        for name in ("input", "target")
    )
