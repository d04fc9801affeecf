"""Outputs beside the heatmap, and every kind of input, in real ONNX Runtime sessions."""

import re

import numpy as np
import onnxruntime
import pytest
import torch

from common.errors import UserError
from data.demo_strips import make_strip
from data.image_files import load_image, to_unit_range
from data.registered_copies import StripAligner
from deploy.export_module import MOST_DETECTIONS, strongest_peaks
from deploy.onnx_predictor import OnnxPredictor, to_model_input
from evaluation.detections import find_peaks
from evaluation.thresholds import calibrate, threshold_for
from export_onnx_fullimage import read_entries
from model import (
    EXPORT_MODES,
    DifferenceSegmentationNetwork,
    SegmentationNetworkONNXFullImage,
)
from ops.classical import METHODS, classical_detector
from ops.registration import MEASURES, Alignment
from ops.tiling import WholeImage
from tests.conftest import QUICK_OPSET, SMALL_SIZE, export_file, run
from training.checkpoint import build_network, load_checkpoint

CALIBRATION = calibrate([np.array([0.7 - 0.01 * strip, 0.3]) for strip in range(20)])


def opened(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture
def strips(dataset):
    """Strips in whole grey levels, (4, 3, H, W)."""
    return np.rint([load_image(path) for path in sorted((dataset / "test").rglob("*.tiff"))])


@pytest.fixture
def difference_checkpoint(make_checkpoint):
    """A difference network that was trained on aligned strips, and knows its threshold."""
    torch.manual_seed(0)
    network = DifferenceSegmentationNetwork(base_channels=4)
    facts = {
        "network": "DifferenceSegmentationNetwork",
        "align": "full",
        "calibration": CALIBRATION,
    }
    return make_checkpoint(model_state_dict=network.state_dict(), **facts)


def smooth_heatmaps(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, *(length + 8 for length in size), generator=generator)
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(noise, 5, 1), 5, 1)
    return torch.sigmoid(20 * smooth - 2)


def test_the_strongest_peaks_are_those_of_python_in_its_order():
    heatmaps = smooth_heatmaps(2, (300, 176))
    for threshold in (0.1, 0.9, 0.99):
        found = strongest_peaks(heatmaps, torch.tensor([threshold])).numpy()
        for heatmap, rows in zip(heatmaps[:, 0].numpy(), found):
            expected = find_peaks(heatmap, threshold)
            count = min(len(expected.points), MOST_DETECTIONS)
            assert np.array_equal(rows[:count, :2], expected.points[:count])
            assert np.array_equal(rows[:count, 2], expected.heights[:count])
            assert (rows[count:] == [-1, -1, 0]).all()
    assert (
        count < MOST_DETECTIONS
        and len(find_peaks(heatmaps[0, 0].numpy(), 0.1).points) > MOST_DETECTIONS
    )


def test_a_plateau_is_one_detection_and_corners_count():
    heatmap = torch.full((1, 1, 60, 50), 0.01)
    heatmap[0, 0, 20:23, 30:32] = 1.0
    heatmap[0, 0, 40, 5:25] = 0.8
    heatmap[0, 0, 0, 0] = heatmap[0, 0, 59, 49] = 0.7
    (rows,) = strongest_peaks(heatmap, torch.tensor([0.5]))
    found = rows[rows[:, 2] > 0].tolist()
    assert [round(height, 1) for _, _, height in found] == [1.0, 0.8, 0.7, 0.7]
    assert 20 <= found[0][0] <= 22 and 30 <= found[0][1] <= 31 and found[1][0] == 40
    assert sorted(row[:2] for row in found[2:]) == [[0, 0], [59, 49]]
    assert not (
        strongest_peaks(torch.full((2, 1, 60, 50), torch.nan), torch.tensor([0.5]))[..., 2] > 0
    ).any()


