"""An exhibit: the good picture whose patch is nearest to the most unusual place of a picture."""

from collections import OrderedDict

import numpy as np
import torch

from autoencoder.library import Library
from autoencoder.routing import scaled_size
from common.errors import UserError
from data.picture_channels import CHANNELS, load_picture, stored_channels
from ops.resize import LinearResize

NEAREST_PANEL = "nearest good"
BEYOND = 32  # grey level of what lies beyond the good picture
MOST_KEPT = 32  # good pictures in memory


class NearestGood:
    """Finds the good picture in a library that is nearest to a place of a picture.

    The good picture is moved so that its patch lies at that place. Of a library of whole pictures
    it is shown as it is. Nothing is shown where the file is no longer there.
    """

    def __init__(self, library: Library):
        self.library = library
        self._kept: OrderedDict[int, np.ndarray | None] = OrderedDict()

    def __call__(
        self, batch: torch.Tensor, place: tuple[int, int], cluster: torch.Tensor
    ) -> np.ndarray | None:
        """The panel (C, H, W), grey levels 0-255, of a picture (1, C, H, W) at a place (y, x).

        `cluster` (1,) is the picture's.
        """
        library, maps = self.library, self.library.maps
        size = tuple(int(length) for length in batch.shape[2:])
        window = library.windows[0] if library.windows else min(size)
        scaled = scaled_size(size, window, maps.input_size, maps.multiple)
        resize = LinearResize(size, scaled).to(batch.device)
        numbers = maps.nearest(maps.features(resize(batch)), cluster)[0]
        row, column = (
            min(int((at + 0.5) * new / old / maps.cell), cells - 1)
            for at, new, old, cells in zip(place, scaled, size, numbers.shape)
        )
        number, row, column = library.places[int(cluster), int(numbers[row, column])].tolist()
        good = self._picture(number)
        if good is None:
            return None
        if maps.level == "image":
            return moved(good, (0, 0), (0, 0), size)
        window = library.windows[0] if library.windows else min(good.shape[1:])
        there = tuple(
            int((cell + 0.5) * maps.cell * window / maps.input_size) for cell in (row, column)
        )
        return moved(good, there, place, size)

    def _picture(self, number: int) -> np.ndarray | None:
        """A picture of the library (C, H, W), grey levels 0-255, or None where it is gone."""
        if number not in self._kept:
            path = self.library.training_dataset_path / self.library.train[number]
            try:
                channels, stored = CHANNELS[self.library.channels], stored_channels(path)
                self._kept[number] = load_picture(path, self.library.input_max, channels, stored)[0]
            except UserError:
                self._kept[number] = None
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return self._kept[number]


def moved(
    image: np.ndarray, there: tuple[int, int], here: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """A picture (C, h, w) on a canvas of a size (height, width), its pixel `there` at `here`."""
    canvas = np.full((len(image), *size), BEYOND, np.float32)
    ours, theirs = [], []
    for source, target, length, new_length in zip(there, here, image.shape[1:], size):
        shift = target - source
        start, stop = max(0, shift), min(new_length, length + shift)
        ours.append(slice(start, max(start, stop)))
        theirs.append(slice(start - shift, max(start, stop) - shift))
    canvas[:, ours[0], ours[1]] = image[:, theirs[0], theirs[1]]
    return canvas
