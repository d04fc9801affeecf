"""Whether a network joins a library, by damage painted into held-out good pictures.

A network that was trained on few pictures may not even find such damage. Then its map adds noise to
that of the library.
"""

import argparse

import numpy as np
import torch

from autoencoder.choose_maps import FEWEST_PAINTED, FEWEST_PICTURES, MOST_PICTURES
from autoencoder.loaded import calibrate, load_scorers
from autoencoder.pseudo_defects import PseudoDefects
from common.device import full_precision
from common.progress import progress_bar
from data.folder import evenly_spaced
from data.image_files import to_batch
from data.pictures import read_picture
from evaluation.metrics import image_figures

SEED = 28
# of AUROC, for which a network joins: less than for patches, which count three times as much
LEAST_GAIN = 0.01


@torch.inference_mode()
def painted_auroc(
    arguments: argparse.Namespace, device: torch.device, defects: PseudoDefects
) -> float | None:
    """The image AUROC of held-out pictures with `defects` against good ones, as inference scores.

    `arguments` has the flags of score_flags.py. None for fewer than FEWEST_PICTURES. Raises
    `UserError` as `load_scorers` and `calibrate`.
    """
    loaded = load_scorers(arguments, device)
    held_out, good = calibrate(loaded, arguments)
    if len(held_out.pictures) < FEWEST_PICTURES:
        return None
    files = evenly_spaced(held_out.pictures, MOST_PICTURES)
    generator, scores = np.random.default_rng(SEED), []
    for file in progress_bar(files, desc="scoring painted pictures", unit="picture"):
        image, _ = read_picture(file, loaded.input_max)
        scorer = loaded.scorers.of(image.shape[1:])
        for _ in range(-(-FEWEST_PAINTED // len(files))):
            painted, _ = defects.paint(image, generator)
            with full_precision():
                scores.append(float(scorer(to_batch(painted, device))[1]))
    of_good = good.of_all["maxima"]
    is_painted = [False] * len(of_good) + [True] * len(scores)
    return image_figures(is_painted, [*of_good, *scores])["image_auroc"]
