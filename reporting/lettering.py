"""Text in pictures, in any letters that the machine can draw."""

from functools import cache

import cv2
import numpy as np

TEXT = (230, 230, 230)  # BGR
LETTER_SIZE = 14  # pixels: that of cv2.putText here
BOXES_FONT = "Last Resort"  # begins the name of a font that has a box for every letter


def write_text(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    """Write text into a picture (H, W, 3), in place, its baseline beginning at (x, y).

    OpenCV 4 has ASCII letters alone. Text with others is drawn with a font of the system there.
    Where no font has all its letters, the others are left out: the report has the name.
    """
    # cv2.putText ends the process on text that is not valid Unicode, which a file name may be.
    text = text.encode("utf-8", "replace").decode()
    if not text.isascii() and not hasattr(cv2, "FontFace"):
        if font := _font_with(text):
            _draw_text(sheet, text, x, y, font)
            return
        text = text.encode("ascii", "ignore").decode()
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, TEXT, 1, cv2.LINE_AA)


def _font_with(text: str) -> str | None:
    """The path of a font on the system that has every letter of a text."""
    letters = set(map(ord, text))
    return next((font for font, known in _letters_of_fonts() if letters <= known), None)


@cache
def _letters_of_fonts() -> list[tuple[str, set[int]]]:
    """The path and the letters of each font on the system."""
    from matplotlib import font_manager

    found = []
    for entry in font_manager.fontManager.ttflist:
        if entry.name.startswith(BOXES_FONT):
            continue
        try:
            found.append((entry.fname, set(font_manager.get_font(entry.fname).get_charmap())))
        except (OSError, RuntimeError):  # gone, or none that FreeType reads
            continue
    return found


def _draw_text(sheet: np.ndarray, text: str, x: int, y: int, font: str) -> None:
    """Write text with the font of a path, as `write_text`."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(sheet)
    drawn = ImageFont.truetype(font, LETTER_SIZE)
    ImageDraw.Draw(picture).text((x, y), text, TEXT, drawn, anchor="ls")
    sheet[:] = np.asarray(picture)
