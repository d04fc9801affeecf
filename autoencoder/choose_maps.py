"""The choice of a library's maps without defects: by damage painted into held-out good pictures.

Maps of raw patches find much on some surfaces. On others good pictures differ so much in their grey
levels that the patches add nothing but noise. Painted damage says which it is: it must stand out
among good pictures of their own variety, whatever it looks like.
"""

from collections.abc import Sequence

import numpy as np
import torch

from autoencoder.calibration import by_cluster
from autoencoder.library_maps import LibraryMaps
from autoencoder.library_scores import read_unit, scales_of
from autoencoder.maps import LIBRARY, OF_LIBRARY, library_top_share
from autoencoder.metric import levels_of
from autoencoder.patch_mixtures import PatchMixtures
from autoencoder.pseudo_defects import PseudoDefects
from autoencoder.routing import Router
from autoencoder.scorer import LEAST_PICTURE_SPREAD, LEAST_SPREAD, ScoreSettings
from common.progress import progress_bar
from data.folder import evenly_spaced
from data.pictures import PictureFile
from evaluation.metrics import image_figures
from gaussian import MAX_GREY
from ops.filters import blur, gaussian_window

MOST_PICTURES = 100  # of the held-out ones
FEWEST_PICTURES = 5  # fewer say too little
FEWEST_PAINTED = 64  # versions of all pictures together: each is painted so often, at least twice
LEAST_GAIN = 0.02  # of AUROC, for which more than the library's own map counts


def choose_maps(aurocs: dict[tuple[str, ...], float]) -> tuple[str, ...]:
    """The kinds of OF_LIBRARY to score by, from what `painted_aurocs` found."""
    usual = (LIBRARY,)
    gain = aurocs.get(OF_LIBRARY, 0.0) - aurocs.get(usual, 0.0)
    return OF_LIBRARY if gain > LEAST_GAIN else usual


@torch.inference_mode()
def painted_aurocs(
    valid: Sequence[PictureFile],
    maps: LibraryMaps,
    patches: PatchMixtures,
    router: Router | None,
    input_max: float,
    seed: int,
) -> dict[tuple[str, ...], float]:
    """The image AUROC of painted against good held-out pictures, without and with the patches.

    Empty for fewer than FEWEST_PICTURES. Scores are made as `PictureScorer` makes them, on the grid
    of cells.
    """
    if len(valid) < FEWEST_PICTURES:
        return {}
    generator, defects = np.random.default_rng((seed, 27)), PseudoDefects()
    files = evenly_spaced(list(valid), MOST_PICTURES)
    times = max(2, -(-FEWEST_PAINTED // len(files)))
    planes, clusters, is_painted = [], [], []
    for file in progress_bar(files, desc="choosing maps", unit="picture"):
        (whole,) = scales_of(read_unit(file, input_max), (), maps.input_size, maps.multiple)
        cluster = router(whole) if router is not None else torch.zeros(1, dtype=torch.int64)
        versions = [whole]
        for _ in range(times):
            painted, _ = defects.paint(levels_of(whole), generator)
            versions.append(torch.from_numpy(painted)[None] / MAX_GREY)
        for number, version in enumerate(versions):
            planes.append(torch.cat([maps(version, cluster), patches(version, cluster)], dim=1))
            clusters.append(cluster)
            is_painted.append(number > 0)
    owners, good = torch.cat(clusters), ~torch.tensor(is_painted)
    return {
        kinds: _auroc(
            [plane[:, :count] for plane in planes],
            owners,
            good,
            library_top_share(kinds),
            maps.cell,
        )
        for kinds, count in (((LIBRARY,), 1), (OF_LIBRARY, 1 + len(patches.kinds)))
    }


def _auroc(
    planes: list[torch.Tensor],
    clusters: torch.Tensor,
    good: torch.Tensor,
    top_share: float,
    cell: int,
) -> float:
    """The AUROC of pictures with these planes (1, K, h, w), those that are `good` (N,) or not."""
    count = int(clusters.max()) + 1
    z = _z_scores([plane.flatten(start_dim=2) for plane in planes], clusters, good, count)
    smoothing = gaussian_window(max(ScoreSettings.smoothing / cell, 0.5))
    tops = []
    for plane, values in zip(planes, z):
        merged = values.mean(dim=1, keepdim=True).reshape(1, 1, *plane.shape[2:])
        flat = blur(merged, smoothing).flatten()
        tops.append(flat.topk(max(1, round(top_share * len(flat)))).values.mean())
    tops = torch.stack(tops)
    parts = by_cluster(tops[good], clusters[good], count)
    mean = torch.stack([part.mean() for part in parts])
    spread = torch.stack([part.std(correction=0) for part in parts]).clamp(min=LEAST_PICTURE_SPREAD)
    scores = (tops - mean[clusters]) / spread[clusters]
    return image_figures((~good).tolist(), scores.tolist())["image_auroc"]


def _z_scores(
    planes: list[torch.Tensor], clusters: torch.Tensor, good: torch.Tensor, count: int
) -> list[torch.Tensor]:
    """Planes (1, K, cells) in the mean and spread of their cluster's good pictures."""
    means = torch.cat([plane.mean(dim=2) for plane in planes])
    squares = torch.cat([plane.square().mean(dim=2) for plane in planes])
    mean, square = (
        torch.stack([part.mean(dim=0) for part in by_cluster(values[good], clusters[good], count)])
        for values in (means, squares)
    )
    spread = (square - mean.square()).clamp(min=0).sqrt().clamp(min=LEAST_SPREAD)
    return [
        (plane - mean[cluster][None, :, None]) / spread[cluster][None, :, None]
        for plane, cluster in zip(planes, clusters.tolist())
    ]
