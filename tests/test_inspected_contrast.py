"""Down to which contrast a strip was inspected: the curve, the painted points, verdicts, files."""

import csv
import json

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch

import inference_onnx
import inference_pytorch
from common.errors import UserError, run_command
from data.demo_strips import make_strip
from data.folder import list_strips
from data.ignored_regions import IgnoredRegions
from data.image_files import load_image, to_unit_range
from data.registered_copies import StripAligner
from data.write_images import write_strip
from deploy.metadata import read_metadata
from evaluation.calibration import calibrate_on
from evaluation.contrast_response import (
    contrast_maps,
    contrast_of,
    fit_response,
    found_heights,
    is_response,
    measure_response,
    paint_points,
)
from evaluation.predictors import DetectorPredictor
from evaluation.thresholds import threshold_for
from export_onnx_fullimage import export, parse_args, read_entries
from ops.classical import LikelihoodRatio, RegisteredDifference, classical_detector
from ops.inspected_contrast import (
    ContrastResponse,
    NoiseModel,
    contrast_map,
    inspected_contrast,
    noise_map,
)
from tests.conftest import ROOT

CPU = torch.device("cpu")
EARLIER = ROOT / "tests" / "earlier"
EDGES = NoiseModel("edges", 1.0)
SIZE = (200, 150)


