"""Warnings about strips whose files can be read, but do not hold what a strip holds.

The checks look at some strips of a set: for JPG files, for channels that are the same picture or no
shots of one pattern, and for marked defects that stand out in a reference instead of in Target, or
that a good strip has.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import tifffile

from common.errors import UserError
from common.storage import fetch
from data.augmentation import MAD_TO_SIGMA
from data.folder import StripFile, evenly_spaced
from data.image_files import CHANNEL_NAMES, load_image
from data.masks import JPG_SUFFIXES, load_masks, marks_something

# pairs of channels, and what it means if they are the same picture
SAME_PICTURE = {
    (0, 1): "found that Ref1 is the same picture as Target: nothing can be found in such strips, "
    "expected another shot",
    (0, 2): "found that Ref2 is the same picture as Target: nothing can be found in such strips, "
    "expected another shot",
    (1, 2): "found one picture as both references, expected two shots: all that is peculiar to it "
    "looks like a defect of Target, so expect many false alarms",
}
MOST_STRIPS = 32  # looked at for their channels' pattern
MOST_MARKED_STRIPS = 20  # looked at for their marked defects

# Three shots of one pattern correlate with 0.97 to 1 at this scale, on every level of the quality
# suite; the channels of colour photos with 0.5 to 0.9, those of unrelated images with 0.2 at most.
LEAST_CORRELATION = 0.9
PATTERN_SIGMA, ILLUMINATION_SIGMA = 3.0, 32.0  # pixels: between them lies the pattern
LARGEST_SHIFT = 20  # pixels, of a reference against Target
SHRINK = 2  # the pattern is blurred, so every second pixel has it all
PATTERN_TO_NOISE = 5.0  # least spread of the pattern per sigma of the noise that is left in it
# share of the sigma of white noise that a Gaussian of PATTERN_SIGMA leaves
NOISE_LEFT = 1 / (2 * np.sqrt(np.pi) * PATTERN_SIGMA)

SPOT_BOX, SURROUNDINGS_BOX = 3, 15  # pixels: a spot is the smaller mean minus the larger one
LEAST_SIGNIFICANCE = 4.0  # sigmas by which a marked spot must stand out to count
ORDER_ADVICE = {
    1: "--channels ref1,target,ref2 reads files with the first two exchanged",
    2: "OpenCV's TIFFs and Pillow's PNGs exchange the first and the last one, which --channels "
    "ref2,ref1,target reads",
}
FEWEST_SPOTS, LEAST_VOTES = 3, 0.6  # spots, and the share of them that one reference must have
MOST_SPOTS = 50  # of a strip


def content_warnings(strips: list[StripFile], input_max: float) -> list[str]:
    """A sentence for each thing in a set of verified strips that makes results meaningless.

    Strips that can no longer be read are passed over: who uses them reports that.
    """
    equalities, correlations, names = [], [], []
    for strip in evenly_spaced(strips, MOST_STRIPS):
        for image in _load(strip, input_max):
            equalities.append(equal_channels(image))
            correlations.append(pattern_correlation(image))
            names.append(str(strip.path))
    warnings = (
        lossy_warning(strips),
        equality_warning(equalities),
        pattern_warning(correlations) or odd_one_warning(dict(zip(names, correlations))),
        good_mask_warning(strips),
        order_warning(strips, input_max),
    )
    return [warning for warning in warnings if warning]


def lossy_warning(strips: list[StripFile]) -> str | None:
    """A sentence where strips are JPG files, or TIFFs with JPG inside; else None."""
    named = [strip.path for strip in strips if strip.path.suffix.lower() in JPG_SUFFIXES]
    inside = [
        strip.path
        for strip in evenly_spaced(strips, MOST_STRIPS)
        if strip.path not in named and _has_jpg_inside(strip.path)
    ]
    if not named and not inside:
        return None
    found = f"found {len(named)} JPG files" if named else f"{inside[0]}: found JPG compression"
    return (
        f"{found}, expected a format without loss (TIFF, PNG): JPG stores three channels as "
        "colours at half the resolution and mixes them; of a spot of 40 grey levels in Target "
        "alone 11 are left, or 4 at quality 75, with ghosts in both references"
    )


def equal_channels(image: np.ndarray) -> set[tuple[int, int]] | None:
    """The pairs of SAME_PICTURE that are equal in (3, H, W); None where it has one value only."""
    if image.min() == image.max():
        return None
    return {pair for pair in SAME_PICTURE if np.array_equal(*image[list(pair)])}


def equality_warning(equalities: list[set[tuple[int, int]] | None]) -> str | None:
    """A sentence where a channel of most strips is the same picture as another one; else None.

    `equalities` are those of `equal_channels`, one for each strip.
    """
    known = [pairs for pairs in equalities if pairs is not None]
    found = {
        pair for pair in SAME_PICTURE if 2 * sum(pair in pairs for pairs in known) > len(known)
    }
    if len(found) == len(SAME_PICTURE):
        return (
            "found the same picture in all three channels: nothing can be found in such strips; "
            "prepare_dataset.py combine makes strips of images of one channel"
        )
    return next((SAME_PICTURE[pair] for pair in SAME_PICTURE if pair in found), None)


def _has_jpg_inside(path: Path) -> bool:
    try:
        with tifffile.TiffFile(fetch(path)) as tiff:
            return tiff.pages[0].compression in (
                tifffile.COMPRESSION.OJPEG,
                tifffile.COMPRESSION.JPEG,
            )
    except Exception:  # tifffile raises exceptions of many types, for PNG files too
        return False


def pattern_warning(correlations: list[float | None]) -> str | None:
    """A sentence where most strips' channels are no shots of one pattern; else None.

    `correlations` are those of `pattern_correlation`, one for each strip.
    """
    known = [correlation for correlation in correlations if correlation is not None]
    if not known or (typical := float(np.median(known))) >= LEAST_CORRELATION:
        return None
    return (
        f"found channels whose patterns correlate with {typical:.2f}, expected three shots of one "
        f"pattern, which correlate with {LEAST_CORRELATION:g} or more: are these colour photos, or "
        "strips put together from different images?"
    )


def odd_one_warning(correlations: dict[str, float | None]) -> str | None:
    """A sentence where a few strips' channels are no shots of one pattern; else None.

    `correlations` are those of `pattern_correlation` by the strips' names.
    """
    odd = {
        name: correlation
        for name, correlation in correlations.items()
        if correlation is not None and correlation < LEAST_CORRELATION
    }
    if not odd:
        return None
    worst = min(odd, key=odd.__getitem__)
    return (
        f"{worst}: found channels whose patterns correlate with {odd[worst]:.2f}, expected three "
        "shots of one pattern as in the other strips: is it a colour photo? "
        f"(strips like it: {len(odd)} of {len(correlations)} looked at)"
    )


def good_mask_warning(strips: list[StripFile]) -> str | None:
    """A sentence where strips that count as good have marked defects; else None."""
    good = [strip for strip in strips if strip.kind is not None and not strip.is_defective]
    marked = [strip for strip in good if strip.points or marks_something(strip.masks)]
    if not marked:
        return None
    return (
        f"{marked[0].path}: found marked defects in a strip of {marked[0].kind}/, which counts as "
        f"good, expected it in another folder, or no mask (strips like it: {len(marked)})"
    )


def pattern_correlation(image: np.ndarray) -> float | None:
    """The correlation, -1 to 1, of Target's pattern with that of the less similar reference.

    `image` is (3, H, W) in grey levels. The pattern is what lies between the noise and the
    illumination in size. The correlation is that of the best shift up to LARGEST_SHIFT. None where
    the noise exceeds the pattern.
    """
    patterns = [_pattern(channel) for channel in image]
    if any(pattern is None for pattern in patterns):
        return None
    height, width = patterns[0].shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    windowed = [pattern * window for pattern in patterns]
    target, *references = (np.fft.rfft2(pattern) for pattern in windowed)
    reach = LARGEST_SHIFT // SHRINK
    rows, columns = (
        np.arange(-min(reach, size // 2), min(reach, size // 2)) for size in (height, width)
    )
    norm = np.linalg.norm(windowed[0])
    return min(
        float(
            np.fft.irfft2(target.conj() * reference, s=(height, width))[np.ix_(rows, columns)].max()
            / (norm * np.linalg.norm(pattern))
        )
        for reference, pattern in zip(references, windowed[1:])
    )


def _pattern(channel: np.ndarray) -> np.ndarray | None:
    """A channel's pattern around 0, every SHRINK-th pixel; None where it is lost in the noise."""
    channel = np.ascontiguousarray(channel)
    blurred = cv2.GaussianBlur(channel, (0, 0), PATTERN_SIGMA)
    noise = MAD_TO_SIGMA * float(np.median(np.abs(channel - blurred))) * NOISE_LEFT
    small = blurred[::SHRINK, ::SHRINK]
    pattern = small - cv2.GaussianBlur(small, (0, 0), ILLUMINATION_SIGMA / SHRINK)
    pattern -= pattern.mean()
    spread = float(pattern.std())
    return pattern if spread > 0 and spread >= PATTERN_TO_NOISE * noise else None