@pytest.mark.parametrize("opset", [11, QUICK_OPSET, pytest.param(18, marks=pytest.mark.long)])
def test_a_line_gets_score_detections_and_alignment_from_the_graph(
    difference_checkpoint, strips, tmp_path, opset
):
    flags = ("--outputs", "alignment,detections,score")
    path = export_file(difference_checkpoint, tmp_path / "model.onnx", *flags, opset=opset)
    session, inputs = opened(path), {"input": to_unit_range(strips)}
    assert [output.name for output in session.get_outputs()] == [
        "output",
        "score",
        "detections",
        "alignment",
    ]
    assert [output.shape[1:] for output in session.get_outputs()] == [
        [3, *SMALL_SIZE],
        [],
        [MOST_DETECTIONS, 3],
        [2, len(MEASURES)],
    ]
    heatmaps, scores, detections, alignment = session.run(None, inputs)
    assert np.array_equal(scores, heatmaps.max(axis=(1, 2, 3)))
    aligner = StripAligner("full", torch.device("cpu"))
    assert (
        np.abs(alignment - [aligner(strip.astype(np.float32))[1] for strip in strips]).max() < 1e-3
    )
    default = threshold_for(CALIBRATION, 0.1, "").value
    assert float(read_entries(path)["threshold_default"]) == default
    for given in (None, 0.25):  # the threshold is an input that may be left out
        feed = inputs | ({} if given is None else {"threshold": np.array([given], np.float32)})
        rows = session.run(["detections"], feed)[0]
        assert given is not None or np.array_equal(rows, detections)
        for heatmap, found in zip(heatmaps[:, 0], rows):
            peaks = find_peaks(heatmap, np.float32(given or default))
            places = [tuple(row) for row in found[found[:, 0] >= 0, :2].astype(int)]
            assert len(set(places) & set(map(tuple, peaks.points))) >= 0.95 * min(
                len(peaks.points), MOST_DETECTIONS
            )
    assert len(session.get_inputs()) == 1 and [
        node.name for node in session.get_overridable_initializers()
    ] == ["threshold"]


@pytest.mark.parametrize(
    "kind, input_max", [("unit", 255.0), ("raw", 255.0), ("raw", 4095.0), ("uint8", 255.0)]
)
@pytest.mark.parametrize("channels", [3, 4])
def test_strips_go_in_as_they_come(make_checkpoint, strips, tmp_path, kind, input_max, channels):
    checkpoint = make_checkpoint(input_max=input_max)
    plain = opened(export_file(checkpoint, tmp_path / "plain.onnx"))
    path = export_file(
        checkpoint, tmp_path / "model.onnx", "--input", kind, "--input_channels", channels
    )
    session = opened(path)
    assert session.get_inputs()[0].type == ("tensor(uint8)" if kind == "uint8" else "tensor(float)")
    images = to_model_input(strips.astype(np.float32), kind, channels, input_max)
    assert images.shape[1] == channels and images.dtype == (
        np.uint8 if kind == "uint8" else np.float32
    )
    if channels == 4:
        images[:, 3] = 77  # not looked at
    expected = plain.run(None, {"input": to_unit_range(strips)})[0]
    assert np.abs(session.run(None, {"input": images})[0] - expected).max() < 1e-5
    assert np.abs(OnnxPredictor(path)(strips[0].astype(np.float32)) - expected[0, 0]).max() < 1e-5
    entries = read_entries(path)
    assert (
        entries["input"] == kind
        and entries["input_range"]
        == {"unit": "0 1", "raw": f"0 {input_max:g}", "uint8": "0 255"}[kind]
    )
    assert (
        entries["channels"].split()[:3] == ["Target", "Ref1", "Ref2"]
        and len(entries["channels"].split()) == channels
    )


@pytest.mark.parametrize("size", [(976, 176), (200, 150), (131, 257)])
def test_a_strip_in_one_piece_is_the_network_on_the_mirrored_strip(
    make_checkpoint, tmp_path, capsys, size
):
    checkpoint = make_checkpoint()
    path = export_file(
        checkpoint, tmp_path / "model.onnx", "--mode", "whole", "--image_size", *size
    )
    assert re.search(
        r"mode whole +above 0.5 it finds \d+ of the \d+ detections of mode tiles, "
        r"and \d+ that tiles do not find; heatmaps differ by \S+ at most, \S+ on average",
        capsys.readouterr().out,
    )
    assert read_entries(path)["mode"] == "whole" and "tile_rows" not in read_entries(path)
    network = build_network(load_checkpoint(checkpoint), checkpoint)
    images = np.random.default_rng(0).random((2, 3, *size), np.float32)
    padding = [(0, -length % 32) for length in size]
    padded = np.pad(images, [(0, 0), (0, 0), *padding], mode="reflect")
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(padded)), dim=1)[
            :, 1, : size[0], : size[1]
        ].numpy()
    assert np.abs(opened(path).run(None, {"input": images})[0][:, 0] - expected).max() < 1e-5


