"""Inference of the defect classifier: calibration, what is unsure and unknown, files, bad input."""

import csv
import json
import math
import shutil
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import beta
from sklearn.metrics import balanced_accuracy_score, f1_score

from classifier.calibration import (
    Calibration,
    calibration_error,
    confidence_bins,
    confidence_for_error,
    fit_temperature,
    read_calibration,
)
from classifier.defect_checkpoint import BEST_ACCURACY, load_defect_model
from classifier.defect_data import list_labelled, read_labelled
from classifier.defect_graph import DefectGraph
from classifier.fit_calibration import fit_calibration
from classifier.inference_defect_model import infer, parse_args
from classifier.predictions import choose_limits
from classifier.train_defect_model import parse_args as parse_training
from classifier.train_defect_model import train
from common.errors import UserError, run_command
from data.folder import GOOD, mask_path
from data.write_images import write_mask
from tests import processes
from tests.conftest import ROOT
from tests.defect_images import KINDS, SIZE, write_data, write_image

NEAR = partial(pytest.approx, abs=2e-4)
QUICK = ("--gpu_id", "-1", "--batch_size", "8", "--decoder_channels", "8", "4")
QUICK += ("--head_channels", "8", "--epochs", "4")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey images of three kinds; what validates is tested on, too."""
    root = write_data(tmp_path_factory.mktemp("data"), count=8)
    shutil.copytree(root / "valid", root / "test")
    shutil.copytree(root / "ground_truth_valid", root / "ground_truth")
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a training."""
    folder = tmp_path_factory.mktemp("run")
    words = ["--data_root", data, "--save_dir", folder, *QUICK]
    train(parse_training(list(map(str, words))))
    return folder


def classify(checkpoint, output_dir, *words):
    words = ["--checkpoint", checkpoint, "--output_dir", output_dir, "--gpu_id", -1, *words]
    return infer(parse_args(list(map(str, words))))


@pytest.fixture(scope="module")
def classified(data, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    assert classify(run, folder, "--image_dir", data / "test", "--target_error", 0.6) == 0
    return folder


def table(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_temperature_is_that_by_which_logits_are_too_large():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (6000, 4))
    for true in (0.7, 2.5):
        shares = softmax(logits / true, axis=1)
        labels = (shares.cumsum(axis=1) < generator.random((6000, 1))).sum(axis=1)
        assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.06)


def test_a_few_images_that_are_all_right_make_nothing_certain():
    logits = np.eye(3)[np.arange(9) % 3] * 4
    for count in (1, 3, 9):
        temperature = fit_temperature(logits[:count], np.arange(count) % 3)
        confidence = softmax(logits[:count] / temperature, axis=1).max(axis=1)
        assert confidence.max() < 0.995


def test_a_temperature_that_held_out_images_do_not_support_stays_1():
    generator = np.random.default_rng(1)
    found, errors = [], []
    for _ in range(20):
        logits = generator.normal(0, 3, (2040, 5))
        shares = softmax(logits, axis=1)
        labels = (shares.cumsum(axis=1) < generator.random((2040, 1))).sum(axis=1)
        found.append(fit_temperature(logits[:40], labels[:40]))
        for temperature in (1.0, found[-1]):
            chosen = log_softmax(logits[40:] / temperature, axis=1)
            errors.append(-chosen[np.arange(2000), labels[40:]].mean())
    # the network is calibrated: most fits of 40 images are chance, and are not believed
    assert found.count(1.0) >= 12 and min(found) >= 0.5
    alone, fitted = np.array(errors).reshape(-1, 2).T
    assert fitted.mean() < alone.mean() + 0.01
    # what says everything twice too surely is told from 200 images
    logits = generator.normal(0, 2, (200, 5))
    shares = softmax(logits, axis=1)
    labels = (shares.cumsum(axis=1) < generator.random((200, 1))).sum(axis=1)
    assert fit_temperature(2 * logits, labels) == pytest.approx(2, rel=0.3)