def noisy_strip(seed, sigma, size=SIZE):
    """A strip whose channels differ by noise of `sigma` grey levels more than those of the demo."""
    generator = np.random.default_rng((31, seed))
    strip = make_strip(generator, size)
    return np.clip(strip + generator.normal(0, sigma, strip.shape), 0, 255).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good strips under known/ and strips/: the last one of strips/ has much more noise."""
    root = tmp_path_factory.mktemp("inspected")
    for number in range(4):
        path = root / "known" / "good" / f"strip_{number}.tiff"
        write_strip(path, noisy_strip(number, 0.0))
    for number, sigma in enumerate((0.0, 0.0, 8.0)):
        path = root / "strips" / "good" / f"strip_{number}.tiff"
        write_strip(path, noisy_strip(20 + number, sigma))
    return root


def test_nine_of_ten_points_of_the_stated_contrast_exceed_their_noise():
    """A map of two levels of noise: the shares found on both halves add up to 90 %."""
    response = ContrastResponse(3.0, 8.0, EDGES)
    noise = torch.full((2, 1, 40, 30), 5.0)
    noise[0, :, :20] = 10.0
    (mixed, even) = inspected_contrast(noise, response).tolist()
    assert even == pytest.approx(5 * 3 * 9 ** (1 / 8), rel=1e-3)
    shares = [1 / (1 + (3 * level / mixed) ** 8) for level in (5.0, 10.0)]
    assert np.mean(shares) == pytest.approx(0.9, abs=1e-3) and even < mixed < 2 * even
    assert contrast_map(noise, response)[1].unique().tolist() == pytest.approx([even], rel=1e-3)


def test_twice_the_noise_needs_twice_the_contrast():
    response = ContrastResponse(3.0, 10.0, EDGES)
    flat = np.full((3, *SIZE), 120.0) + np.random.default_rng(0).normal(0, 6, (3, *SIZE))
    contrasts = [
        contrast_of(120 + factor * (flat - 120).astype(np.float32), response, CPU)
        for factor in (1, 2)
    ]
    # one grey level is added to the noise, which is 6 times the root of 2
    assert contrasts[1] / contrasts[0] == pytest.approx(2 - 1 / (6 * 2**0.5 + 1), rel=0.01)


def test_noise_where_nothing_counts_does_not_count():
    """Half of the strip is noisy: ignored, the number is that of the quiet half."""
    response = ContrastResponse(3.0, 10.0, NoiseModel("smoothed", 1.0))
    strip = 120 + np.random.default_rng(0).normal(0, 2, (3, *SIZE)).astype(np.float32)
    quiet = contrast_of(strip, response, CPU)
    strip[:, 120:] += np.random.default_rng(1).normal(0, 20, (3, 80, SIZE[1]))
    ignored = np.zeros(SIZE, bool)
    ignored[90:] = True  # noise is measured under a window of about 31 pixels
    assert contrast_of(strip, response, CPU) > 2 * quiet
    assert contrast_of(strip, response, CPU, ignored) == pytest.approx(quiet, rel=0.05)


def test_a_curve_is_fitted_to_what_a_threshold_finds():
    generator = np.random.default_rng(1)
    ratios = np.exp(generator.uniform(0, np.log(16), 4000))
    # the logistic curve of half of the points at 4, and for a threshold of 0.8 at 6
    luck = generator.logistic(0, 1 / 9, len(ratios))
    heights = np.clip(0.5 * ratios * np.exp(luck) / 4 * 1.0, 0, 1)
    content = {"noise": "edges", "sigma": 1.0}
    content |= {"ratios": ratios.tolist(), "heights": heights.tolist()}
    for threshold in (0.5, 0.75):
        fitted = fit_response(content, threshold)
        assert fitted.half == pytest.approx(8 * threshold, rel=0.03)
        assert fitted.steepness == pytest.approx(9, rel=0.1)
        assert fitted.needed == pytest.approx(8 * threshold * 9 ** (1 / 9), rel=0.03)
    assert is_response(content) and not is_response(content | {"heights": [0.5]})
    assert fit_response(content, 1.0).needed > 30  # nothing is above 1


def test_painted_points_lie_everywhere_and_apart_with_the_contrasts_asked_for():
    strip, noise = noisy_strip(1, 0.0), np.full(SIZE, 4.0)
    painted, centers, contrasts = paint_points(strip, noise, np.random.default_rng(0), (1, 16))
    assert (painted[1:] == strip[1:]).all() and painted[0].min() >= 0 and painted[0].max() <= 255
    assert 4 <= contrasts.min() < 6 and 40 < contrasts.max() <= 64
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=2)
    assert distances[distances > 0].min() > 20 and len(centers) > 25
    changed = np.abs(painted[0] - strip[0])
    for center, contrast in zip(centers, contrasts):
        y, x = np.rint(center).astype(int)
        around = changed[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert 0.6 * contrast < around.max() < 1.001 * contrast


@pytest.mark.parametrize("method", ["likelihood", "registered"])
def test_nine_of_ten_points_are_found_at_the_stated_contrast_on_a_noisier_strip(folder, method):
    """Threshold and response are those of quiet strips; the points lie in other ones with noise."""
    predictor = DetectorPredictor(classical_detector(method, 1.0), CPU)
    good = list_strips(folder / "known")
    calibration = calibrate_on(predictor, good, 255.0, IgnoredRegions())
    threshold = threshold_for(calibration, 0.1, "").value
    measured = measure_response(predictor, good, 255.0, IgnoredRegions(), CPU)
    assert is_response(json.loads(json.dumps(measured)))
    response, aligner = fit_response(measured, threshold), StripAligner(predictor.align, CPU)
    shares = {0.8: [], 1.0: [], 1.25: []}
    for seed in range(5):
        strip = noisy_strip(40 + seed, 6.0)
        stated = contrast_of(aligner(strip)[0], response, CPU)
        for factor, found in shares.items():
            noise = np.full(SIZE, stated * factor)
            generator = np.random.default_rng((7, seed))
            painted, centers, _ = paint_points(strip, noise, generator, (1.0, 1.0 + 1e-9))
            found += (found_heights(predictor(painted), centers) > threshold).tolist()
    few, right, many = (np.mean(found) for found in shares.values())
    assert len(shares[1.0]) > 130
    assert few < 0.8 and 0.8 < right < 0.97 and many > 0.94, (few, right, many)


def rows(output):
    with (output / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


FEWER = ("evaluation.contrast_response.STRIPS", 4)  # to paint on, where files matter and no share


@pytest.fixture
def score(tmp_path, capsys, monkeypatch):
    """Runs an inference command on a folder; gives exit code, what it printed and wrote."""
    monkeypatch.setattr(*FEWER)

    def run_it(folder, *flags, command=inference_pytorch):
        output = tmp_path / "output"
        words = ["--test_path", folder, "--output_dir", output, *flags]
        code = run_command(lambda: command.infer(command.parse_args(list(map(str, words)))))
        return code, capsys.readouterr(), output

    return run_it


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """The ONNX file of the likelihood ratio with both outputs, in an old opset."""
    words = ("--method", "likelihood", "--good_path", folder / "known", "--opset_version", 11)
    outputs = ("--outputs", "score,inspected_contrast,contrast_map", "--output_path")
    path = tmp_path_factory.mktemp("file") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*FEWER)
        return export(parse_args(list(map(str, (*words, *outputs, path)))))


def test_a_strip_that_cannot_be_inspected_so_far_down_is_defective(folder, score):
    likelihood = ("--method", "likelihood", "--good_path", folder / "known")
    code, printed, output = score(folder / "strips", *likelihood)
    plain = rows(output)
    contrasts = [float(row["inspected_contrast"]) for row in plain]
    assert code == 0 and contrasts[2] > 1.5 * max(contrasts[:2])
    assert f"{contrasts[2]:.3g} on the worst strip" in printed.out
    assert [row["reason"] for row in plain] == [
        "detections" if row["verdict"] == "NG" else "" for row in plain
    ]
    required = (max(contrasts[:2]) + contrasts[2]) / 2
    flags = ("--require_contrast", required, "--contrast_maps")
    code, printed, output = score(folder / "strips", *likelihood, *flags)
    assert code == 0 and "NG for their contrast: 1" in printed.out
    for before, row in zip(plain, rows(output)):
        assert {name: row[name] for name in ("file", "score", "detections")} == {
            name: before[name] for name in ("file", "score", "detections")
        }
    blind = rows(output)[2]
    assert blind["verdict"] == "NG" and blind["reason"].split()[-1] == "contrast"
    assert [row["verdict"] for row in rows(output)[:2]] == [row["verdict"] for row in plain[:2]]
    summary = json.loads((output / "metrics.json").read_text())
    assert summary["inspected_contrast"]["blind"] == 1
    assert summary["inspected_contrast"]["worst"] == pytest.approx(contrasts[2], rel=1e-3)
    assert summary["verdicts"]["NG"] == sum(row["verdict"] == "NG" for row in rows(output))
    listed = json.loads((output / "detections.json").read_text())["strips"]
    assert listed["good/strip_2.tiff"]["reason"] == blind["reason"]
    report = (output / "report.html").read_text()
    assert "inspected down to" in report and f"<td>{contrasts[0]:.1f}</td>" in report
    assert f'<td class="NG">{contrasts[2]:.1f}</td>' in report
    needed = tifffile.imread(output / "good" / "strip_0_contrast.tiff")
    assert needed.shape == SIZE and needed.dtype == np.float32
    assert needed.min() < contrasts[0] < needed.max()


def test_a_line_gets_the_contrast_from_the_graph(exported, folder, score):
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    assert [(node.name, node.shape[1:]) for node in session.get_outputs()] == [
        ("output", [3, *SIZE]),
        ("score", []),
        ("inspected_contrast", []),
        ("contrast_map", [1, *SIZE]),
    ]
    entries = read_entries(exported)
    info = read_metadata(entries).info
    response = info.contrast_response(info.threshold().value)
    assert float(entries["contrast_threshold"]) == info.threshold().value
    assert float(entries["contrast_found"]) == 0.9
    strips = [load_image(strip.path) for strip in list_strips(folder / "strips")]
    feed = {"input": to_unit_range(np.stack(strips))}
    contrasts, maps = session.run(["inspected_contrast", "contrast_map"], feed)
    aligner, make_map = StripAligner("fine", CPU), contrast_maps("fine", response, CPU)
    for strip, contrast, needed in zip(strips, contrasts, maps):
        assert contrast == pytest.approx(contrast_of(aligner(strip)[0], response, CPU), rel=1e-3)
        np.testing.assert_allclose(needed[0], make_map(strip), rtol=1e-3)
    code, printed, output = score(
        folder / "strips", "--model_path", exported, command=inference_onnx
    )
    assert code == 0, printed.err
    stated = [float(row["inspected_contrast"]) for row in rows(output)]
    assert stated == pytest.approx(contrasts.tolist(), rel=1e-3)


def test_a_file_of_earlier_code_has_no_contrast_until_good_strips_are_given(folder, score):
    flags = ("--model_path", EARLIER / "robust.onnx", "--device", "cpu")
    code, printed, output = score(folder / "strips", *flags, command=inference_onnx)
    assert code == 0 and "inspected down to" not in printed.out
    assert {row["inspected_contrast"] for row in rows(output)} == {""}
    for flag in (("--require_contrast", 20), ("--contrast_maps",)):
        code, printed, _ = score(folder / "strips", *flags, *flag, command=inference_onnx)
        assert code == 1 and printed.err.count("\n") == 1
        assert f"error: {flag[0]}: found nothing on the contrast of points" in printed.err
        assert "expected --good_path FOLDER of good strips" in printed.err
    more = ("--require_contrast", 20, "--good_path", folder / "known")
    code, printed, output = score(folder / "strips", *flags, *more, command=inference_onnx)
    assert code == 0 and all(float(row["inspected_contrast"]) > 0 for row in rows(output))


def test_what_compares_unregistered_references_has_no_contrast(folder, score, tmp_path):
    double = ("--method", "double", "--threshold", 0.2)
    code, _, output = score(folder / "strips", *double)
    assert code == 0 and {row["inspected_contrast"] for row in rows(output)} == {""}
    code, printed, _ = score(folder / "strips", *double, "--require_contrast", 20)
    assert code == 1
    assert "--require_contrast: found a detector that registers nothing" in printed.err
    words = ("--method", "double", "--test_path", folder, "--outputs", "contrast_map")
    with pytest.raises(UserError, match="--outputs contrast_map: found nothing on the contrast"):
        export(parse_args(list(map(str, (*words, "--output_path", tmp_path / "m.onnx")))))


def test_each_detector_has_the_noise_that_it_measures_in():
    strips = torch.from_numpy(to_unit_range(noisy_strip(3, 2.0)))[None]
    smoothed, edges = RegisteredDifference(1.5).noise, LikelihoodRatio(2.0).noise
    assert (smoothed, edges) == (NoiseModel("smoothed", 1.5), NoiseModel("edges", 2.0))
    differences = RegisteredDifference(1.5).smoothing(strips[:, :1] - strips[:, 1:3])
    ratio = torch.minimum(*differences.abs().split(1, dim=1)) / noise_map(strips, smoothed) * 255
    ratio = torch.where(differences.prod(dim=1, keepdim=True) > 0, ratio, 0.0)
    heatmap = RegisteredDifference(1.5).heatmap(strips)
    np.testing.assert_allclose(heatmap, ratio / (1 + ratio), atol=1e-6)
