"""The benchmark of the reference-free detector, with tiny settings."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from autoencoder.settings import TASKS
from autoencoder.trainer import parse_args as parse_training
from benchmarks import autoencoder
from benchmarks.autoencoder_data import MAIN, THREE
from benchmarks.autoencoder_kept import Kept
from benchmarks.autoencoder_progress import EPOCH, PRESET_EPOCHS, Progress, parts_of
from benchmarks.autoencoder_rows import LIBRARIES, ROWS, TRAININGS
from benchmarks.autoencoder_scores import MEAN, POOLED, mean_of, score_pictures
from benchmarks.command_line import as_words
from data.image_files import encode_image
from data.pictures import list_test_pictures
from tests.printed_tables import cells


def run(capsys, output, *flags):
    words = ["--tiny", "--quick", "--output", str(output), *flags]
    assert autoencoder.main(words) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """An output folder, where the textures are made once."""
    return tmp_path_factory.mktemp("benchmark")


def test_every_row_names_what_there_is():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.sentence.endswith(".")
        assert not row.model or row.model in TRAININGS, row
        assert not row.library or row.library in LIBRARIES, row
        assert not row.clusters or row.clusters in LIBRARIES, row
        assert row.baseline or row.model or row.library
    assert {row.name for row in ROWS} >= MAIN
    used = {name for row in ROWS for name in (row.library, row.clusters)}
    assert used >= LIBRARIES.keys()
    for flags in TRAININGS.values():
        words = as_words("--training_dataset_path", "x", *flags)
        assert parse_training(words).task in TASKS


def test_finished_results_are_kept_and_shown(capsys, output, monkeypatch):
    rows = ("--rows", "PCA", "routing to as many", "segment, library and patches")
    rows += ("--data_sets", "textures")
    first = run(capsys, output, *rows, "--runs", "1")
    assert "PCA of patches" in first and "segment, library" not in first
    printed = run(capsys, output, *rows)
    assert 0 <= float(cells(printed, "segment, library and patches")[1]) <= 1
    purity, routed = map(float, cells(printed, "routing to as many clusters as classes")[9:11])
    assert 1 / 9 <= purity <= 1 and 0 <= routed <= 1
    monkeypatch.setattr(autoencoder.DataSetBenchmark, "compute", None)  # nothing is left to do
    assert run(capsys, output, *rows) == printed
    assert run(capsys, output, *rows, "--runs", "0") == printed
    (path, *_) = sorted(output.glob("textures_42/scores/*.json"))
    assert {"row", "figures", "purity", "routed"} == set(json.loads(path.read_text()))


def test_three_classes_have_rows_of_their_own_in_a_quick_benchmark(capsys, output):
    rows = ("--rows", "mean picture", "library, bank, cell 8")
    printed = run(capsys, output, *rows, "--data_sets", "three", "textures", "--runs", "1")
    three, *rest = printed.split("\ntextures: ")
    nine = "".join(rest)  # its table, and what is left to do
    assert all(f"| {group} |" in three for group in THREE) and "brick" not in three
    assert "| mean picture" in three and "| mean picture" in nine and "| brick |" in nine


class Counted(nn.Module):
    calls = 0

    def forward(self, pictures):
        self.calls += 1
        return pictures * 2


@pytest.mark.parametrize("is_last_kept", (False, True))
def test_what_a_module_says_of_a_picture_is_kept_by_the_pictures_content(is_last_kept):
    kept, module = Kept(), Counted()
    kept._wrap(module, "a", is_last_kept)
    first, second = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    assert torch.equal(module(first), module(first.clone())) and module.calls == 1
    assert torch.equal(module(second), second * 2) and module.calls == 2
    module(first)
    assert module.calls == (3 if is_last_kept else 2)
    assert module(torch.zeros(1, 4, 4, 1)).shape == (1, 4, 4, 1)  # other pictures, equal bytes


def test_results_of_the_module_used_longest_ago_are_forgotten_first():
    kept, modules = Kept(most_bytes=100), {name: Counted() for name in "ab"}
    for name, module in modules.items():
        kept._wrap(module, name)
        for level in range(3):
            module(torch.full((4,), float(level)))
    assert list(kept.results) == ["a", "b"] and kept.bytes == 96
    modules["a"](torch.zeros(4))  # now b's are the oldest
    modules["a"](torch.full((4,), 3.0))
    assert list(kept.results) == ["a"] and kept.bytes == 64


def test_the_remaining_time_counts_what_rows_share_once():
    segment, patches = (
        next(row for row in ROWS if row.name == name)
        for name in ("segment", "segment, library and patches")
    )
    alone, both = (parts_of(row, "textures", [1]) for row in (segment, patches))
    assert alone["textures", "training", "segment", 1] == EPOCH * PRESET_EPOCHS
    shared = set(alone) & set(both)
    assert ("textures", "training", "segment", 1) in shared and len(shared) == 2
    said = []
    progress = Progress(alone | both, said.append)
    progress.start -= 1000
    progress.finish("segment", alone)
    assert set(progress.left) == set(both) - set(alone)
    left = sum(progress.left.values()) * 1000 / sum(alone.values()) / 60
    assert said[-1] == f"segment: 1000 s; about {left:.0f} minutes left"


def write_pictures(root):
    """Two classes, of which the brighter one's good pictures outshine the other's defects."""
    for group, level in (("dark", 50), ("織布", 150)):
        for kind, gain in (("good", 0), ("hole", 20)):
            for number in range(2):
                for place in ("test", "ground_truth"):
                    name = f"{number}{'_mask' * (place != 'test')}.png"
                    path = root / group / place / kind / name
                    picture = np.full((8, 8), level + number, np.uint8)
                    picture[2:4, 2:4] += gain
                    mask = np.where(picture > level + number, 255, 0).astype(np.uint8)
                    if place == "test" or kind != "good":
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(encode_image(path, picture if place == "test" else mask))
    return list_test_pictures(root)


def test_pooled_scores_have_one_threshold_for_all_classes(tmp_path):
    pictures = write_pictures(tmp_path)

    def by_level(image):
        return image[0] / 255, float(image.max()) / 255, 0

    figures, clusters = score_pictures(pictures, {"": by_level})
    assert len(clusters) == 8
    assert figures["dark"]["image_auroc"] == figures["織布"]["image_auroc"] == 1
    assert figures[MEAN]["image_auroc"] == figures[MEAN]["pixel_average_precision"] == 1
    assert figures[POOLED]["image_auroc"] == 0.75  # dark defects rank below all bright pictures
    assert figures[POOLED]["pixel_average_precision"] < 0.9
    level = {"dark": 50, "織布": 150}
    own = {group: lambda image, base=base: by_level(image - base) for group, base in level.items()}
    assert score_pictures(pictures, own)[0][POOLED]["image_auroc"] == 1


def test_a_mean_leaves_out_what_is_not_defined():
    assert mean_of([{"a": 1.0, "b": None}, {"a": 0.0, "b": None}]) == {"a": 0.5, "b": None}
