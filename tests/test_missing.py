"""Points and missing features: how they are told apart, and what commands and files make of it."""

import csv
import json

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

import inference_onnx
import inference_pytorch
from benchmarks.missing import auc, collect
from common.errors import UserError
from data.demo_strips import make_strip
from data.image_files import to_batch, to_unit_range
from data.write_images import write_strip
from deploy.metadata import read_metadata
from deploy.session import open_session
from evaluation.predictors import TorchPredictor
from export_onnx_fullimage import export, parse_args, read_entries
from gaussian import REF1, REF2, TARGET, paint_point
from ops.classical import classical_detector
from ops.missing import (
    MISSING_LIMIT,
    missing_probability,
    smaller_eigenvalue,
    without_missing,
)
from ops.registration import Alignment
from tests.conftest import SMALL_SIZE

POINT, MISSING = (60.3, 50.1), (130.0, 100.4)  # (y, x)
AMPLITUDES = (60.0, -60.0)  # grey levels, of the strips
THRESHOLD = ("--threshold", "0.85")
CLASSICAL = ("--method", "registered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Strips with a point and a missing feature each, and a last one with a missing feature."""
    root = tmp_path_factory.mktemp("missing") / "strips"
    for number, amplitude in enumerate((*AMPLITUDES, AMPLITUDES[0])):
        image = make_strip(np.random.default_rng((6, number)), SMALL_SIZE)
        points = [(MISSING, (REF1, REF2))]
        if number < len(AMPLITUDES):
            points.append((POINT, (TARGET,)))
        for center, channels in points:
            for channel in channels:
                paint_point(image[channel], center, (1.0, 1.0), amplitude)
        write_strip(root / "test" / f"strip_{number}.tiff", image.clip(0, 255))
    return root / "test"


def score(folder, output, *flags, command=inference_pytorch):
    """The rows of detections.csv, by file, of an inference command; it must succeed."""
    words = ["--test_path", folder, "--output_dir", output, *THRESHOLD, *flags]
    assert command.infer(command.parse_args(list(map(str, words)))) == 0
    rows = {path.name: [] for path in sorted(folder.iterdir())}
    with (output / "detections.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["file"]].append(row)
    return rows


def at(rows, center):
    """The rows of detections within two pixels of a point."""
    return [
        row
        for row in rows
        if max(abs(float(row[name]) - value) for name, value in zip("yx", center)) < 2
    ]


@pytest.fixture(scope="module")
def reported(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("reported")
    return output, score(folder, output, *CLASSICAL)


@pytest.fixture(scope="module")
def ignored(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("ignored")
    return output, score(folder, output, *CLASSICAL, "--missing", "ignore")


def test_by_default_both_are_reported_alike(reported):
    output, rows = reported
    assert all(at(of_strip, MISSING) for of_strip in rows.values())
    assert [len(at(of_strip, POINT)) for of_strip in rows.values()] == [1, 1, 0]
    assert all("kind" not in row for of_strip in rows.values() for row in of_strip)
    assert "kinds" not in json.loads((output / "metrics.json").read_text())


def test_separate_names_both_and_changes_nothing_else(folder, reported, tmp_path, capsys):
    rows = score(folder, tmp_path, *CLASSICAL, "--missing", "separate")
    for of_strip in rows.values():
        assert {row["kind"] for row in at(of_strip, MISSING)} == {"missing feature"}
        assert {row["kind"] for row in at(of_strip, POINT)} <= {"point"}
    kinds = [row.pop("kind") for of_strip in rows.values() for row in of_strip]
    assert rows == reported[1]
    for name in ("scores.csv", "strip_0_heatmap.tiff", "strip_1_panels.png"):
        assert (tmp_path / name).read_bytes() == (reported[0] / name).read_bytes()
    counts = {kind: kinds.count(kind) for kind in ("point", "missing feature")}
    assert json.loads((tmp_path / "metrics.json").read_text())["kinds"] == counts
    text = f"{counts['point']} points, {counts['missing feature']} missing features"
    assert f"detections: {text}" in capsys.readouterr().out.splitlines()
    assert f"<dt>detections</dt><dd>{text}</dd>" in (tmp_path / "report.html").read_text()


def test_ignored_ones_are_not_in_the_heatmap_and_points_stay(reported, ignored):
    output, rows = ignored
    for name, before in reported[1].items():
        assert not at(rows[name], MISSING)
        assert at(rows[name], POINT) == at(before, POINT)
        heatmap = tifffile.imread(output / name.replace(".tiff", "_heatmap.tiff"))
        y, x = (round(value) for value in MISSING)
        assert heatmap[y - 4 : y + 5, x - 4 : x + 5].max() < 0.5
    with (output / "scores.csv").open(newline="") as file:
        verdicts = [row["verdict"] for row in csv.DictReader(file)]
    assert verdicts == ["NG", "NG", "OK"]


@pytest.mark.parametrize("opset", [11, pytest.param(18, marks=pytest.mark.long)])
def test_a_file_ignores_and_tells_what_pytorch_does(folder, ignored, tmp_path, opset):
    path = tmp_path / "model.onnx"
    flags = [*CLASSICAL, "--test_path", folder, "--output_path", path]
    flags += ["--missing", "ignore", "--outputs", "missing", "--opset_version", opset]
    export(parse_args(list(map(str, flags))))
    assert read_metadata(read_entries(path)).info.ignores_missing
    images = np.stack([tifffile.imread(strip) for strip in sorted(folder.iterdir())])
    heatmaps, missing = open_session(path).run(
        ["output", "missing"], {"input": to_unit_range(images)}
    )
    detector = classical_detector("registered", 1.0)
    with torch.inference_mode():
        aligned, _ = detector.align_references(torch.from_numpy(to_unit_range(images)))
        assert np.abs(missing - missing_probability(aligned).numpy()).max() < 1e-4
    for name, heatmap in zip(ignored[1], heatmaps[:, 0]):
        expected = tifffile.imread(ignored[0] / name.replace(".tiff", "_heatmap.tiff"))
        assert np.abs(heatmap - expected).max() < 1e-4
    if opset == 11:
        rows = score(folder, tmp_path / "onnx", "--model_path", path, command=inference_onnx)
        assert [len(of_strip) for of_strip in rows.values()] == [
            len(of_strip) for of_strip in ignored[1].values()
        ]
        with pytest.raises(UserError, match=r"--missing separate: found that .* ignores missing"):
            score(
                folder,
                tmp_path / "onnx",
                *("--model_path", path, "--missing", "separate"),
                command=inference_onnx,
            )


def test_a_network_ignores_them_as_a_classical_detector_does(folder, make_network):
    image = tifffile.imread(folder / "strip_0.tiff")
    cpu = torch.device("cpu")
    plain, ignoring = (
        TorchPredictor(make_network(), 128, cpu, "shift", ignores_missing=ignores)(image)
        for ignores in (False, True)
    )
    aligned, _ = Alignment("shift")(to_batch(image, cpu))
    expected = without_missing(torch.from_numpy(plain)[None, None], aligned)[0, 0].numpy()
    y, x = (round(value) for value in MISSING)
    assert np.abs(ignoring - expected).max() < 1e-6 and ignoring[y, x] == 0 < plain[y, x]


def test_a_file_that_reports_them_cannot_ignore_them(folder, onnx_model, tmp_path):
    flags = ("--model_path", onnx_model, "--missing", "ignore")
    with pytest.raises(UserError, match="expected a file exported with --missing ignore"):
        score(folder, tmp_path, *flags, command=inference_onnx)


def test_the_smaller_eigenvalue_is_that_of_the_gradients_covariance():
    image = np.random.default_rng(0).normal(0, 30, (24, 31)).astype(np.float32)
    found = smaller_eigenvalue(torch.from_numpy(image)[None, None])[0, 0].numpy()
    along = [ndimage.correlate1d(image, [-0.5, 0, 0.5], axis, mode="nearest") for axis in (0, 1)]
    products = np.stack(
        [
            ndimage.gaussian_filter(first * second, 1.0, mode="nearest", radius=3)
            for first in along
            for second in along
        ],
        axis=-1,
    )
    expected = np.linalg.eigvalsh(products.reshape(24, 31, 2, 2))[..., 0]
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


def test_a_line_is_like_a_pattern_and_a_dot_is_not():
    sides = np.full((1, 2, 40, 40), 80, np.float32)
    sides[0, 0, :, 20:22] = 200
    sides[0, 1, 20:22, 20:22] = 200
    line, dot = smaller_eigenvalue(torch.from_numpy(sides))[0, :, 20, 20]
    assert line < 0.01 and dot > 500


@pytest.mark.parametrize("level", ["everything", "fine pitch"])
def test_generated_points_are_told_apart(level):
    rows = collect(level, range(1), 77, "fine")
    is_missing, plain, probability = rows[:, 0] == 1, rows[:, 1], rows[:, 2]
    assert len(rows) > 18 and auc(is_missing, plain) < 0.95 < auc(is_missing, probability)
    assert (probability > MISSING_LIMIT)[~is_missing].sum() <= 1
    assert (probability > MISSING_LIMIT)[is_missing].mean() > 0.5


def test_where_nothing_differs_nothing_is_a_missing_feature():
    strips = to_batch(make_strip(np.random.default_rng(0), SMALL_SIZE), torch.device("cpu"))
    strips[:, 1:] = strips[:, :1]
    assert (missing_probability(strips) < MISSING_LIMIT).all()
    assert torch.isfinite(missing_probability(torch.zeros(1, 3, 20, 20))).all()
