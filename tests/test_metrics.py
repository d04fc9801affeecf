import pickle

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from metrics import PixelFigures, image_figures


def random_strips(seed, count=4, spread=2.0):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        mask = generator.random((60, 50)) < 0.05
        logits = generator.normal(0, 3, mask.shape) + spread * mask
        yield (1 / (1 + np.exp(-logits))).astype(np.float32), mask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.0, 2.0, 10.0])
def test_pixel_figures_agree_with_scikit_learn_on_all_pixels(seed, spread):
    pixels, heatmaps, masks = PixelFigures(), [], []
    for heatmap, mask in random_strips(seed, spread=spread):
        pixels.add(heatmap, mask)
        heatmaps.append(heatmap.ravel())
        masks.append(mask.ravel())
    figures = pixels.figures()
    labels, scores = np.concatenate(masks), np.concatenate(heatmaps)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert figures["pixel_average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-3)


def test_probabilities_close_to_one_and_to_zero_are_told_apart():
    heatmap = np.array([[1 - 2e-6, 1 - 1e-6, 1e-7, 2e-7]], np.float32)
    pixels = PixelFigures()
    pixels.add(heatmap, np.array([[False, True, False, True]]))
    assert pixels.figures()["pixel_auroc"] == pytest.approx(0.75)


def test_equal_scores_are_ties():
    pixels = PixelFigures()
    pixels.add(np.full((4, 4), 0.5, np.float32), np.eye(4, dtype=bool))
    assert pixels.figures() == {"pixel_auroc": 0.5, "pixel_average_precision": 0.25}


def test_certain_answers():
    pixels = PixelFigures()
    mask = np.eye(5, dtype=bool)
    pixels.add(mask.astype(np.float32), mask)
    assert pixels.figures() == {"pixel_auroc": 1.0, "pixel_average_precision": 1.0}


def test_the_order_of_strips_does_not_matter_and_memory_does_not_grow():
    forward, backward = PixelFigures(), PixelFigures()
    strips = list(random_strips(7))
    for strip in strips:
        forward.add(*strip)
    for strip in reversed(strips):
        backward.add(*strip)
    assert np.array_equal(forward.counts, backward.counts)
    assert len(pickle.dumps(forward)) == len(pickle.dumps(PixelFigures()))


def test_what_cannot_be_told_is_none_and_not_a_number():
    pixels = PixelFigures()
    pixels.add(np.full((4, 4), 0.3, np.float32), np.zeros((4, 4), bool))
    assert pixels.figures() == {"pixel_auroc": None, "pixel_average_precision": None}
    assert image_figures([], []) == {"image_auroc": None, "image_average_precision": None}
    assert image_figures([True, True], [0.1, 0.9])["image_auroc"] is None


def test_image_figures():
    assert image_figures([False, True, False, True], [0.1, 0.9, 0.2, 0.8]) == {"image_auroc": 1.0, "image_average_precision": 1.0}
    assert image_figures([False, True], [0.9, 0.1])["image_auroc"] == 0.0


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_heatmaps_that_are_no_probabilities_are_refused(value):
    heatmap = np.full((4, 4), 0.5, np.float32)
    heatmap[0, 0] = value
    with pytest.raises(ValueError, match="expected probabilities"):
        PixelFigures().add(heatmap, np.zeros((4, 4), bool))
