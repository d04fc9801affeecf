"""Settings of the quality benchmark, chosen on other strips like those of the suite."""

from dataclasses import asdict

import torch
from tqdm import tqdm

from benchmarks.ceiling import choose_filter
from benchmarks.quality_scores import recall_sum, score_strip
from benchmarks.suite.levels import GROUPS
from benchmarks.suite.strips import make_suite_strip
from evaluation.predictors import DetectorPredictor
from ops.classical import METHODS, classical_detector

SEED = 77_001
# strips of each level to choose on: some have one defect, others many
STRIPS = range(3, 7)
CEILING_STRIPS = range(3, 10)


def choose_sigmas(group: str, device: torch.device) -> dict[str, float]:
    """Sigma of each method's Gaussian in pixels, for the levels of a group.

    The chosen one has the highest mean of the recalls at 0.1 and 1 false alarms per strip.
    """
    strips = [
        make_suite_strip(level, number, 0, SEED) for level in GROUPS[group] for number in STRIPS
    ]
    chosen = {}
    for method, (_, candidates) in METHODS.items():
        recalls = {}
        for sigma in tqdm(candidates, desc=f"Gaussian for {method}", disable=None):
            predictor = DetectorPredictor(classical_detector(method, sigma), device)
            recalls[sigma] = recall_sum([score_strip(predictor, strip) for strip in strips])
        chosen[method] = max(recalls, key=recalls.get)
    return chosen


def choose_filters(group: str) -> dict[str, dict]:
    """The fields of the MatchedFilter of each level of a group, by the level's name."""
    return {
        level: asdict(choose_filter(level, SEED, CEILING_STRIPS))
        for level in tqdm(GROUPS[group], desc="filters", disable=None)
    }