def test_a_target_error_that_is_not_supported_says_how_many_images_would_do():
    confidences = np.linspace(0.5, 1, 400)
    is_right = [number != 199 for number in range(400)]  # the 200 most confident ones are right
    calibration = Calibration(1.0, tuple(confidences.tolist()), tuple(is_right))
    assert calibration.lowest_sure(0.01) == math.inf and calibration.count_without_mistake() == 200
    classifier = SimpleNamespace(calibration=calibration)
    limits, (line,) = choose_limits(classifier, 0.01, 0.01)
    assert limits.lowest_sure == math.inf
    assert "takes 299 without a mistake; the 200 most confident ones have none: about 598" in line
    assert not choose_limits(classifier, 0.02, 0.01)[1]


def test_the_calibration_error_is_the_mean_distance_from_the_diagonal():
    confidences = np.array([0.95, 0.97, 0.96, 0.55, 0.56, 1.0])
    is_right = np.array([True, True, False, True, False, True])
    bins = confidence_bins(confidences, is_right)
    assert [one.count for one in bins] == [2, 4]  # 0.533 to 0.6, 0.933 to 1
    expected = (2 * abs(0.555 - 0.5) + 4 * abs(0.97 - 0.75)) / 6
    assert calibration_error(bins) == pytest.approx(expected)
    assert calibration_error([]) is None


def test_sure_begins_where_the_bound_of_clopper_and_pearson_holds():
    generator = np.random.default_rng(1)
    confidences = np.round(generator.uniform(0.4, 1, 1500), 2)  # many are equal
    is_right = generator.random(1500) < confidences**0.3
    for target in (0.02, 0.05, 0.1):
        held = []
        for lowest in np.unique(confidences):
            chosen = confidences >= lowest
            wrong = int((chosen & ~is_right).sum())
            if beta.ppf(0.95, wrong + 1, chosen.sum() - wrong) <= target:
                held.append(lowest)
        found = confidence_for_error(confidences, is_right, target)
        assert found == NEAR(min(held)) if held else found == math.inf
        # the image that sets the limit is sure, and the next one is not
        assert not held or (confidences >= found).sum() == (confidences >= min(held)).sum()
    assert held and min(held) > confidences.min()
    all_right = np.ones(298, bool)
    assert confidence_for_error(np.full(298, 0.9), all_right, 0.01) == math.inf
    assert confidence_for_error(np.full(299, 0.9), np.ones(299, bool), 0.01) == NEAR(0.9)


def test_known_images_are_rarely_unknown():
    distances = tuple(float(number) for number in range(1, 200))
    assert Calibration(distances=distances).highest_known(0.01) == NEAR(198)
    assert Calibration(distances=distances).highest_known(0.05) == NEAR(190)
    assert Calibration(distances=distances[:20]).highest_known(0.01) == NEAR(
        20
    )  # too few: the highest
    assert Calibration().highest_known(0.01) == math.inf


def test_a_calibration_is_stored_and_an_unusable_one_refused():
    stored = Calibration(1.5, (0.9, 0.5), (True, False), (0.1, 0.2))
    content = json.loads(json.dumps(stored.plain()))
    assert read_calibration(content) == stored
    for name, value in (
        ("temperature", 0.0),
        ("temperature", None),
        ("confidences", [0.9]),
        ("confidences", [0.9, math.nan]),
        ("is_right", [1, 0]),
        ("distances", [0.1, "a"]),
    ):
        with pytest.raises(UserError, match="calibration"):
            read_calibration(content | {name: value})
    with pytest.raises(UserError):
        read_calibration([])


