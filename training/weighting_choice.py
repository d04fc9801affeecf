"""The choice of a trained network's weighting, on strips that it has not learnt from."""

import torch
from torch import nn

from data.folder import StripFile, good_strips, sample_good_and_defective
from data.recipes import point_settings
from data.splits import paint_later
from evaluation.calibration import MOST_STRIPS_TO_CHOOSE_BY, RATES_TO_CHOOSE_BY
from evaluation.evaluate import evaluate
from evaluation.predictors import TorchPredictor
from ops.likelihood import DEFAULT_WEIGHTING
from training.strip_settings import TrainingSettings

# What "none" must find more than the default, over both rates: points, and the share of all points.
# Less may be chance.
LEAST_LEAD, LEAST_SHARE = 3, 0.05


def choose_weighting(
    network: nn.Module, strips: list[StripFile], settings: TrainingSettings, device: torch.device
) -> str:
    """DEFAULT_WEIGHTING, or "none" where that finds clearly more; prints what each finds.

    A weighting multiplies the odds of points. Where other structures look as likely as points, as
    pads and tracks of boards do, the network alone finds more. `strips` are held out; where no
    real defect is known in them, the recipe paints some into copies.
    """
    sample = sample_good_and_defective(with_defects(strips, settings), MOST_STRIPS_TO_CHOOSE_BY)
    recalls, count = {}, 0
    for weighting in (DEFAULT_WEIGHTING, "none"):
        predictor = TorchPredictor(network, settings.patch, device, settings.align, weighting)
        points = evaluate(
            predictor, sample, settings.input_max, "choosing the weighting"
        ).metrics.points
        count = points.truths
        if not count:
            print(f"weighting: {DEFAULT_WEIGHTING}, the default: no held-out strip to choose by")
            return DEFAULT_WEIGHTING
        recalls[weighting] = [points.recall(rate) for rate in RATES_TO_CHOOSE_BY]
    lead = count * (sum(recalls["none"]) - sum(recalls[DEFAULT_WEIGHTING]))
    chosen = "none" if round(lead) >= max(LEAST_LEAD, LEAST_SHARE * count) else DEFAULT_WEIGHTING
    found = "; ".join(
        f"{weighting} {' and '.join(f'{recall:.3f}' for recall in values)}"
        for weighting, values in recalls.items()
    )
    rates = " and ".join(f"{rate:g}" for rate in RATES_TO_CHOOSE_BY)
    where = f"{count} points of {len(sample)} held-out strips"
    print(f"weighting: {chosen}; recall of {where} at {rates} false alarms per strip: {found}")
    return chosen


def with_defects(strips: list[StripFile], settings: TrainingSettings) -> list[StripFile]:
    """The strips; where no real defect is known in them, the good ones and painted copies.

    Each good strip is painted several times if they are few: a choice takes a hundred points.
    """
    if any(strip.has_known_defects and not strip.painted_with for strip in strips):
        return strips
    good, points = good_strips(strips), point_settings(settings.recipe_settings)
    count = MOST_STRIPS_TO_CHOOSE_BY // 2 if good else 0
    return good + [
        paint_later(good[number % len(good)], number, settings.recipe, points)
        for number in range(count)
    ]
