"""The choice of a library's maps by damage that is painted into held-out good pictures."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from autoencoder import choose_network, patch_statistics, train_and_score
from autoencoder.build_library import LibrarySettings, build_library
from autoencoder.choose_maps import LEAST_GAIN, choose_maps, painted_aurocs
from autoencoder.choose_network import painted_auroc
from autoencoder.inference import parse_args
from autoencoder.library import load_library, save_library
from autoencoder.loaded import make_sources
from autoencoder.maps import LIBRARY, OF_LIBRARY, library_top_share
from autoencoder.patch_mixtures import OF_MIXTURES
from autoencoder.patch_statistics import PatchStatistics
from autoencoder.pseudo_defects import PseudoDefects
from autoencoder.train_and_score import choose_detector
from common.errors import UserError
from data.pictures import list_good_pictures
from tests.autoencoder_models import write_checkpoint, write_picture

SIDE, PICTURES = 64, 24
SETTINGS = LibrarySettings(memory=200, cell=4, input_size=SIDE, valid_share=0.4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What is built of good pictures of a fine texture."""
    root = tmp_path_factory.mktemp("surface")
    for number in range(PICTURES):
        noise = np.random.default_rng((24, number)).normal(0, 1, (SIDE, SIDE))
        texture = cv2.GaussianBlur(noise, None, 1.0)
        levels = np.clip(128 + 15 * texture / texture.std(), 0, 255)
        write_picture(root / f"{number}.png", levels.astype(np.uint8)[..., None])
    return build_library(list_good_pictures(root), SETTINGS, root)


class ByChance:
    """A map that knows nothing, as patches of pictures that have nothing in common."""

    kinds = ("chance",)

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, pictures, clusters):
        spread = 10 * torch.rand(1, generator=self.generator)
        size = tuple(int(side) // SETTINGS.cell for side in pictures.shape[2:])
        return spread * torch.randn(1, 1, *size, generator=self.generator)


def test_patches_count_where_they_find_more_painted_damage():
    usual = (LIBRARY,)
    assert choose_maps({}) == usual
    assert choose_maps({usual: 0.7, OF_LIBRARY: 0.7 + LEAST_GAIN / 2}) == usual
    assert choose_maps({usual: 0.7, OF_LIBRARY: 0.7 + LEAST_GAIN * 2}) == OF_LIBRARY


def test_patches_are_chosen_where_they_see_damage_and_not_where_they_see_nothing(built):
    library = built.library
    assert built.aurocs[OF_LIBRARY] > built.aurocs[LIBRARY,] > 0.5
    assert library.score == OF_LIBRARY
    names = set(library.valid)
    pictures = list_good_pictures(library.training_dataset_path)
    valid = [picture for picture in pictures if picture.relative.as_posix() in names]
    found = painted_aurocs(valid, library.maps, ByChance(), None, 255.0, SETTINGS.seed)
    assert found[LIBRARY,] == pytest.approx(built.aurocs[LIBRARY,])
    assert choose_maps(found) == (LIBRARY,)


def test_the_choice_is_kept_and_scores_by_default(built, tmp_path):
    path = tmp_path / "library.pth"
    for score in (OF_LIBRARY, (LIBRARY,)):
        save_library(replace(built.library, score=score), path)
        loaded = load_library(path)
        (source,) = make_sources([], [loaded], None)
        assert loaded.score == score
        assert source.kinds == ((LIBRARY,) if score == (LIBRARY,) else (LIBRARY, *OF_MIXTURES))
        assert source.top_share == library_top_share(score)
        (source,) = make_sources([], [loaded], ["patches"])
        assert source.kinds == OF_MIXTURES
    content = torch.load(path, weights_only=True)
    before = {name: value for name, value in content.items() if name != "score"}
    torch.save(before, path)
    assert load_library(path).score == (LIBRARY,)
    for change in ({"score": ["mask"]}, {"score": list(OF_LIBRARY), "patches": {}}, {"score": 3}):
        torch.save(content | change, path)
        with pytest.raises(UserError, match="unusable maps to score by"):
            load_library(path)


def test_an_earlier_library_keeps_its_one_map_of_patches(built, tmp_path):
    path, size = tmp_path / "library.pth", patch_statistics.PATCH**2
    statistics = PatchStatistics(torch.full((1, size), 0.5), torch.eye(size)[None], 4)
    save_library(replace(built.library, patches=statistics, score=OF_LIBRARY), path)
    loaded = load_library(path)
    (source,) = make_sources([], [loaded], None)
    assert source.kinds == (LIBRARY, *PatchStatistics.kinds) == OF_LIBRARY
    picture = torch.rand(1, 1, SIDE, SIDE)
    assert torch.equal(loaded.patches(picture), statistics(picture))
    content = torch.load(path, weights_only=True)
    torch.save(content | {"patches": {"patch_mean": torch.zeros(1, size)}}, path)
    with pytest.raises(UserError, match="found unusable patches"):
        load_library(path)


@pytest.fixture(scope="module")
def files(built, tmp_path_factory):
    """The library as a file, and an untrained network of the same pictures."""
    folder = tmp_path_factory.mktemp("files")
    save_library(built.library, folder / "library.pth")
    root = built.library.training_dataset_path
    return write_checkpoint(folder / "model.pth", root, "segment"), folder / "library.pth"


def test_a_network_that_sees_no_painted_damage_does_not_join_the_library(files, capsys):
    model, library = files
    found = choose_detector([model], library, ["--gpu_id", "-1"], PseudoDefects())
    printed = capsys.readouterr().out
    assert found == ["--library", str(library)] and "by the library alone" in printed
    alone, joined = map(float, re.findall(r"0\.\d{3}", printed))
    assert alone > joined and alone > 0.6
    arguments = parse_args([*found, "--gpu_id", "-1"])
    again = painted_auroc(arguments, torch.device("cpu"), PseudoDefects())
    assert f"{again:.3f} by the library" in printed


def test_a_network_joins_where_more_is_found_and_where_nobody_knows(files, monkeypatch, capsys):
    model, library = files
    both = ["--models", str(model), "--library", str(library)]
    cases = [
        (0.6, 0.6 + choose_network.LEAST_GAIN * 2, both),
        (0.6, 0.6 + choose_network.LEAST_GAIN / 2, both[2:]),
        (None, None, both),
    ]
    for alone, joined, expected in cases:
        monkeypatch.setattr(
            train_and_score,
            "painted_auroc",
            lambda arguments, *rest, of=(alone, joined): of[bool(arguments.models)],
        )
        assert choose_detector([model], library, [], PseudoDefects()) == expected
        assert bool(capsys.readouterr().out) == (alone is not None)


def test_few_held_out_pictures_say_nothing_of_a_network(built, files, monkeypatch):
    monkeypatch.setattr(choose_network, "FEWEST_PICTURES", len(built.library.valid) + 1)
    arguments = parse_args(["--library", str(files[1]), "--gpu_id", "-1"])
    assert painted_auroc(arguments, torch.device("cpu"), PseudoDefects()) is None


def test_few_held_out_pictures_choose_nothing(built):
    root = built.library.training_dataset_path
    few = build_library(list_good_pictures(root)[:6], SETTINGS, root)
    assert few.aurocs == {} and few.library.score == (LIBRARY,)
