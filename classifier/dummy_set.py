"""Draw the dummy set: small grey pictures of four surfaces, good and with four kinds of defect.

Good and defective pictures share what is no defect: dust of one or two pixels, shading, gain and
noise. A picture depends on its kind, its number and the seed alone.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from classifier.defect_data import SPLITS
from classifier.dummy_surfaces import SURFACES, Surface
from classifier.split import split_counts
from common.pipeline import in_parallel
from data.demo_strips import add_sensor_noise, apply_exposure, draw_exposure
from data.folder import GOOD, mask_path
from data.image_files import encode_image
from data.texture_defects import KINDS as TEXTURE_DEFECTS
from data.texture_defects import Spot
from data.write_images import write_mask
from gaussian import MAX_GREY

SCRATCH, SPOT, STAIN, MISSING = "scratch", "spot", "stain", "missing_part"
DEFECTS = (SCRATCH, SPOT, STAIN, MISSING)  # in a fixed order: it is part of the seed
CONTRAST, STAIN_CONTRAST = (30.0, 90.0), (20.0, 50.0)  # grey levels
FAINT = 0.5  # of these, with --faint
# of the changes of a defect's pixels, the percentile that has the defect's contrast
CONTRAST_PERCENTILE = 80
# pixels of a side for which scratches and stains have the size of data/texture_defects.py
SCRATCH_SIDE, STAIN_SIDE = 150.0, 115.0
SPOT_RADIUS = (2.2, 5.0)  # pixels at a side of 96; dust has at most 1
USUAL_SIDE = 96
COVERED = 0.3  # share of a pixel that a defect must cover to be in the mask
FEWEST_PIXELS, ATTEMPTS = 10, 20  # of a mask, and how often a defect is drawn to have them
MARGIN = 0.12  # share of the side from the border to a defect's middle
DUST_COUNT, DUST_CONTRAST = (3, 9), (20.0, 70.0)
SHADING = 22.0  # grey levels from the darkest to the lightest place, at most


class Job(NamedTuple):
    """One picture of the set."""

    split: str
    kind: str
    number: int


def write_dummy_set(
    root: Path,
    num_defect: int,
    num_normal: int,
    size: int,
    seed: int,
    shares: tuple[float, float],
    is_faint: bool = False,
) -> None:
    """Write pictures (size, size), with masks of the defective ones.

    `shares` are those of `valid/` and `test/`, of each kind. The kinds of defects take turns.
    """
    counts = {GOOD: num_normal} | {
        kind: len(range(place, num_defect, len(DEFECTS))) for place, kind in enumerate(DEFECTS)
    }
    jobs = [
        Job(split, kind, number)
        for kind, count in counts.items()
        for number, split in enumerate(np.repeat(SPLITS, split_counts(count, shares)).tolist())
    ]
    in_parallel(lambda job: _write(root, job, size, seed, is_faint), jobs, "drawing pictures")


def _write(root: Path, job: Job, size: int, seed: int, is_faint: bool) -> None:
    image, mask = draw_picture(job.kind, job.number, size, seed, is_faint)
    name = f"{job.number:04}"
    path = root / job.split / job.kind / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, image))
    if job.kind != GOOD:
        file = mask_path(root, job.split, job.kind, name)
        write_mask(file, mask.astype(np.uint8))


def draw_picture(
    kind: str, number: int, size: int, seed: int, is_faint: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture (size, size) uint8 of `good` or one of DEFECTS, and its mask of bool."""
    place = (GOOD, *DEFECTS).index(kind)
    generator = np.random.default_rng((seed, place, number))
    surface = list(SURFACES.values())[number % len(SURFACES)](generator, size)
    levels, mask = surface.levels, np.zeros((size, size), bool)
    if kind != GOOD:
        levels, mask = _damage(surface, kind, generator, is_faint)
    levels = _add_dust(levels, generator)
    exposure = draw_exposure(
        generator, levels.shape, illumination_spread=SHADING * generator.uniform(0.2, 1.0)
    )
    lit = add_sensor_noise(apply_exposure(levels, exposure), exposure, generator)
    return np.rint(lit).astype(np.uint8), mask


def _damage(
    surface: Surface, kind: str, generator: np.random.Generator, is_faint: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The levels with a defect whose changes have the contrast of its kind, and its mask."""
    contrast = generator.uniform(*(STAIN_CONTRAST if kind == STAIN else CONTRAST))
    if kind == MISSING:
        contrast = min(contrast, surface.highest)
    if is_faint:
        contrast *= FAINT
    for _ in range(ATTEMPTS):
        damaged, cover = _draw_defect(surface, kind, generator)
        mask = cover > COVERED
        if mask.sum() >= FEWEST_PIXELS:
            break
    change = damaged - surface.levels
    strength = float(np.percentile(abs(change[mask]), CONTRAST_PERCENTILE))
    levels = surface.levels + change * (contrast / strength)
    return np.clip(levels, 0, MAX_GREY).astype(np.float32), mask


def _draw_defect(
    surface: Surface, kind: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The levels with a defect of any contrast, and how far each pixel belongs to it, 0-1."""
    if kind == MISSING:
        return surface.remove(generator)
    size = len(surface.levels)
    y, x = generator.uniform(MARGIN * size, (1 - MARGIN) * size, 2)
    if kind == SPOT:
        return _spot(surface.levels, y, x, generator)
    scale = size / (SCRATCH_SIDE if kind == SCRATCH else STAIN_SIDE)
    return TEXTURE_DEFECTS[kind](surface.levels, Spot(y, x, 40.0, scale), generator, surface.levels)


def _spot(
    levels: np.ndarray, y: float, x: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A drop or a grain on the surface: one small disc, a little oval, dark or bright."""
    radius = generator.uniform(*SPOT_RADIUS) * len(levels) / USUAL_SIDE
    stretch, angle = generator.uniform(0.8, 1.25), generator.uniform(0, np.pi)
    rows, columns = np.indices(levels.shape, np.float32)
    down, right = rows - y, columns - x
    along = (down * np.cos(angle) + right * np.sin(angle)) * stretch
    aside = (right * np.cos(angle) - down * np.sin(angle)) / stretch
    softness = generator.uniform(0.8, 1.6)
    cover = np.clip(0.5 + (radius - np.hypot(along, aside)) / softness, 0, 1)
    sign = -1 if generator.random() < 0.6 else 1
    return levels + sign * 50 * cover, cover


def _add_dust(levels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Specks of one or two pixels, dark or bright, which are no defect."""
    dusty = levels.copy()
    for _ in range(int(generator.integers(*DUST_COUNT))):
        y, x = generator.integers(0, np.array(levels.shape) - 1)
        tall, wide = ((1, 1), (1, 2), (2, 1))[int(generator.integers(3))]
        change = generator.uniform(*DUST_CONTRAST) * (-1 if generator.random() < 0.5 else 1)
        dusty[y : y + tall, x : x + wide] += change
    return np.clip(dusty, 0, MAX_GREY)