def test_the_files_say_what_the_network_says_of_each_image(data, run, classified):
    model = load_defect_model(run / BEST_ACCURACY)
    fitted = fit_calibration(model, data)
    rows, pictures = table(classified), list_labelled(data, "test")
    assert len(rows) == len(pictures) == 12
    train_images = [read_labelled(one, 255.0)[0] for one in list_labelled(data, "train")]
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(train_images)) / 255
        known = model.network(batch).embedding.numpy().astype(np.float64)
        spread = known.std(axis=0) + 1e-3 * known.std()
        for row, picture in zip(rows, pictures):
            image, truth = read_labelled(picture, 255.0)
            output = model.network(torch.from_numpy(image[None]) / 255)
            logits = output.logits[0].numpy() / fitted.calibration.temperature
            shares = [float(row[f"p_{kind}"]) for kind in model.kinds]
            assert shares == pytest.approx(softmax(logits).tolist(), abs=1e-4)
            assert row["file"] == f"{picture.kind}/{picture.path.name}"
            assert row["label"] == picture.kind
            assert row["predicted"] == model.kinds[int(np.argmax(shares))]
            assert float(row["confidence"]) == pytest.approx(max(shares), abs=1e-5)
            assert float(row["defect_probability"]) == pytest.approx(1 - shares[0], abs=1e-5)
            differences = (output.embedding.numpy() - known) / spread
            square = float((differences**2).mean(axis=1).min())
            distance = square / (1 + square)
            assert float(row["distance"]) == pytest.approx(distance, abs=1e-4)
            path = classified / row["file"]
            written = cv2.imdecode(
                np.frombuffer(path.with_name(f"{path.stem}_mask.png").read_bytes(), np.uint8), -1
            )
            expected = output.mask_logits[0, 0].numpy() > 0
            assert np.array_equal(written > 0, expected)
            assert int(row["mask_pixels"]) == expected.sum()
            if picture.kind != GOOD:
                iou = (expected & truth).sum() / (expected | truth).sum()
                assert float(row["iou"]) == pytest.approx(iou, abs=1e-5)
            else:
                assert row["iou"] == row["dice"] == ""


