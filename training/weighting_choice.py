"""The choice of a trained network's weighting, on strips that it has not learnt from."""

import torch
from torch import nn

from data.folder import StripFile, sample_of_both
from data.recipes import point_settings
from data.splits import painted
from evaluation.calibration import MOST_STRIPS_TO_CHOOSE_BY, good_strips
from evaluation.evaluate import evaluate
from evaluation.predictors import TorchPredictor
from ops.likelihood import DEFAULT_WEIGHTING
from training.strip_settings import TrainingSettings

CHOICES = (DEFAULT_WEIGHTING, "none")  # of equal ones the first
RATES = (0.1, 1.0)  # false alarms per strip


def choose_weighting(
    network: nn.Module, strips: list[StripFile], settings: TrainingSettings, device: torch.device
) -> str:
    """The weighting of CHOICES with the highest mean recall at RATES, after printing the recalls.

    It multiplies the odds of points. Where other structures look as likely as points, as pads and
    tracks of boards do, the network alone finds more. `strips` are held out; where all of them are
    good, the recipe paints defects into copies. Without any strip the first of CHOICES is taken.
    """
    sample = sample_of_both(with_defects(strips, settings), MOST_STRIPS_TO_CHOOSE_BY)
    recalls = {}
    for weighting in CHOICES:
        predictor = TorchPredictor(network, settings.patch, device, settings.align, weighting)
        evaluation = evaluate(predictor, sample, settings.input_max, "choosing the weighting")
        points = evaluation.metrics.points
        if not points.truths:
            print(f"weighting: {CHOICES[0]}, the default: no strip was held out to choose by")
            return CHOICES[0]
        recalls[weighting] = [points.recall(rate) for rate in RATES]
    chosen = max(CHOICES, key=lambda weighting: sum(recalls[weighting]))
    found = "; ".join(
        f"{weighting} {' and '.join(f'{recall:.3f}' for recall in recalls[weighting])}"
        for weighting in CHOICES
    )
    rates = " and ".join(f"{rate:g}" for rate in RATES)
    print(f"weighting: {chosen}; recall of held-out points at {rates} false alarms: {found}")
    return chosen


def with_defects(strips: list[StripFile], settings: TrainingSettings) -> list[StripFile]:
    """The strips; where none has defects at known places, the good ones and painted copies."""
    if settings.use_mask and any(has_known_defects(strip) for strip in strips):
        return strips
    good, points = good_strips(strips), point_settings(settings.recipe_settings)
    copies = [painted(strip, number, settings.recipe, points) for number, strip in enumerate(good)]
    return good + copies


def has_known_defects(strip: StripFile) -> bool:
    """Whether a mask, points or painting say where the strip's defects are."""
    is_known = strip.masks or strip.points or strip.painted_with
    return bool(strip.is_defective and is_known)
