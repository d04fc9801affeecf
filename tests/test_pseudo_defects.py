import numpy as np
import pytest

from autoencoder.pseudo_defects import KINDS, LEAST_CHANGE, PseudoDefects
from common.errors import UserError

SIZES = ((96, 128), (40, 24), (5, 7), (1, 1))


def surface(seed, size=(96, 128), channels=1):
    generator = np.random.default_rng(seed)
    rows = 40 * np.sin(np.arange(size[0]) / 3)[:, None]
    return np.clip(120 + rows + generator.normal(0, 8, (channels, *size)), 0, 255).astype(
        np.float32
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_picture_changed(kind):
    painter = PseudoDefects((kind,))
    for seed, size in enumerate(SIZES * 8):
        channels = 1 + 2 * (seed % 2)
        image = surface(seed, size, channels)
        donors = [surface(90, (60, 70), channels), surface(91, (9, 200), channels)]
        given = image.copy()
        painted, mask = painter.paint(
            image, np.random.default_rng(seed), donors if seed % 3 else None
        )
        assert np.array_equal(image, given)
        assert painted.shape == image.shape and painted.dtype == np.float32
        assert mask.shape == size and mask.dtype == bool and mask.any()
        assert np.array_equal(mask, (painted != image).any(axis=0))
        assert abs(painted - image).max(axis=0)[mask].min() >= LEAST_CHANGE * 0.999
        assert painted.min() >= 0 and painted.max() <= 255


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_never_leaves_the_picture(kind):
    """Whole outlines lie in the picture: a defect is as large at the border as in the middle."""
    painter = PseudoDefects((kind,), size=(20, 20), rotation=0)
    sides, touching = [], 0
    for seed in range(150):
        mask = painter.paint(surface(3, (48, 48)), np.random.default_rng(seed))[1]
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        touching += rows[0] == 0 or rows[-1] == 47 or columns[0] == 0 or columns[-1] == 47
        sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert touching and max(sides) <= 20
    assert min(sides) >= (8 if kind == "texture" else 18)


def test_the_same_seed_gives_the_same_picture():
    image, donors = surface(1), [surface(2)]
    first, again, other = (
        PseudoDefects().paint(image, np.random.default_rng(seed), donors) for seed in (5, 5, 6)
    )
    assert all(np.array_equal(one, two) for one, two in zip(first, again))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_contrast_are_those_that_are_named(kind):
    painter = PseudoDefects((kind,), size=(12, 24), rotation=180, contrast=(15, 30))
    for seed in range(40):
        image = surface(seed)
        painted, mask = painter.paint(image, np.random.default_rng(seed), [surface(77)])
        spots = np.argwhere(mask)
        corners = spots[:, None] - spots[None, :: max(1, len(spots) // 50)]
        longest = np.sqrt((corners**2).sum(axis=2)).max() + 1
        assert (5 if kind == "texture" else 11) <= longest <= 24 * 2**0.5 + 1
        # what would not change changes by one grey level, so the contrast may be a little more
        contrast = np.sqrt(np.mean((painted - image)[:, mask] ** 2))
        assert 14.5 <= contrast <= 31


def test_no_rotation_gives_upright_rectangles_and_rotation_does_not():
    def fills_its_box(rotation):
        painter = PseudoDefects(("cutpaste",), size=(16, 30), rotation=rotation)
        shares = []
        for seed in range(20):
            mask = painter.paint(surface(4), np.random.default_rng(seed))[1]
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            shares.append(mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
        return np.array(shares)

    assert (fills_its_box(0) == 1).all()
    assert (fills_its_box(45) < 0.9).sum() >= 10


def test_a_scar_is_thin_and_three_way_gives_patches_and_scars():
    def areas(kind):
        painter = PseudoDefects((kind,), size=(30, 30), rotation=0)
        return np.array(
            [painter.paint(surface(4), np.random.default_rng(seed))[1].sum() for seed in range(40)]
        )

    assert areas("scar").max() <= 30 * 30 / 4 + 30 < 270 < areas("cutpaste").min()
    mixed = areas("3way")
    assert 8 <= (mixed < 260).sum() <= 32


def test_a_blended_patch_has_no_step_at_its_edge():
    """The change is smallest at the edge; a pasted patch's change is as large there as inside."""

    def edge_over_inside(kind):
        painter = PseudoDefects((kind,), size=(40, 40), contrast=(30, 30))
        ratios = []
        for seed in range(20):
            image = np.full((1, 96, 96), 100, np.float32)
            image += np.arange(96) / 2  # so that patches differ from what they cover
            painted, mask = painter.paint(image, np.random.default_rng(seed))
            inside = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0)
            inside &= np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
            change = abs(painted - image)[0]
            ratios.append(change[mask & ~inside].mean() / change[inside].mean())
        return np.mean(ratios)

    assert edge_over_inside("blend") < 0.35 and edge_over_inside("cutpaste") > 0.8


@pytest.mark.parametrize("level", [0, 255])
def test_a_saturated_picture_still_gets_a_visible_defect(level):
    image = np.full((1, 40, 40), level, np.float32)
    for seed in range(20):
        painted, mask = PseudoDefects(contrast=(20, 40)).paint(image, np.random.default_rng(seed))
        assert abs(painted - image)[:, mask].mean() > 5


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"kinds": ("cutpast",)}, "--defect_kinds: found cutpast, expected some of cutpaste"),
        ({"kinds": ()}, "--defect_kinds: found none"),
        ({"size": (60, 4)}, "--defect_size: found 60 4"),
        ({"size": (0, 4)}, "--defect_size: found 0 4"),
        ({"contrast": (0, float("nan"))}, "--defect_contrast: found 0 nan"),
        ({"rotation": -1}, "--defect_rotation: found -1"),
    ],
)
def test_wrong_settings_are_refused_by_their_flag(settings, flag):
    with pytest.raises(UserError, match=flag):
        PseudoDefects(**settings)
