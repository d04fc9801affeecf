"""A picture of what the classifier says of an image: mask, where it looked, and probabilities."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from classifier.metrics import MASK_THRESHOLD
from classifier.predictions import ImagePrediction, Maps
from reporting.lettering import TEXT, write_text
from reporting.pictures import (
    BACKDROP,
    DETECTED,
    GAP,
    TRUTH,
    drawn,
    heat,
    side_by_side,
)

SIDES = (224, 512)  # pixels: least and largest longer side of a panel
ROW, BAR = 22, 10  # pixels: height of a line of the bars, and of a bar
LETTER = 8  # pixels: usual width of a letter of `write_text`
LOOKED_SHARE = 0.6  # of the false colours over the image
WEBP_QUALITY = 85


def draw_panels(
    image: np.ndarray, mask: np.ndarray | None, maps: Maps | None
) -> dict[str, np.ndarray]:
    """Panels (H, W, 3) uint8, BGR, of an image (C, H, W), 0-255, by their captions.

    The image has a true mask's outline, the second panel that of the predicted one, and the third
    shows where the network looked. Without maps there is the image alone. Small images are
    enlarged, large ones reduced.
    """
    plain = _sized(_as_picture(image))
    panels = {"image": _outlined(plain, mask, TRUTH)}
    if maps:
        panels["mask"] = _outlined(plain, maps.mask > MASK_THRESHOLD, DETECTED)
        looked = cv2.resize(heat(maps.attention), plain.shape[1::-1])
        shares = (LOOKED_SHARE, 1 - LOOKED_SHARE)
        panels["where it looked"] = cv2.addWeighted(looked, shares[0], plain, shares[1], 0)
    return panels


def draw_prediction(
    prediction: ImagePrediction,
    panels: dict[str, np.ndarray],
    kinds: Sequence[str],
) -> np.ndarray:
    """The panels and bars of the probabilities side by side, (H, W, 3) uint8, BGR."""
    first = next(iter(panels.values()))
    shown = panels | {"probabilities": _bars(prediction, kinds, first.shape[:2])}
    name = prediction.image.relative.as_posix()
    title = f"{name}   {_written(prediction.predicted, kinds)}   {prediction.status}"
    return side_by_side(list(shown.values()), tuple(shown), title)


def embedded(panels: dict[str, np.ndarray]) -> dict[str, object]:
    """The panels in a row, as a report embeds them: `webp` in base 64, `width` and `height`."""
    first, *others = panels.values()
    gap = np.full((len(first), GAP, 3), BACKDROP, np.uint8)
    picture = cv2.hconcat([first, *(part for panel in others for part in (gap, panel))])
    webp = cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY))[1]
    height, width = picture.shape[:2]
    return {"webp": base64.b64encode(webp.tobytes()).decode(), "width": width, "height": height}


def _as_picture(image: np.ndarray) -> np.ndarray:
    """Three channels as colour, else the first channel as grey."""
    plane = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    return drawn(np.clip(plane, 0, 255))


def _sized(picture: np.ndarray) -> np.ndarray:
    longest = max(picture.shape[:2])
    if longest > SIDES[1]:
        size = [max(1, round(side * SIDES[1] / longest)) for side in picture.shape[1::-1]]
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    factor = -(-SIDES[0] // longest)
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def _outlined(
    picture: np.ndarray, mask: np.ndarray | None, color: tuple[int, int, int]
) -> np.ndarray:
    """A copy of a picture with the outline of a mask, which may have another size."""
    copy = picture.copy()
    if mask is not None and mask.any():
        fitted = cv2.resize(
            mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        outlines, _ = cv2.findContours(fitted, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(copy, outlines, -1, color, 1)
    return copy


def _bars(prediction: ImagePrediction, kinds: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """The likeliest kinds with a bar each, as many as a panel of `size` (height, width) holds."""
    height, width = size
    panel = np.full((height, width, 3), BACKDROP, np.uint8)
    order = np.argsort(-prediction.probabilities, kind="stable")[: max(1, height // (2 * ROW))]
    for place, number in enumerate(order.tolist()):
        share, top = float(prediction.probabilities[number]), 2 * ROW * place
        text = f"{share:.2f} {_written(number, kinds)}"
        write_text(panel, text[: width // LETTER], 4, top + ROW - 6)
        length = 4 + round(share * (width - 8))
        color = DETECTED if number == prediction.predicted else TEXT
        cv2.rectangle(panel, (4, top + ROW), (length, top + ROW + BAR), color, -1)
    return panel


def _written(number: int, kinds: Sequence[str]) -> str:
    """The name of a kind, or its number where OpenCV lacks the letters."""
    return kinds[number] if kinds[number].isascii() else f"kind {number}"