def test_the_figures_follow_from_the_predictions(data, classified):
    rows = table(classified)
    found = json.loads((classified / "metrics.json").read_text())
    labels, predicted = ([row[name] for row in rows] for name in ("label", "predicted"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    scores = f1_score(labels, predicted, average=None, labels=found["kinds"], zero_division=0)
    assert [found["by_kind"][kind]["f1"] for kind in found["kinds"]] == pytest.approx(list(scores))
    assert found["kinds"] == [GOOD, *KINDS] and sum(map(sum, found["confusion"])) == 12
    for name in ("iou", "dice"):
        values = [float(row[name]) for row in rows if row[name]]
        assert len(values) == found["defective_with_mask"] == 8
        assert found[name] == pytest.approx(np.mean(values), abs=1e-5)
    masked = [int(row["mask_pixels"]) > 0 for row in rows if row["label"] == GOOD]
    assert found["good_masked"] == np.mean(masked)
    statuses = [row["status"] for row in rows]
    assert found["statuses"] == {name: statuses.count(name) for name in found["statuses"]}
    assert found["calibration"]["held_out_images"] == 12
    lowest, highest = found["lowest_sure_confidence"], found["highest_known_distance"]
    for row in rows:
        if float(row["distance"]) > highest + 1e-6:
            assert row["status"] == "unknown"
        elif lowest is None or float(row["confidence"]) < lowest - 1e-6:
            assert row["status"] == "unsure"


def test_the_report_shows_kinds_pictures_and_the_diagram(classified):
    page = (classified / "report.html").read_text(encoding="utf-8")
    assert all(f"<tr><th>{kind}</th>" in page for kind in (GOOD, *KINDS))
    assert "Share that is right against confidence" in page and page.count("data:image/webp") > 3
    panels = classified / GOOD / "0_panels.png"
    assert cv2.imread(str(panels)).shape[1] > 4 * 224
    assert 'href="good/0_panels.png"' in page


def test_images_without_labels_and_of_other_sizes(data, run, tmp_path, capsys):
    folder = tmp_path / "images"
    image = np.random.default_rng(0).integers(0, 255, (40, 70, 1), dtype=np.uint8)
    write_image(folder / "line1" / "large.png", image)
    shutil.copy(data / "test" / GOOD / "0.png", folder / "plain.png")
    words = ("--image_dir", folder, "--use_labels", False, "--pictures_per_kind", 0)
    assert classify(run, tmp_path / "out", *words) == 0
    assert "1 images have another size" in capsys.readouterr().err
    rows = table(tmp_path / "out")
    assert [row["label"] for row in rows] == ["", ""]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["labelled"] == 0 and found["accuracy"] is None and found["iou"] is None
    mask = cv2.imread(str(tmp_path / "out" / "line1" / "large_mask.png"), -1)
    assert mask.shape == (40, 70) and not list((tmp_path / "out").rglob("*_panels.png"))
    # the same folder again, for one image: what the first scoring left is gone
    assert classify(run, tmp_path / "out", "--image", folder / "plain.png") == 0
    assert [row["file"] for row in table(tmp_path / "out")] == ["plain.png"]
    assert not (tmp_path / "out" / "line1").exists()


@pytest.mark.parametrize("architecture", ["classification", "segmentation", "dual_branch"])
def test_other_architectures_say_what_they_have(architecture, data, tmp_path):
    words = ["--data_root", data, "--save_dir", tmp_path / "run", *QUICK[:-1], 1]
    train(parse_training(list(map(str, [*words, "--architecture", architecture]))))
    assert (
        classify(tmp_path / "run", tmp_path / "out", "--image_dir", data / "test" / KINDS[0]) == 0
    )
    row = table(tmp_path / "out")[0]
    assert (row["mask_pixels"] == "") == (architecture == "classification")
    assert (row["distance"] == "") == (architecture == "segmentation")
    assert row["label"] == KINDS[0]


def test_what_is_uncalibrated_says_so(data, run, tmp_path, capsys):
    content = torch.load(run / BEST_ACCURACY, weights_only=True)
    del content["calibration"]
    torch.save(content | {"data_root": "/nowhere"}, tmp_path / "moved.pth")
    folder = ("--image_dir", data / "test")
    assert classify(tmp_path / "moved.pth", tmp_path / "out", *folder) == 0
    assert "not calibrated" in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (
        found["calibration"]["temperature"] is None and table(tmp_path / "out")[0]["distance"] == ""
    )
    # 12 held-out images support no error of 1 %
    more = ("--data_root", data, "--target_error", 0.01)
    assert classify(tmp_path / "moved.pth", tmp_path / "out", *folder, *more) == 0
    said = capsys.readouterr().err
    assert "every image is unsure: 12 held-out images" in said and "takes 299 without a" in said
    assert {row["status"] for row in table(tmp_path / "out")} <= {"unsure", "unknown"}


def test_a_checkpoint_brings_its_calibration_and_one_without_it_is_calibrated_as_before(
    data, run, tmp_path
):
    content = torch.load(run / BEST_ACCURACY, weights_only=True)
    torch.save(content | {"data_root": "/nowhere"}, tmp_path / "moved.pth")
    torch.save(
        {name: value for name, value in content.items() if name != "calibration"},
        tmp_path / "earlier.pth",
    )
    words = ("--image_dir", data / "test", "--target_error", 0.6)
    moved, earlier, fitted = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert classify(tmp_path / "moved.pth", moved, *words) == 0
    assert classify(tmp_path / "earlier.pth", earlier, *words) == 0
    assert classify(tmp_path / "moved.pth", fitted, *words, "--data_root", data) == 0
    assert table(moved) == table(earlier) == table(fitted)
    assert {row["distance"] for row in table(moved)} != {""}
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (moved, earlier)]
    assert figures[0] == figures[1]
    # --data_root sets other limits, on other images
    others = write_data(tmp_path / "others", count=4, seed=5)
    assert classify(run, tmp_path / "d", *words, "--data_root", others) == 0
    again = json.loads((tmp_path / "d" / "metrics.json").read_text())
    assert again["highest_known_distance"] != figures[0]["highest_known_distance"]


def test_a_stored_calibration_that_is_unusable_is_one_line(data, run, tmp_path, capsys):
    content = torch.load(run / BEST_ACCURACY, weights_only=True)
    stored = content["calibration"]
    for number, wrong in enumerate(
        (
            7,
            stored | {"more": 1},
            stored | {"fitted": stored["fitted"] | {"temperature": float("nan")}},
            stored | {"known": stored["known"] | {"mean": torch.zeros(3)}},
            stored | {"known": stored["known"] | {"spread": -stored["known"]["spread"]}},
            stored | {"known": {"images": stored["known"]["images"]}},
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(content | {"calibration": wrong}, path)
        said = refused(capsys, path, tmp_path / "out", "--image_dir", data / "test")
        assert said.startswith(f"{path}: found an unusable calibration")


def test_masks_of_no_image_are_named_and_reported(data, run, tmp_path, capsys):
    shutil.copytree(data / "test", tmp_path / "test")
    loose = mask_path(tmp_path, "test", KINDS[0], "misnamed")
    write_mask(loose, np.ones(SIZE, np.uint8))
    words = (run, tmp_path / "out", "--image_dir", tmp_path / "test", "--pictures_per_kind", 0)
    for more, count in (((), 1), (("--use_labels", False), 0)):
        capsys.readouterr()
        assert classify(*words, *more) == 0
        line = f"found masks that belong to no image and are left out: 1, the first {loose};"
        assert capsys.readouterr().err.count(line) == count
        report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert report.count("belong to no image") == count


def refused(capsys, *words):
    capsys.readouterr()
    assert run_command(lambda: classify(*words)) == 1
    return capsys.readouterr().err.partition("error: ")[2].splitlines()[0]


def test_bad_input_is_one_line(data, run, tmp_path, capsys):
    out, folder = tmp_path / "out", tmp_path / "images"
    shutil.copytree(data / "test", folder)
    (folder / KINDS[0]).rename(folder / "hole")
    empty = tmp_path / "empty"
    empty.mkdir()
    strip = ROOT / "tests" / "earlier" / "robust.pth"
    for words, said in (
        ((run, out, "--image_dir", folder), "found images of hole, which the training never saw"),
        ((run, out, "--image_dir", data), "did you mean"),
        ((run, out, "--image_dir", tmp_path / "none"), "found no such path"),
        ((run, out, "--image", folder), "found no such file"),
        ((run, out, "--image_dir", empty), "found no images"),
        ((run, data / "test" / "out", "--image_dir", data / "test"), "expected one elsewhere"),
        ((strip, out, "--image_dir", folder), "found a model of the strip detector"),
        ((empty, out, "--image_dir", folder), "found no best_accuracy.pth"),
        ((run, out, "--image_dir", folder, "--data_root", empty), "found no valid/"),
    ):
        assert said in refused(capsys, *words), said
    write_image(folder / GOOD / "0.png", np.full((*SIZE, 3), 90, np.uint8))
    path = folder / GOOD / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    words = (run, out, "--image_dir", folder, "--use_labels", False)
    assert classify(*words) == 1  # the others are classified
    said = capsys.readouterr().err
    assert "found 3 channels, expected 1" in said and "1.png" in said
    assert len(table(out)) == 10
    assert len(json.loads((out / "metrics.json").read_text())["problems"]) == 2
    alone = (run, out, "--image", folder / GOOD / "1.png")
    assert "none of 1 images could be used" in refused(capsys, *alone)
    deep = write_image(tmp_path / "deep.png", np.full((*SIZE, 1), 4000, np.uint16))
    assert refused(capsys, run, out, "--image", deep).endswith(
        "deep.png: found values up to 4000, expected at most 255, which the model was trained for: "
        "a camera of that range needs --input_max 4095, in a training of its own"
    )
    for more in ((), ("--image", "a.png", "--image_dir", "b")):
        with pytest.raises(SystemExit):
            parse_args(["--checkpoint", "a.pth", *more])


def test_the_module_scales_the_cameras_values(run):
    model = load_defect_model(run / BEST_ACCURACY)
    images = torch.randint(0, 255, (2, 1, *SIZE), dtype=torch.uint8)
    with torch.no_grad():
        found = DefectGraph(model.network, 2.0, None, "uint8")(images)
        expected = DefectGraph(model.network, 2.0)(images / 255)
    assert len(found) == 3
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected))


def test_the_command_starts_as_a_file_from_any_folder(tmp_path):
    script = ROOT / "classifier" / "inference_defect_model.py"
    done = processes.run(script, "--help", folder=tmp_path)
    assert done.returncode == 0 and "--target_error" in done.stdout, done.stderr