def test_a_piece_is_padded_no_further_than_the_network_needs():
    assert WholeImage(
        (976, 176), DifferenceSegmentationNetwork(base_channels=2).multiple
    ).padded_size == (976, 176)
    assert WholeImage((976, 176), 32).padded_size == (992, 192)
    images = torch.rand(1, 2, 130, 129)
    whole = WholeImage((130, 129), 32)
    assert whole.split(images).shape == (1, 2, 160, 160) and torch.equal(
        whole.stitch(whole.split(images)), images
    )
    with pytest.raises(
        UserError, match=r"found images of \(130, 128\) \(height, width\), expected \(130, 129\)"
    ):
        whole.split(images[:, :, :, :128])


def test_a_file_with_candidates_says_so_and_has_its_own_threshold(
    difference_checkpoint, dataset, tmp_path, capsys
):
    flags = ("--mode", "points", "--places", 20, "--good_path", dataset / "train" / "good")
    path = export_file(difference_checkpoint, tmp_path / "m.onnx", *flags, opset=11)
    entries, report = read_entries(path), capsys.readouterr().out
    assert (entries["mode"], entries["places"]) == ("points", "20")
    assert entries["patch_size"] == "24 24" and "tile_rows" not in entries
    assert OnnxPredictor(path).most_points == 5
    assert "mode points" in report
    strips = np.stack([make_strip(np.random.default_rng(number), SMALL_SIZE) for number in (1, 2)])
    strips[1, 0, 5, 5] = np.nan
    found = opened(path).run(["output"], {"input": to_model_input(strips, "unit", 3, 255.0)})[0]
    assert np.isfinite(found[0]).all() and np.isnan(found[1, 0]).any()


def test_a_model_that_aligns_nothing_is_refused(make_checkpoint, tmp_path):
    with pytest.raises(UserError, match="which aligns nothing, expected one trained with --align"):
        export_file(make_checkpoint(), tmp_path / "m.onnx", "--mode", "points")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_classical_detector_is_exported_in_the_same_format(dataset, strips, tmp_path, method):
    words = (
        "--method",
        method,
        "--test_path",
        dataset / "test",
        "--outputs",
        "heatmap,score,detections",
    )
    path = export_file(tmp_path / "no checkpoint", tmp_path, *words)
    entries = read_entries(path)
    detector = classical_detector(method, float(entries["gaussian"]))
    assert (
        path.stem == entries["network"] == type(detector).__name__ and entries["checkpoint"] == ""
    )
    heatmaps, _, detections = opened(path).run(None, {"input": to_unit_range(strips)})
    with torch.inference_mode():
        assert (
            np.abs(
                heatmaps[:, :1] - detector(torch.from_numpy(to_unit_range(strips))).numpy()
            ).max()
            < 1e-4
        )
    # set on the good strips of valid/
    assert 0 <= float(entries["threshold"]) < 1 and (detections[..., 2] > 0).any()
    done = run(
        "inference_onnx.py", "--model_path", path, "--test_path", dataset / "test", cwd=tmp_path
    )
    assert done.returncode == 0 and "4 of 4 strips scored" in done.stdout, done.stderr


