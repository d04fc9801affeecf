"""The benchmark of the reference-free detector, with tiny settings."""

import json

import numpy as np

from autoencoder.settings import TASKS
from autoencoder.trainer import parse_args as parse_training
from benchmarks import autoencoder
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


def test_every_row_names_what_there_is():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.sentence.endswith(".")
        assert not row.model or row.model in TRAININGS, row
        assert not row.library or row.library in LIBRARIES, row
        assert not row.clusters or row.clusters in LIBRARIES, row
        assert row.baseline or row.model or row.library
    for flags in TRAININGS.values():
        words = as_words("--training_dataset_path", "x", *flags)
        assert parse_training(words).task in TASKS


def test_finished_results_are_kept_and_shown(capsys, tmp_path, monkeypatch):
    rows = ("--rows", "PCA", "routing to as many", "segment, library and patches")
    first = run(capsys, tmp_path, *rows, "--runs", "1")
    assert "PCA of patches" in first and "segment, library" not in first
    printed = run(capsys, tmp_path, *rows)
    assert 0 <= float(cells(printed, "segment, library and patches")[1]) <= 1
    purity, routed = map(float, cells(printed, "routing to as many clusters as classes")[9:11])
    assert 1 / 9 <= purity <= 1 and 0 <= routed <= 1
    monkeypatch.setattr(autoencoder.DataSetBenchmark, "compute", None)  # nothing is left to do
    assert run(capsys, tmp_path, *rows) == printed
    assert run(capsys, tmp_path, *rows, "--runs", "0") == printed
    (path, *_) = sorted(tmp_path.glob("textures_42/scores/*.json"))
    assert {"row", "figures", "purity", "routed"} == set(json.loads(path.read_text()))


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
