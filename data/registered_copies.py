"""Copies of the training strips with aligned references.

They are files that are made once and that all processes read in every epoch.
"""

from functools import partial
from pathlib import Path

import numpy as np
import tifffile
import torch

from common.device import full_precision
from common.files import atomic_write, refused_by_system
from common.progress import progress_bar
from data.folder import StripFile
from data.image_files import STORED_ORDER, load_image, to_batch
from data.verify import VerifiedFiles
from gaussian import MAX_GREY
from ops.registration import Alignment

KNOWN = ".aligned_strips.json"  # beside the copies: which file each was made of
# Raise it whenever an aligned strip changes: copies of another version are made anew.
VERSION = 3


class StripAligner:
    """Aligns one strip in grey levels, for training and to measure how far strips were off."""

    def __init__(self, mode: str, device: torch.device):
        self.alignment = Alignment(mode).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) grey levels to an aligned strip of that shape, and measures (2, MEASURES).

        With mode `shift` values may leave 0-255.
        """
        with full_precision():
            strips, measures = self.alignment(to_batch(image, self.device))
        return (strips[0] * MAX_GREY).cpu().numpy(), measures[0].cpu().numpy()


def aligned_copies(
    strips: list[StripFile], mode: str, input_max: float, folder: Path, device: torch.device
) -> list[Path]:
    """Write a TIFF in `folder` for each strip, and return the paths in the strips' order.

    The files hold float32 grey levels, uncompressed, so that patches can be read alone and
    processes share the memory. Existing files that the same code made of the same strip stay.
    Raises `UserError` if a strip can no longer be read or the file system refuses.
    """
    aligner = StripAligner(mode, device)
    how = f"--align {mode}, version {VERSION}, input_max {input_max:g}"
    if strips and strips[0].order != STORED_ORDER:
        how += f", channels {strips[0].order}"
    with refused_by_system(folder):
        folder.mkdir(parents=True, exist_ok=True)
    known = VerifiedFiles(folder / KNOWN)
    copies = [folder / strip.relative.with_suffix(".tiff") for strip in strips]
    try:
        for strip, copy in zip(progress_bar(strips, desc="aligning strips", unit="strip"), copies):
            make = partial(_write_copy, strip, copy, aligner, input_max)
            known.facts(strip.path, how, 0, make)
            if not copy.exists():
                make()
    finally:
        known.save()
    return copies


def _write_copy(strip: StripFile, copy: Path, aligner: StripAligner, input_max: float) -> list:
    """Write the aligned strip to `copy` and return no facts."""
    image, _ = aligner(load_image(strip.path, input_max, order=strip.order))
    with atomic_write(copy) as temporary:
        tifffile.imwrite(temporary, image, photometric="minisblack", planarconfig="separate")
    return []