def order_warning(strips: list[StripFile], input_max: float) -> str | None:
    """A sentence where marked defects stand out in a reference instead of in Target; else None."""
    marked = [strip for strip in strips if strip.masks]
    votes = np.zeros(len(CHANNEL_NAMES), int)
    for strip in evenly_spaced(marked, MOST_MARKED_STRIPS):
        for image in _load(strip, input_max):
            try:
                mask = load_masks(strip.masks, image.shape[1:])
            except UserError:
                continue
            votes += spots_by_channel(image, mask)
    spots, winner = int(votes.sum()), int(votes.argmax())
    if spots < FEWEST_SPOTS or winner == 0 or votes[winner] < LEAST_VOTES * spots:
        return None
    return (
        f"found {votes[winner]} of {spots} marked defects in {CHANNEL_NAMES[winner]}, expected "
        f"them in Target: are the channels in another order? {ORDER_ADVICE[winner]}"
    )


def spots_by_channel(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How many marked spots stand out in each channel most, (3,) int.

    A spot stands out in the channel that differs there from the mean of the other two, in units of
    what this difference usually is. Spots that stand out nowhere do not count.
    """
    total = image.sum(axis=0)
    votes = np.zeros(len(image), int)
    significance = np.stack([_deviation(1.5 * channel - 0.5 * total) for channel in image])
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    for number in range(1, min(count, MOST_SPOTS + 1)):
        strongest = significance[:, labels == number].max(axis=1)
        if strongest.max() >= LEAST_SIGNIFICANCE:
            votes[strongest.argmax()] += 1
    return votes


def _deviation(difference: np.ndarray) -> np.ndarray:
    """How far spots of a difference (H, W) lie from their surroundings, in sigmas, 0 or more."""
    spots = cv2.blur(difference, (SPOT_BOX, SPOT_BOX)) - cv2.blur(
        difference, (SURROUNDINGS_BOX, SURROUNDINGS_BOX)
    )
    distances = np.abs(spots)
    sigma = MAD_TO_SIGMA * float(np.median(distances))
    return distances / max(sigma, np.finfo(np.float32).eps)


def _load(strip: StripFile, input_max: float) -> Iterable[np.ndarray]:
    """The strip's image, or nothing where it can no longer be read."""
    try:
        return [load_image(strip.path, input_max, order=strip.order)]
    except UserError:
        return []
