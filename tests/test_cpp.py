"""The C++ detector: built as a user builds it, and held against Python on real strips, real files
and real sessions.
"""

import csv
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
import torch

from autoencoder.export import export as export_picture_model
from autoencoder.export import parse_args as parse_picture_export
from classifier.export_defect_model import export
from classifier.export_defect_model import parse_args as parse_export
from classifier.train_defect_model import parse_args as parse_training
from classifier.train_defect_model import train
from data.image_files import load_image
from deploy.metadata import write_entries
from deploy.onnx_predictor import OnnxPredictor, to_model_input
from evaluation.detections import find_peaks
from evaluation.thresholds import calibrate
from export_onnx_fullimage import read_entries
from model import DifferenceSegmentationNetwork
from tests.autoencoder_models import write_checkpoint, write_kind
from tests.conftest import ROOT, export_file
from tests.cpp import FLOAT32, ON_CPU, SOURCES, CppDetector, Library, build, write_plain_model
from tests.defect_images import write_data

TOLERANCE = 1e-6
CALIBRATION = calibrate([np.array([0.4 - 0.01 * strip, 0.1]) for strip in range(20)])
NO_THRESHOLD = "none"
EARLIER = ROOT / "tests" / "earlier"


@pytest.fixture(scope="session")
def built():
    """The folder of the checks preset, in which a warning is an error."""
    try:
        return build("checks")
    except RuntimeError as error:
        # a tool, or headers that cannot be fetched
        if "CI" not in os.environ and "error: found no " in str(error):
            pytest.skip(str(error).strip().splitlines()[-1])
        raise


@pytest.fixture(scope="session")
def library(built):
    return Library(built)


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory):
    """One whose heatmap is Target, of an odd size."""
    return write_plain_model(tmp_path_factory.mktemp("plain") / "plain.onnx", (37, 53))


@pytest.fixture
def export_small(make_checkpoint, tmp_path):
    """Exports a small network with random weights, and a low threshold."""

    def make(*words, name="model.onnx", **facts):
        return export_file(
            make_checkpoint(calibration=CALIBRATION, **facts), tmp_path / name, *words
        )

    return make


@pytest.fixture
def strip_detect(built):
    """The program; returns what it did."""

    def call(*words, **environment):
        command = [str(built / "strip_detect"), *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=os.environ | environment
        )

    return call


def check(built, name, *words, **environment):
    command = [str(built / "checks" / name), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=1800, env=os.environ | environment
    )


def find_strips(dataset, count):
    """So many strips in whole grey levels (count, 3, H, W): those of the data set, turned and
    mirrored.
    """
    images = [
        np.rint(load_image(path))
        for path in sorted(dataset.rglob("strip_*.tiff"))
        if "ground_truth" not in str(path)
    ]
    turned = [
        np.ascontiguousarray(image[:, ::step, ::other])
        for image in images
        for step in (1, -1)
        for other in (1, -1)
    ]
    return np.stack([turned[number % len(turned)] for number in range(count)])


def assert_same_detections(found, heatmap, threshold):
    peaks = find_peaks(heatmap, threshold)
    assert [(y, x) for y, x, *_ in found] == [tuple(point) for point in peaks.points.tolist()]
    assert [peak for *_, peak, _ in found] == peaks.heights.tolist()
    np.testing.assert_allclose([score for *_, score in found], peaks.scores, atol=1e-9, rtol=0)


# ---- the same as Python