def test_a_threshold_is_set_on_good_strips_that_are_given(make_checkpoint, dataset, tmp_path):
    path = export_file(
        make_checkpoint(),
        tmp_path / "model.onnx",
        "--good_path",
        dataset / "train" / "good",
        "--mode",
        "whole",
    )
    peaks = [
        find_peaks(OnnxPredictor(path)(load_image(strip))).heights
        for strip in (dataset / "train" / "good").iterdir()
    ]
    expected = threshold_for(calibrate(peaks), 0.1, "").value
    assert float(read_entries(path)["threshold"]) == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_had_together_is_one_line_and_no_file(make_checkpoint, tmp_path):
    checkpoint, output = make_checkpoint(input_max=4095.0), tmp_path / "model.onnx"
    cases = [
        (("--input", "uint8"), "--input uint8: found a camera up to 4095, expected one up to 255"),
        (("--outputs", "alignment"), "--outputs alignment: found a detector that aligns nothing"),
        (
            ("--method", "double"),
            "--method double: found no --image_size, --test_path or --good_path",
        ),
        (
            ("--method", "double", "--image_size", 200, 150, "--outputs", "detections"),
            "--outputs detections: found no threshold",
        ),
    ]
    for flags, complaint in cases:
        with pytest.raises(UserError, match=complaint):
            export_file(checkpoint, output, *flags)
    assert not output.exists()
    done = run("export_onnx_fullimage.py", "--outputs", "heatmap,scores", cwd=tmp_path)
    assert (
        done.returncode == 2
        and "found 'scores', expected some of heatmap,score,detections,alignment" in done.stderr
    )


def test_aligned_strips_are_what_the_detector_sees(difference_checkpoint, strips):
    content = load_checkpoint(difference_checkpoint)
    network = build_network(content, difference_checkpoint)
    images = torch.from_numpy(to_unit_range(strips))
    for mode in EXPORT_MODES:
        with torch.inference_mode():
            heatmap, measures = (
                SegmentationNetworkONNXFullImage(network, SMALL_SIZE, 128, "full", mode)
                .eval()
                .detect_with_alignment(images)
            )
            aligned, expected = Alignment("full")(images)
            plain, none = (
                SegmentationNetworkONNXFullImage(network, SMALL_SIZE, 128, "none", mode)
                .eval()
                .detect_with_alignment(aligned)
            )
        assert torch.equal(heatmap, plain) and torch.equal(measures, expected) and none is None


@pytest.mark.parametrize("mode", EXPORT_MODES)
def test_a_strip_has_one_heatmap_whenever_and_beside_whichever_it_is_called(
    difference_checkpoint, tmp_path, strips, mode
):
    session = opened(export_file(difference_checkpoint, tmp_path / "model.onnx", "--mode", mode))
    images = to_model_input(strips, "unit", 3, 255.0)
    answers = {number: set() for number in range(4)}
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 2, 1]):
        for _ in range(2):
            for number, answer in zip(order, session.run(["output"], {"input": images[order]})[0]):
                answers[number].add(answer.tobytes())
    assert [len(different) for different in answers.values()] == [1, 1, 1, 1]
    for number, image in enumerate(images):
        alone = session.run(["output"], {"input": image[None]})[0]
        np.testing.assert_allclose(
            np.frombuffer(answers[number].pop(), np.float32), alone.ravel(), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("kind", ["unit", "raw", "uint8"])
@pytest.mark.parametrize("mode", ["tiles", "whole"])
@pytest.mark.parametrize(
    "size, opset", [((128, 128), 17), ((131, 257), 17), ((200, 150), 11), ((200, 150), 13)]
)
def test_every_kind_of_file_is_pytorch_on_every_kind_of_strip(
    make_checkpoint, tmp_path, kind, mode, size, opset
):
    checkpoint = make_checkpoint()
    path = export_file(
        checkpoint,
        tmp_path / "m.onnx",
        "--input",
        kind,
        "--mode",
        mode,
        "--image_size",
        *size,
        opset=opset,
    )
    network = build_network(load_checkpoint(checkpoint), checkpoint)
    detector = SegmentationNetworkONNXFullImage(network, size, 128, mode=mode).eval()
    demo = np.stack([make_strip(np.random.default_rng(number), size) for number in range(3)])
    dark = np.random.default_rng(3).integers(0, 3, (1, 3, *size))
    images = np.rint(np.concatenate([demo, dark, 255 - dark])).astype(np.float32)
    session, asked = opened(path), to_model_input(images, kind, 3, 255.0)
    for batch in (1, 2, 5):
        with torch.inference_mode():
            expected = detector(torch.from_numpy(to_unit_range(images[-batch:]))).numpy()
        np.testing.assert_allclose(
            session.run(["output"], {"input": asked[-batch:]})[0], expected, atol=1e-5, rtol=0
        )
