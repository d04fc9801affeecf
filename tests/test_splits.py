from pathlib import Path

import numpy as np
import pytest

from data.folder import StripFile, list_strips, sample_good_and_defective
from data.labelled_strip import read_strip
from data.splits import set_aside


def strips(count):
    return [
        StripFile(Path(f"{number}.tiff"), Path(f"{number}.tiff"), None, None)
        for number in range(count)
    ]


@pytest.mark.parametrize("count, expected", [(1, 0), (2, 1), (9, 1), (20, 2), (60, 6)])
def test_a_tenth_is_set_aside_at_least_one_but_never_the_only_one(count, expected):
    train, valid = set_aside(strips(count), "classic")
    assert len(train) == count - expected and len(valid) == 2 * expected
    assert {strip.path for strip in train}.isdisjoint(strip.path for strip in valid)
    assert [strip.kind for strip in valid] == ["good", "painted"] * expected
    assert (train, valid) == set_aside(strips(count), "classic")  # always the same ones


@pytest.mark.parametrize("count", [60, 210, 300])
def test_a_sample_of_those_set_aside_has_good_and_painted_ones(count):
    chosen = sample_good_and_defective(set_aside(strips(count), "classic")[1], 40)
    kinds = [strip.kind for strip in chosen]
    assert min(kinds.count("good"), kinds.count("painted")) > 5 and len(kinds) <= 40


def test_a_sample_takes_the_strips_whose_defects_are_known():
    def named(kind, count, mask=None):
        return [StripFile(Path("a"), Path("a"), kind, mask) for _ in range(count)]

    known = named("spots", 8, Path("mask"))
    chosen = sample_good_and_defective(named("good", 50) + named("spots", 400) + known, 40)
    assert (sum(strip in known for strip in chosen), len(chosen)) == (8, 33)
    assert {strip.kind for strip in chosen if strip not in known} == {"good"}


@pytest.mark.parametrize("recipe, marked", [("classic", (9, 30)), ("robust", (30, 3000))])
def test_a_painted_strip_is_the_good_one_with_the_same_defects_every_time(dataset, recipe, marked):
    _, (good, painted) = set_aside(list_strips(dataset / "train" / "good"), recipe)
    image, nothing = read_strip(good, 255)
    spotted, mask = read_strip(painted, 255)
    again, _ = read_strip(painted, 255)
    assert (
        np.array_equal(spotted, again)
        and not nothing.any()
        and marked[0] <= mask.sum() <= marked[1]
    )
    assert np.array_equal((spotted != image).any(axis=0) | mask, (spotted != image).any(axis=0))
    assert painted.is_defective and not good.is_defective
