"""What a row of benchmarks/autoencoder.py scores on the test pictures of a data set."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from autoencoder import inference
from autoencoder.calibration import Scorers
from autoencoder.clusters import cross_table, purity
from autoencoder.library import Library, load_library
from autoencoder.loaded import calibrate, load_scorers
from autoencoder.pictures import HELD_OUT_SEED
from autoencoder.scorer import to_unit
from autoencoder.trivial_scores import MeanPicture, PatchPCA
from benchmarks.autoencoder_kept import Kept
from common.device import choose_device, full_precision
from data.image_files import DEFAULT_INPUT_MAX, to_batch
from data.pictures import PictureFile, list_good_pictures, read_picture, split_good
from evaluation.metrics import GROUP_METRICS, PixelMetrics, image_figures

VALID_SHARE = 0.1  # of the good pictures that a baseline is not made of
LEAST_SPREAD = 1e-6
METRICS = GROUP_METRICS  # of each class, of their mean and of all pictures together
MEAN, POOLED = "mean over classes", "pooled"
# a picture (C, H, W), grey levels 0-255, to its heatmap (H, W) and score, 0-1, and its cluster
Predict = Callable[[np.ndarray], tuple[np.ndarray, float, int]]
Figures = dict[str, float | None]


def score_pictures(
    pictures: Sequence[PictureFile], predict: dict[str, Predict]
) -> tuple[dict[str, Figures], list[int]]:
    """Metrics by class, with MEAN and POOLED, and the pictures' clusters.

    `predict` has what scores each class; "" scores all. POOLED counts all pictures as one class:
    one threshold for all of them, as on a line where nobody says what a picture shows.
    """
    groups = sorted({picture.group for picture in pictures})
    pixels = {group: PixelMetrics() for group in groups}
    scores: list[float] = []
    clusters: list[int] = []
    for picture in pictures:
        image, mask = read_picture(picture, DEFAULT_INPUT_MAX)
        heatmap, score, cluster = predict.get(picture.group, predict.get(""))(image)
        scores.append(score)
        clusters.append(cluster)
        if mask is not None:
            pixels[picture.group].update(heatmap, mask)
    figures = {
        group: _figures(
            [
                (picture, score)
                for picture, score in zip(pictures, scores)
                if picture.group == group
            ],
            pixels[group],
        )
        for group in groups
    }
    whole = PixelMetrics()
    whole.merge(list(pixels.values()))
    return figures | {
        MEAN: mean_of(figures.values()),
        POOLED: _figures(list(zip(pictures, scores)), whole),
    }, clusters


def mean_of(figures: Iterable[Figures]) -> Figures:
    """The mean of each metric where it is defined; None where it never is."""
    rows = list(figures)
    known = {
        name: [row[name] for row in rows if row.get(name) is not None]
        for name in dict.fromkeys(name for row in rows for name in row)
    }
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}


def make_predict(flags: list[str], kept: Kept) -> Predict:
    """What autoencoder.inference scores with for these flags, its statistics set.

    `kept` has what other rows' networks and libraries have said of the pictures.
    """
    arguments = inference.parse_args(flags)
    loaded = load_scorers(arguments, choose_device(arguments.gpu_id))
    kept.share(loaded)
    calibrate(loaded, arguments)
    return lambda image: _predict(loaded.scorers, image)


@torch.inference_mode()
def _predict(scorers: Scorers, image: np.ndarray) -> tuple[np.ndarray, float, int]:
    with full_precision():
        heatmap, score, cluster = scorers.of(image.shape[1:])(to_batch(image, scorers.device))
    return heatmap[0, 0].cpu().numpy(), float(score), int(cluster)


def make_baselines(root: Path, name: str) -> dict[str, Predict]:
    """What scores each class by a baseline that is made of its good pictures.

    Map and score are told in the spread of held-out good pictures of the class, as a model's.
    """
    train, valid = split_good(list_good_pictures(root), VALID_SHARE, HELD_OUT_SEED)
    return {
        group: _baseline(name, *(_images(part, group) for part in (train, valid)))
        for group in sorted({picture.group for picture in train})
    }


def _baseline(name: str, train: list[np.ndarray], valid: list[np.ndarray]) -> Predict:
    if name == "patch PCA":
        model = PatchPCA(train)
        compute = model.residual
    else:
        model = MeanPicture(train)
        compute = model.difference
    maps = [compute(image) for image in valid]
    tops = np.array([plane.max() for plane in maps])
    mean, spread = np.mean([plane.mean() for plane in maps]), np.std(np.concatenate(maps))

    def predict(image: np.ndarray) -> tuple[np.ndarray, float, int]:
        plane = compute(image)
        z = (plane.max() - tops.mean()) / max(tops.std(), LEAST_SPREAD)
        heat = to_unit(torch.from_numpy((plane - mean) / max(spread, LEAST_SPREAD)))
        return heat.numpy(), float(to_unit(torch.tensor(float(z)))), 0

    return predict


def cluster_purity(path: Path) -> float | None:
    """The purity of a library's clusters against the class folders.

    None for one cluster, and for a routing that does not keep each picture's.
    """
    library = load_library(path)
    groups = _groups_of(library)
    if library.router is None or len(library.router.labels) != len(groups):
        return None
    return purity(library.router.labels.tolist(), groups)


def routed_right(path: Path, clusters: Sequence[int], groups: Sequence[str]) -> float | None:
    """The share of pictures, of these `groups`, in a cluster that is mostly of their class."""
    library = load_library(path)
    if library.router is None:
        return None
    classes = dict(enumerate(library.names))
    if not set(classes.values()) <= set(groups):
        table = cross_table(library.router.labels.tolist(), _groups_of(library))
        classes = {cluster: counts.most_common(1)[0][0] for cluster, counts in table.items()}
    return float(np.mean([classes[cluster] == own for cluster, own in zip(clusters, groups)]))


def _groups_of(library: Library) -> list[str]:
    pictures = list_good_pictures(library.training_dataset_path)
    groups = {picture.relative.as_posix(): picture.group for picture in pictures}
    return [groups[name] for name in library.train]


def _images(pictures: Sequence[PictureFile], group: str) -> list[np.ndarray]:
    return [
        read_picture(picture, DEFAULT_INPUT_MAX)[0]
        for picture in pictures
        if picture.group == group
    ]


def _figures(scored: list[tuple[PictureFile, float]], pixels: PixelMetrics) -> Figures:
    known = [
        (picture.is_defective, score)
        for picture, score in scored
        if picture.is_defective is not None
    ]
    figures = image_figures([label for label, _ in known], [score for _, score in known])
    figures |= pixels.compute()
    return {name: figures[name] for name in METRICS}