@pytest.mark.parametrize(
    "input_kind, input_max", [("unit", 255.0), ("unit", 4095.0), ("raw", 4095.0), ("uint8", 255.0)]
)
@pytest.mark.parametrize("channels", [3, 4])
def test_heatmaps_and_detections_are_those_of_python(
    library, export_small, dataset, input_kind, input_max, channels
):
    path = export_small("--input", input_kind, "--input_channels", channels, input_max=input_max)
    detector = CppDetector(library, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = to_model_input(find_strips(dataset, 50), input_kind, channels, input_max)
    threshold, total = np.float32(detector.facts.threshold), 0
    for batch in (images[:1], images[1:4], *np.array_split(images[4:], 23)):
        heatmaps, detections = detector(np.ascontiguousarray(batch))
        np.testing.assert_allclose(
            heatmaps, session.run(["output"], {"input": batch})[0][:, 0], atol=TOLERANCE, rtol=0
        )
        for heatmap, found in zip(heatmaps, detections):
            assert_same_detections(found, heatmap, threshold)
            total += len(found)
    assert total > 500


def test_a_file_of_earlier_code_finds_what_it_found(library, dataset):
    """As the table that Python wrote with it then says; tests/earlier/README.md has where both are
    from.
    """
    detector, found = CppDetector(library, EARLIER / "robust.onnx"), []
    for path in sorted((dataset / "test").rglob("*.tiff")):
        images = to_model_input(load_image(path)[None], "raw", 4, 255.0)
        found += [
            (path.relative_to(dataset / "test").as_posix(), y, x, peak)
            for y, x, peak, _ in detector(images)[1][0]
        ]
    with (EARLIER / "detections.csv").open(newline="") as file:
        expected = [
            (row["file"], int(row["y"]), int(row["x"]), float(row["peak"]))
            for row in csv.DictReader(file)
        ]
    assert [place for *place, _ in found] == [place for *place, _ in expected]
    np.testing.assert_allclose(
        [peak for *_, peak in found], [peak for *_, peak in expected], atol=1e-3
    )


def test_a_file_with_candidates_finds_what_python_finds(library, export_small, dataset):
    facts = {"align": "shift", "weighting": "strong_likelihood"}
    path = export_small("--mode", "points", "--places", 9, **facts)
    detector, images = CppDetector(library, path), find_strips(dataset, 6)
    heatmaps, detections = detector(to_model_input(images, "unit", 3, 255.0))
    for image, heatmap, found in zip(images, heatmaps, detections, strict=True):
        np.testing.assert_allclose(heatmap, OnnxPredictor(path)(image), atol=TOLERANCE, rtol=0)
        assert_same_detections(found, heatmap, np.float32(detector.facts.threshold))
    assert sum(map(len, detections)) > 6 and (heatmaps == 0).mean() > 0.5


def test_alignment_is_that_of_the_file(library, export_small, dataset):
    torch.manual_seed(0)
    facts = {"network": "DifferenceSegmentationNetwork", "align": "full"}
    facts["model_state_dict"] = DifferenceSegmentationNetwork(base_channels=4).state_dict()
    path = export_small("--outputs", "heatmap,score,detections,alignment", **facts)
    images = to_model_input(find_strips(dataset, 3), "unit", 3, 255.0)
    detector = CppDetector(library, path)
    detector(images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(["alignment"], {"input": images})[0]
    np.testing.assert_allclose(
        [detector.alignment(strip) for strip in range(3)], expected, atol=TOLERANCE
    )


def test_detections_are_pythons_whatever_the_heatmap_is_like(library, plain_model):
    detector, generator = CppDetector(library, plain_model), np.random.default_rng(0)
    noise = generator.random((37, 53), dtype=np.float32)
    smooth = torch.nn.functional.avg_pool2d(torch.from_numpy(noise)[None], 3, 1, 1)[0].numpy()
    heatmaps = {
        "noise": noise,
        "smooth": smooth,
        "few levels": np.round(noise * 4).astype(np.float32) / 4,
        "few levels, smooth": np.round(smooth * 6).astype(np.float32) / 6,
        "saturated": np.where(noise > 0.9, 1, noise).astype(np.float32),
        "one plateau": np.full((37, 53), 0.75, np.float32),
        "corners": np.pad(np.zeros((35, 51), np.float32), 1, constant_values=0.9),
        "nothing": np.zeros((37, 53), np.float32),
        "at the threshold": np.full((37, 53), 0.5, np.float32),
    }
    for heatmap in heatmaps.values():
        (found,) = detector(np.stack([heatmap, noise, noise])[None])[1]
        assert_same_detections(found, heatmap, 0.5)


def test_one_strip_may_bring_a_plane_that_is_not_looked_at(library, plain_model):
    detector = CppDetector(library, plain_model)
    strip = np.random.default_rng(0).random((1, 4, 37, 53), dtype=np.float32)
    strip[:, 3] = np.nan
    heatmaps, detections = detector(strip)
    assert np.array_equal(heatmaps, strip[:, 0])
    assert detections == detector(np.ascontiguousarray(strip[:, :3]))[1]


def test_no_more_than_a_thousand_detections_come_out(library, tmp_path):
    path = write_plain_model(tmp_path / "large.onnx", (300, 300))
    strip = np.zeros((1, 3, 300, 300), np.float32)
    strip[:, 0, ::8, ::8] = np.linspace(0.6, 0.9, 38 * 38, dtype=np.float32).reshape(38, 38)
    heatmaps, (found,) = CppDetector(library, path)(strip)
    assert len(found) == 1000
    assert_same_detections(found, heatmaps[0], 0.5)


# ---- the program and its files

LAYOUTS = {
    "planes": ("CHW", {"photometric": "rgb", "planarconfig": "separate"}),
    "interleaved": ("HWC", {"photometric": "rgb"}),
    "pages": ("CHW", {"photometric": "minisblack"}),
    "rows as pages": ("HWC", {"photometric": "minisblack"}),
    "tiled": ("HWC", {"photometric": "rgb", "tile": (64, 48)}),
    "tiled planes": ("CHW", {"photometric": "rgb", "planarconfig": "separate", "tile": (256, 16)}),
    "deflate": (
        "CHW",
        {
            "photometric": "rgb",
            "planarconfig": "separate",
            "compression": "zlib",
            "predictor": True,
        },
    ),
    "lzw": ("HWC", {"photometric": "rgb", "compression": "lzw"}),
    "big endian": ("CHW", {"photometric": "rgb", "planarconfig": "separate", "byteorder": ">"}),
    "BigTIFF": ("HWC", {"photometric": "rgb", "bigtiff": True}),
}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_every_file_that_python_reads_is_read(strip_detect, plain_model, tmp_path, kind):
    pixels, files = np.random.default_rng(1).integers(0, 256, (4, 37, 53)).astype(kind), []
    for channels in (3, 4):
        for name, (order, options) in LAYOUTS.items():
            if options.get("predictor") and kind == np.float16:
                continue  # tifffile writes none
            files.append(tmp_path / f"{name} {channels}.tiff")
            stored = pixels[:channels] if order == "CHW" else np.moveaxis(pixels[:channels], 0, -1)
            tifffile.imwrite(files[-1], stored, **options)
    done = strip_detect(plain_model, *files, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, latency = map(json.loads, done.stdout.splitlines())
    assert latency["latency_ms"]["calls"] == len(files) == len(lines)
    for path, line in zip(files, lines):
        heatmap = to_model_input(load_image(path)[None], "unit", 3, 255.0)[0, 0]
        found = [
            tuple(found[name] for name in ("y", "x", "peak", "margin"))
            for found in line["detections"]
        ]
        assert all(found["score"] == found["margin"] for found in line["detections"])
        assert line["strip"] == str(path)
        assert line["defective"]
        assert_same_detections(
            [(y, x, np.float32(peak), margin) for y, x, peak, margin in found], heatmap, 0.5
        )


@pytest.mark.parametrize("input_kind", ["unit", "raw", "uint8"])
def test_the_program_finds_what_python_finds(strip_detect, export_small, dataset, input_kind):
    path, files = export_small("--input", input_kind), sorted((dataset / "test").rglob("*.tiff"))
    done = strip_detect(path, *files, "--json", "--threads", 1, "--repeat", 2)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, latency = map(json.loads, done.stdout.splitlines())
    assert latency["latency_ms"]["calls"] == 2 * len(files)
    assert latency["device"] == "cpu"
    predictor = OnnxPredictor(path)
    for name, line in zip(files, lines):
        peaks = find_peaks(predictor(load_image(name)), np.float32(line["threshold"]))
        assert [[found["y"], found["x"]] for found in line["detections"]] == peaks.points.tolist()
        np.testing.assert_allclose(
            [found["peak"] for found in line["detections"]], peaks.heights, atol=TOLERANCE
        )


def painted(value, size=(37, 53)):
    """A strip whose Target is `value`."""
    return np.stack(
        [np.full(size, value, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)]
    )


def write(path, strip):
    tifffile.imwrite(path, strip, photometric="minisblack")


def hostile_files(folder):
    """By name: what is wrong, and what is to be said of it."""
    whole = folder / "whole.tiff"
    tifffile.imwrite(
        whole, painted(200), photometric="rgb", planarconfig="separate", compression="zlib"
    )
    packed = whole.read_bytes()
    tifffile.imwrite(whole, painted(200), photometric="rgb", planarconfig="separate")
    content = {
        "empty": (b"", "found no readable TIFF file"),
        "text": (b"this is no image", "found no readable TIFF file"),
        "header only": (packed[:8], "found no readable TIFF file"),
        "truncated": (whole.read_bytes()[:-200], "expected"),
        "truncated, compressed": (packed[: len(packed) // 2], "expected"),
    }
    for name, (data, _) in content.items():
        (folder / f"{name}.tiff").write_bytes(data)
    pixels = {
        "another size": (painted(1, (53, 37)), "expected 3 or 4 channels of 37 x 53"),
        "two channels": (painted(1)[:2], "expected 3 or 4 channels"),
        "five channels": (np.zeros((5, 37, 53), np.float32), "expected 3 or 4 channels"),
        "one plane": (painted(1)[0], "expected 3 or 4 channels"),
        "int32": (painted(1).astype(np.int32), "expected uint8, uint16 or floats"),
        "complex": (painted(1).astype(np.complex64), "expected uint8, uint16 or floats"),
        "bits": (painted(1)[0] > 0, "expected"),
        "NaN": (painted(np.nan), "found a value of nan, expected 0 to 255"),
        "negative": (painted(-1), "found a value of -1, expected 0 to 255"),
        "too bright": (painted(256), "found a value of 256, expected 0 to 255"),
    }
    for name, (image, _) in pixels.items():
        write(folder / f"{name}.tiff", image)
    expected = {name: text for name, (_, text) in (content | pixels).items()}
    (folder / "folder.tiff").mkdir()
    return expected | {
        "folder": "found no readable TIFF file",
        "missing": "found no readable TIFF file",
    }


def test_each_bad_file_is_one_clear_line_and_the_others_go_on(strip_detect, plain_model, tmp_path):
    expected = hostile_files(tmp_path)
    paths = [tmp_path / f"{name}.tiff" for name in expected]
    done = strip_detect(plain_model, *paths, tmp_path / "whole.tiff", "--json")
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert len(errors) == len(expected)
    for path, text, error in zip(paths, expected.values(), errors):
        assert error.startswith(f"error: {path}: found")
        assert text in error
    strip, _ = map(json.loads, done.stdout.splitlines())
    assert strip["strip"].endswith("whole.tiff")
    assert strip["defective"]


def test_files_that_lie_are_read_or_refused(strip_detect, built, tmp_path):
    subprocess.run(
        [sys.executable, SOURCES / "fuzz" / "make_seeds.py", tmp_path],
        check=True,
        capture_output=True,
    )
    model = write_plain_model(tmp_path / "plain.onnx", (16, 8))
    files = sorted((tmp_path / "tiff").iterdir())
    limited = [
        "bash",
        "-c",
        'ulimit -v 4000000; exec "$@"',
        "limited",
        built / "strip_detect",
        model,
        *files,
        "--json",
        "--device",
        "cpu",
    ]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-500:]
    read = {json.loads(line)["strip"] for line in done.stdout.splitlines()[:-1]}
    errors = done.stderr.splitlines()
    assert len(read) + len(errors) == len(files) > 700
    assert all(re.match(r"error: .*\.tiff: found .*, expected ", error) for error in errors)
    for file in files:
        sound = not re.match(
            r"lie|ring|small|one_bit|complex|signed|palette|not_finite|cut", file.name
        )
        assert str(file) in read or not sound, file


def test_what_the_program_says(strip_detect, plain_model, tmp_path):
    write(tmp_path / "good.tiff", painted(100))
    write(tmp_path / "bad.tiff", painted(200))
    done = strip_detect(plain_model, tmp_path / "good.tiff", tmp_path / "bad.tiff")
    assert done.returncode == 0
    assert "good.tiff: OK, 0 detections above 0.5" in done.stdout
    assert re.search(
        r"bad.tiff: NG, 1 detections above 0.5\n  y 18  x 26  heatmap 0.784", done.stdout
    )
    latencies = (
        r"plain.onnx on cpu .*: 2 calls; .* p50 [\d.]+, p95 [\d.]+, p99 [\d.]+, max [\d.]+\n"
    )
    assert re.search(latencies, done.stdout)
    assert strip_detect("--help").stdout.startswith("usage: strip_detect MODEL.onnx STRIP...")


@pytest.mark.parametrize(
    "words, text",
    [
        (["--device", "gpu"], "--device: found 'gpu', expected auto, cpu or cuda"),
        (["--threads", "0"], "--threads: found '0', expected a whole number from 1 on"),
        (["--repeat", "3x"], "--repeat: found '3x'"),
        (["--threshold", "nan"], "--threshold: found 'nan', expected a number"),
        (["--colour"], "found the flag --colour, which is not known"),
        (["--repeat"], "--repeat: found nothing after it"),
        ([], "found too few files"),
    ],
)
def test_a_wrong_flag_is_said(strip_detect, plain_model, words, text):
    done = strip_detect(plain_model, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {text}")
    assert len(done.stderr.splitlines()) == 1


def test_strips_in_another_scale_are_not_judged(strip_detect, plain_model, tmp_path):
    mask = np.full((1, 37, 53), 255, np.float32)
    write(tmp_path / "unit.tiff", np.concatenate([painted(0.75), mask]))
    done = strip_detect(plain_model, tmp_path / "unit.tiff")
    assert done.returncode == 1
    assert (
        done.stderr == "error: found no value above 0.75 in any strip, expected 0 to 255: "
        "what was found there means nothing\n"
    )


def test_a_full_disk_is_said(built, plain_model, tmp_path):
    write(tmp_path / "strip.tiff", painted(200))
    with open("/dev/full", "w") as full:
        command = [built / "strip_detect", plain_model, tmp_path / "strip.tiff"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: found that the output cannot be written\n")


def test_an_older_runtime_than_the_headers_is_refused(built, plain_model, tmp_path):
    headers = re.search(
        r"ONNXRuntime_INCLUDE_DIR:PATH=(.*)", (built / "CMakeCache.txt").read_text()
    )[1]
    shutil.copytree(headers, tmp_path / "ort" / "include")
    (tmp_path / "ort" / "lib").symlink_to(Path(headers).parent / "lib")
    header = tmp_path / "ort" / "include" / "onnxruntime_c_api.h"
    header.write_text(
        re.sub(r"#define ORT_API_VERSION \d+", "#define ORT_API_VERSION 99", header.read_text())
    )
    flags = [f"-DONNXRuntime_ROOT={tmp_path / 'ort'}", "-DSTRIP_DETECTOR_PROGRAM=OFF"]
    subprocess.run(
        ["cmake", "-S", SOURCES, "-B", tmp_path / "newer", *flags], check=True, capture_output=True
    )
    subprocess.run(["cmake", "--build", tmp_path / "newer"], check=True, capture_output=True)
    with pytest.raises(
        RuntimeError, match=r"found ONNX Runtime 1\.\d+\.\d+, expected 1\.99 or newer"
    ):
        CppDetector(Library(tmp_path / "newer"), plain_model)


def test_a_strange_file_name_is_sound_json(built, plain_model, tmp_path):
    path = os.fsencode(tmp_path) + b'/a "strip"\n\xff \xe6\x9f\xb1.tiff'
    write(tmp_path / "strip.tiff", painted(200))
    os.rename(tmp_path / "strip.tiff", path)
    done = subprocess.run(
        [built / "strip_detect", plain_model, path, "--json"], capture_output=True
    )
    line = json.loads(done.stdout.decode().splitlines()[0])
    assert line["strip"].endswith('/a "strip"\n\ufffd \u67f1.tiff')


def test_two_models_are_compared(strip_detect, tmp_path):
    size = (37, 53)
    old = write_plain_model(tmp_path / "old.onnx", size, threshold="0.5")
    new = write_plain_model(tmp_path / "new.onnx", size, threshold="0.7")
    strip = painted(0)
    strip[0, 5, 5], strip[0, 30, 40] = 160, 240
    write(tmp_path / "strip.tiff", strip)
    done = strip_detect("--compare", old, new, tmp_path / "strip.tiff")
    assert done.returncode == 0
    assert "strip.tiff: lost  y 5  x 5" in done.stdout
    assert "1 strips: 0 new detections, 1 lost, 0 verdicts changed" in done.stdout
    lines = strip_detect(
        "--compare", new, old, tmp_path / "strip.tiff", "--json"
    ).stdout.splitlines()
    found, summary, *_ = map(json.loads, lines)
    assert [(point["y"], point["x"]) for point in found["new"]] == [(5, 5)]
    assert summary == {"strips": 1, "new": 1, "lost": 0, "verdicts_changed": 0}


def test_without_a_gpu_cuda_is_an_error_and_auto_says_why(strip_detect, plain_model, tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("has an NVIDIA driver")
    write(tmp_path / "strip.tiff", painted(200))
    refused = strip_detect(plain_model, tmp_path / "strip.tiff", "--device", "cuda")
    assert refused.returncode == 1
    assert re.match(r"error: .*plain\.onnx: found that CUDA cannot be used: \w+", refused.stderr)
    assert (
        "on cpu (CUDA cannot be used: " in strip_detect(plain_model, tmp_path / "strip.tiff").stdout
    )


# ---- what is refused, and that the next call works


def bad_models(folder, plain_model):
    size, data = (37, 53), plain_model.read_bytes()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "truncated.onnx").write_bytes(data[: len(data) // 2])
    (folder / "text.onnx").write_text("no model")
    made = {
        "no metadata": (
            {"schema_version": None},
            "found no schema_version in the model's metadata",
        ),
        "newer": (
            {"schema_version": "3"},
            "found schema_version '3' in the model's metadata, expected 2 at most: a newer suite",
        ),
        "other tool": (
            {"tool": "classifier"},
            "found tool 'classifier' in the model's metadata, expected strip detector",
        ),
        "odd version": ({"schema_version": "two"}, "expected a whole number"),
        "other size": ({"image_size": "53 37"}, "found the model's input of shape (-1, 3, 37, 53)"),
        "no size": ({"image_size": "37"}, "expected height and width in pixels"),
        "huge": ({"image_size": "99999999999 53"}, "expected height and width in pixels"),
        "bytes": ({"input": "uint8"}, "found the model's input of shape"),
        "four": ({"channels": "Target Ref1 Ref2 ignored"}, "found the model's input of shape"),
        "odd input": (
            {"input": "half"},
            "found input 'half' in the model's metadata, expected unit, raw or uint8",
        ),
        "alignment": (
            {"outputs": "output alignment", "alignment": "shift_y"},
            "expected shift_y shift_x wander gain remainder",
        ),
        "no alignment": (
            {"outputs": "output alignment", "alignment": "shift_y shift_x wander gain remainder"},
            "found no output of the name 'alignment'",
        ),
        "two lines": ({"input": "un\nit"}, "found input 'un?it' in the model's metadata"),
        "too large": ({"image_size": "1048576 1048576"}, "expected height and width in pixels"),
        "beyond float": ({"threshold": "1e300"}, "expected a number, or none"),
        "tiny range": ({"input_max": "1e-300"}, "expected a number from 1e-30 to 1e30"),
        "no range": (
            {"input_max": "0"},
            "found input_max '0' in the model's metadata, expected a number from 1e-30 to 1e30",
        ),
        "odd threshold": ({"threshold": "high"}, "expected a number, or none"),
        "uncalibrated": (
            {"threshold": NO_THRESHOLD},
            "found no calibrated threshold in it, expected one to be given",
        ),
    }
    for name, (entries, _) in made.items():
        write_plain_model(folder / f"{name}.onnx", size, **entries)
    # ONNX Runtime's words follow the path
    unreadable = dict.fromkeys(("empty", "truncated", "text"), ".onnx")
    expected = {"missing": "found no such regular file"} | unreadable
    return expected | {name: text for name, (_, text) in made.items()}


def test_each_bad_model_is_refused_with_its_reason_and_the_next_call_works(
    library, plain_model, tmp_path
):
    strip = np.full((1, 3, 37, 53), 0.75, np.float32)
    for name, text in bad_models(tmp_path, plain_model).items():
        path = tmp_path / f"{name}.onnx"
        with pytest.raises(RuntimeError, match=re.escape(text)) as caught:
            CppDetector(library, path)
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value)) > len(f"{path}: ") + 10
        assert len(CppDetector(library, plain_model)(strip)[1][0]) == 1
    assert (
        CppDetector(library, tmp_path / "uncalibrated.onnx", threshold=0.25).facts.threshold == 0.25
    )


def test_a_file_of_the_classifier_is_refused_by_its_tool(library, strip_detect, tmp_path):
    data = write_data(tmp_path / "data")
    words = ("--data_root", data, "--save_dir", tmp_path / "run", "--epochs", 1, "--gpu_id", -1)
    words += ("--decoder_channels", 8, "--head_channels", 8)
    (folder,) = train(parse_training([str(word) for word in words]))
    words = ("--checkpoint", folder, "--output_path", tmp_path / "classifier.onnx")
    path = export(parse_export([str(word) for word in words]))
    said = "found tool 'defect classifier' in the model's metadata, expected strip detector"
    with pytest.raises(RuntimeError, match=re.escape(f"{path}: {said}")):
        CppDetector(library, path)
    done = strip_detect(path, tmp_path / "strip.tiff")
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_file_of_the_reference_free_detector_is_refused_by_its_tool(
    library, strip_detect, tmp_path
):
    checkpoint = write_checkpoint(tmp_path / "a_best.pth", write_kind(tmp_path / "kind"))
    words = ["--models", checkpoint, "--output_path", tmp_path / "detector.onnx"]
    path = export_picture_model(parse_picture_export([str(word) for word in words]))
    said = "found tool 'autoencoder' in the model's metadata, expected strip detector"
    with pytest.raises(RuntimeError, match=re.escape(f"{path}: {said}")):
        CppDetector(library, path)
    done = strip_detect(path, tmp_path / "strip.tiff")
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_changed_since_its_export_is_refused(library, plain_model, tmp_path):
    path = tmp_path / "m.onnx"
    for padding in range(0, 130, 13):  # SHA-256 works in blocks of 64 bytes
        model = onnx.load(plain_model)
        model.doc_string = "x" * padding
        onnx.save(model, path)
        write_entries(path, read_entries(path))
        CppDetector(library, path)
    model = onnx.load(path)
    model.graph.initializer[-1].raw_data = np.float32(1.5).tobytes()
    onnx.save(model, path)
    with pytest.raises(RuntimeError, match="found a graph or weights that changed since"):
        CppDetector(library, path)


def test_a_model_whose_heatmap_is_none_judges_nothing(library, tmp_path):
    strip = np.full((1, 3, 37, 53), 0.75, np.float32)
    for name, gain in (("nan", np.nan), ("inf", np.inf)):
        with pytest.raises(RuntimeError, match="found a heatmap beyond 0 to 1"):
            CppDetector(library, write_plain_model(tmp_path / f"{name}.onnx", (37, 53), gain))
    detector = CppDetector(library, write_plain_model(tmp_path / "double.onnx", (37, 53), 2))
    with pytest.raises(RuntimeError, match="found a heatmap beyond 0 to 1"):
        detector(strip)
    assert library.functions.strip_results_count(detector.results, 0) == -1
    assert len(detector(strip / 2)[1][0]) == 1


def test_nothing_that_comes_through_the_c_interface_breaks_it(library, plain_model):
    functions, detector = library.functions, CppDetector(library, plain_model)
    strip = np.full((1, 3, 37, 53), 0.75, np.float32)
    handle, results, data = detector.detector, detector.results, strip.ctypes.data
    too_many = 2**64 // strip.nbytes + 2
    refused = {
        (None, data, FLOAT32, 1, 3, 37, 53, results): "a null pointer, expected a detector",
        (handle, None, FLOAT32, 1, 3, 37, 53, results): "no pixels (a null pointer)",
        (handle, data, FLOAT32, 1, 3, 37, 53, None): "a null pointer, expected results",
        (
            handle,
            data + 1,
            FLOAT32,
            1,
            3,
            37,
            53,
            results,
        ): "pixels at an odd address, expected one that is a multiple of 4",
        (
            handle,
            data,
            1,
            1,
            3,
            37,
            53,
            results,
        ): "pixels of another type, expected float32: the model's input is 'unit'",
        (handle, data, 7, 1, 3, 37, 53, results): "pixel type 7",
        (
            handle,
            data,
            FLOAT32,
            0,
            3,
            37,
            53,
            results,
        ): "0 strips of 3 planes of 37 x 53, expected 1 to 65536 strips",
        (handle, data, FLOAT32, too_many, 3, 37, 53, results): f"{too_many} strips",
        (handle, data, FLOAT32, 1, 0, 37, 53, results): "1 strips of 0 planes",
        (handle, data, FLOAT32, 1, 5, 37, 53, results): "1 strips of 5 planes",
        (handle, data, FLOAT32, 2, 4, 37, 53, results): "2 strips of 4 planes",
        (handle, data, FLOAT32, 1, 3, 0, 53, results): "planes of 0 x 53",
        (handle, data, FLOAT32, 1, 3, 53, 37, results): "planes of 53 x 37",
        (handle, data, FLOAT32, 1, 3, -37, -53, results): "planes of -37 x -53",
    }
    for arguments, text in refused.items():
        assert functions.strip_detector_detect(*arguments) == -1
        assert text in library.error()
        if arguments[-1]:
            assert functions.strip_results_count(results, 0) == -1, (
                "what an earlier call found is gone"
            )
        assert len(detector(strip)[1][0]) == 1
    for value, text in ((np.nan, "nan"), (np.inf, "inf"), (-0.1, "-0.1"), (1.5, "1.5")):
        broken = strip.copy()
        broken[0, 2, 36, 7] = value
        with pytest.raises(
            RuntimeError,
            match=re.escape(f"found a value of {text} in strip 0, plane 2, at (y, x) = (36, 7)"),
        ):
            detector(broken)
        assert functions.strip_results_count(results, 0) == -1, (
            "what an earlier call found is not what this one did"
        )
        assert len(detector(strip)[1][0]) == 1
    assert functions.strip_results_count(results, 1) == -1
    assert "found no strip 1 in the results, expected one of 1" in library.error()
    assert not functions.strip_results_heatmap(results, 9)
    assert (
        functions.strip_results_detection(
            results, 0, 1, ctypes.byref(ctypes.create_string_buffer(64))
        )
        == -1
    )
    assert functions.strip_results_detection(results, 0, 0, None) == -1
    assert functions.strip_results_alignment(results, 0, 0, None) == -1
    assert "does not tell how it aligned" in library.error()
    assert (
        functions.strip_detector_facts(handle, None)
        == functions.strip_detector_facts(None, None)
        == -1
    )
    assert functions.strip_detector_entry(handle, b"input_max") == b"255.0"
    assert (
        functions.strip_detector_entry(handle, None)
        is functions.strip_detector_entry(handle, b"nothing")
        is None
    )
    assert (
        functions.strip_detector_new(None, ON_CPU, 1, np.nan)
        is functions.strip_detector_new(b"", 9, 1, np.nan)
        is None
    )
    for threads in (-1, 1025):
        assert (
            functions.strip_detector_new(os.fsencode(plain_model), ON_CPU, threads, np.nan) is None
        )
        assert f"found {threads} threads, expected 0 to 1024" in library.error()
    functions.strip_detector_delete(None)
    functions.strip_results_delete(None)
    assert len(detector(strip)[1][0]) == 1


# ---- many threads, no memory, other programs


def test_eight_threads_get_what_one_gets(built, export_small):
    done = check(built, "stress", export_small("--image_size", 128, 128), 8, 200, 1)
    assert re.match(r"3200 calls, 0 different answers", done.stdout), done.stdout + done.stderr


def test_a_call_allocates_nothing_of_its_own(built, export_small, plain_model):
    for model in (plain_model, export_small()):
        done = check(built, "allocations", model)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stdout.endswith(" 0 detections\n")


def test_an_installed_copy_serves_another_project(built, plain_model, tmp_path):
    prefix = tmp_path / "moved" / "strip_detector"
    subprocess.run(
        ["cmake", "--install", built, "--prefix", tmp_path / "installed"],
        check=True,
        capture_output=True,
    )
    prefix.parent.mkdir()
    (tmp_path / "installed").rename(prefix)
    write(tmp_path / "strip.tiff", painted(200))
    clean = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [prefix / "bin" / "strip_detect", plain_model, tmp_path / "strip.tiff"],
        env=clean,
        capture_output=True,
        text=True,
    )
    assert "strip.tiff: NG" in done.stdout, done.stderr
    configure = [
        "cmake",
        "-S",
        SOURCES / "checks" / "consumer",
        "-B",
        tmp_path / "consumer",
        f"-DCMAKE_PREFIX_PATH={prefix}",
    ]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path / "consumer"], check=True, capture_output=True)
    done = subprocess.run(
        [tmp_path / "consumer" / "consumer", plain_model], env=clean, capture_output=True, text=True
    )
    assert done.stdout.startswith("37 x 53 pixels, 0 detections, ONNX Runtime 1."), done.stderr


def test_the_program_in_the_documents_runs(built, plain_model, tmp_path):
    text = (ROOT / "docs" / "how-to" / "production-line.md").read_text()
    (tmp_path / "line.cpp").write_text(re.search(r"```cpp\n(.*?)```", text, re.DOTALL)[1])
    words = [
        "c++",
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{SOURCES}",
        tmp_path / "line.cpp",
        "-o",
        tmp_path / "line",
    ]
    libraries = [f"-L{built}", "-lstrip_detector", f"-Wl,-rpath,{built}"]
    subprocess.run([*words, *libraries], check=True)
    assert (
        subprocess.run([tmp_path / "line", plain_model], capture_output=True, text=True).stdout
        == "OK\n"
    )
    refused = subprocess.run(
        [tmp_path / "line", tmp_path / "missing.onnx"], capture_output=True, text=True
    )
    assert (refused.returncode, "found no such regular file" in refused.stderr) == (1, True)


def test_library_and_program_are_sound_for_windows(built, tmp_path):
    compiler = shutil.which("x86_64-w64-mingw32-g++") or shutil.which(
        "x86_64-w64-mingw32-g++-posix"
    )
    if not compiler and "CI" not in os.environ:
        pytest.skip("needs mingw-w64")
    headers = re.search(
        r"ONNXRuntime_INCLUDE_DIR:PATH=(.*)", (built / "CMakeCache.txt").read_text()
    )[1]
    (tmp_path / "tiff").mkdir()
    for header in [*Path("/usr/include").glob("tiff*.h"), *Path("/usr/include").glob("*/tiff*.h")]:
        # beside them lie Linux's own headers, which would be taken for Windows's
        shutil.copy(header, tmp_path / "tiff")
    # in ONNX Runtime's headers
    words_of_msvc = ["-D_Return_type_success_(x)=", "-D_Frees_ptr_opt_=", "-D_stdcall=__stdcall"]
    flags = [
        "-std=c++17",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-DSTRIP_DETECTOR_BUILDING",
        *words_of_msvc,
    ]
    sources = ["-isystem", headers, "-isystem", tmp_path / "tiff", *sorted(SOURCES.glob("*.cpp"))]
    done = subprocess.run([compiler, *flags, *sources], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- what takes minutes


@pytest.mark.long
@pytest.mark.parametrize("preset", ["address", "thread"])
def test_no_sanitizer_finds_anything(preset, export_small, plain_model, tmp_path):
    folder = build(preset)
    suppressions = f"suppressions={SOURCES / 'checks' / 'suppressions.txt'}"
    # At exit ONNX Runtime unlocks a mutex that ThreadSanitizer has not seen it lock; we have none
    # ourselves.
    options = {"TSAN_OPTIONS": f"{suppressions} report_mutex_bugs=0"}
    for model in (plain_model, export_small("--image_size", 128, 128)):
        done = check(folder, "stress", model, 8, 50, 2, **options)
        assert done.returncode == 0, done.stdout + done.stderr
    expected = hostile_files(tmp_path)
    paths = [str(tmp_path / f"{name}.tiff") for name in [*expected, "whole"]]
    words = [str(folder / "strip_detect"), str(plain_model), *paths, "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | options)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == len(expected), done.stderr


@pytest.mark.long
def test_no_fuzz_target_finds_anything(tmp_path):
    if not shutil.which("clang++"):
        pytest.skip("needs clang with libFuzzer")
    folder = build("fuzz") / "fuzz"
    subprocess.run(
        [sys.executable, SOURCES / "fuzz" / "make_seeds.py", tmp_path],
        check=True,
        capture_output=True,
    )
    limits = [
        "-max_total_time=30",
        "-max_len=16384",
        "-timeout=10",
        "-rss_limit_mb=512",
        "-malloc_limit_mb=80",
    ]
    for name in ("tiff", "metadata", "peaks"):
        (tmp_path / "found" / name).mkdir(parents=True)
        words = [folder / f"fuzz_{name}", *limits, tmp_path / "found" / name, tmp_path / name]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long
def test_a_hundred_thousand_calls_leave_memory_flat(built, tmp_path):
    model = write_plain_model(tmp_path / "tiny.onnx", (32, 32))
    done = check(built, "stress", model, 4, 50, 500)
    calls, different, gained = map(
        int,
        re.match(r"(\d+) calls, (\d+) different answers, gained (-?\d+) kB", done.stdout).groups(),
    )
    assert (calls, different) == (110_000, 0)
    assert gained < 1024
