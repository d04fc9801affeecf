"""What the inference commands make of a folder: thresholds, verdicts, detections, what is ignored,
warnings, and odd folders.
"""

import contextlib
import csv
import io
import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
import tifffile

import inference_onnx
import inference_pytorch
import trainer
from common.errors import UserError, run_command
from data.demo_strips import make_strip
from data.write_images import write_strip
from evaluation.detections import logit_margin
from reporting.tables import DETECTIONS
from tests.conftest import SMALL_SIZE, arguments_for, export_file
from training.checkpoint import load_checkpoint, save_checkpoint

POINTS = ((60, 50), (120, 100))  # of every bad strip: (y, x), the first bright, the second dark
STEP = 60.0  # grey levels


@pytest.fixture(scope="module")
def strips(tmp_path_factory):
    """Ten good and six bad strips under test/, ten good ones under valid/; masks of the bad."""
    root = tmp_path_factory.mktemp("scored") / "strips"
    for split, good, bad in (("valid", 10, 0), ("test", 10, 6)):
        for number in range(good + bad):
            image = make_strip(np.random.default_rng((len(split), number)), SMALL_SIZE)
            if number < good:
                write_strip(root / split / "good" / f"strip_{number}.tiff", image)
                continue
            mask = np.zeros(SMALL_SIZE, np.uint8)
            for (y, x), sign in zip(POINTS, (1, -1)):
                part = np.s_[y - 1 : y + 2, x - 1 : x + 2]
                image[0][part] = np.median(image[1:], axis=0)[part] + sign * STEP
                mask[part] = 255
            write_strip(root / split / "spots" / f"strip_{number}.tiff", image.clip(0, 255))
            path = root / "ground_truth" / "spots" / f"strip_{number}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)
    return root


@pytest.fixture
def score(tmp_path, capsys):
    """Runs an inference command on a folder; gives exit code, what it printed and wrote."""

    def run_it(folder, *flags, command=inference_pytorch):
        output = tmp_path / "output"
        shutil.rmtree(output, ignore_errors=True)
        words = ["--test_path", folder, "--output_dir", output, *flags]
        code = run_command(lambda: command.infer(command.parse_args(list(map(str, words)))))
        return code, capsys.readouterr(), output

    return run_it


def rows(output, name):
    with (output / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summary(output):
    return json.loads((output / "metrics.json").read_text())


PLAIN = ("--method", "double")


@pytest.fixture(scope="module")
def plain(strips, tmp_path_factory):
    """Exit code, printed lines, errors and output folder of double detection on all test strips.

    Not to be changed: it is shared.
    """
    output = tmp_path_factory.mktemp("plain") / "output"
    words = ["--test_path", strips / "test", "--output_dir", output, *PLAIN]
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        arguments = inference_pytorch.parse_args(list(map(str, words)))
        code = run_command(lambda: inference_pytorch.infer(arguments))
    return code, printed.getvalue(), errors.getvalue(), output


def test_a_line_without_a_model_gets_threshold_verdicts_detections_and_report(strips, plain):
    code, printed, errors, output = plain
    assert code == 0 and errors == ""
    assert (
        "double detection, plain on cpu" in printed
        and f"(set on {strips / 'valid' / 'good'}): " in printed
    )
    assert "So few strips cannot support 0.1: expected at least 30" in printed
    assert printed.splitlines()[-1].endswith(f"next: open {output / 'report.html'} in a browser")
    verdicts = {row["file"]: row["verdict"] for row in rows(output, "scores")}
    found = rows(output, "detections")
    assert [*found[0]] == list(DETECTIONS) and len(verdicts) == 16
    assert all(verdicts[f"spots/strip_{number}.tiff"] == "NG" for number in range(10, 16))
    for file, verdict in verdicts.items():
        assert (verdict == "NG") == any(row["file"] == file for row in found)
    hits = [row for row in found if row["status"] == "hit"]
    off = [
        min(max(abs(int(row["y"]) - y), abs(int(row["x"]) - x)) for y, x in POINTS) for row in hits
    ]
    assert len(hits) == 12 and max(off) <= 1
    listed = json.loads((output / "detections.json").read_text())
    assert {file: strip["verdict"] for file, strip in listed["strips"].items()} == verdicts
    assert sum(len(strip["detections"]) for strip in listed["strips"].values()) == len(found)
    assert listed["threshold"]["value"] == summary(output)["threshold"]["value"]
    highest = {row["file"]: float(row["score"]) for row in rows(output, "scores")}
    for row in found:
        assert row["score"] == row["margin"] and float(row["peak"]) <= highest[row["file"]] * 1.001
        assert float(row["margin"]) == pytest.approx(logit_margin(float(row["peak"])), abs=1e-4)
    assert (output / "report.html").stat().st_size > 5000


def test_the_summary_counts_what_the_detections_say(plain):
    output = plain[-1]
    content, found = summary(output), rows(output, "detections")
    alarms = sum(row["status"] == "false alarm" for row in found)
    assert (
        content["at_threshold"]["recall"] == 1.0
        and content["at_threshold"]["false_alarms_per_strip"] == alarms / 16
    )
    assert content["verdicts"]["NG"] == sum(
        row["verdict"] == "NG" for row in rows(output, "scores")
    )
    assert content["point_recall"][0]["truths"] == 12 and content["point_recall_at_10"] == 1.0
    assert set(content["rivals"]) == {
        f"{label}, Gaussian of 1 px"
        for label in (
            "double detection",
            "tolerance envelope",
            "registered difference",
            "likelihood ratio",
        )
    }
    assert all(0 <= baseline["point_recall_at_1"] <= 1 for baseline in content["rivals"].values())


def test_both_commands_give_the_same_detections_of_a_method(strips, plain, score):
    first = (plain[-1] / "detections.csv").read_bytes()
    _, _, output = score(strips / "test", *PLAIN, command=inference_onnx)
    assert (output / "detections.csv").read_bytes() == first


def test_polarity_and_area_choose_among_the_detections(strips, score):
    contrasts = {}
    for polarity in ("bright", "dark", "both"):
        _, _, output = score(
            strips / "test" / "spots", *PLAIN, "--threshold", "0.15", "--polarity", polarity
        )
        contrasts[polarity] = [
            float(row["contrast_ref1"]) + float(row["contrast_ref2"])
            for row in rows(output, "detections")
        ]
    assert min(contrasts["bright"]) > 0 > max(contrasts["dark"]) and len(
        contrasts["bright"]
    ) >= 6 <= len(contrasts["dark"])
    assert sorted(contrasts["both"]) == sorted(contrasts["bright"] + contrasts["dark"])
    _, _, output = score(
        strips / "test" / "spots", *PLAIN, "--threshold", "0.15", "--min_area", "4"
    )
    assert {int(row["area"]) >= 4 for row in rows(output, "detections")} == {True}
    _, _, output = score(
        strips / "test" / "spots", *PLAIN, "--threshold", "0.15", "--min_area", "100000"
    )
    assert rows(output, "detections") == [] and {
        row["verdict"] for row in rows(output, "scores")
    } == {"OK"}


def test_a_target_that_so_many_strips_support_sets_the_threshold(strips, score):
    values = []
    for target in ("0.1", "1", "10"):
        code, printed, output = score(
            strips / "test" / "spots",
            *PLAIN,
            "--good_path",
            strips / "valid",
            "--target_false_alarms",
            target,
        )
        threshold = summary(output)["threshold"]
        assert (
            code == 0
            and threshold["rate"] <= float(target) <= threshold["rate"] + 0.2
            and threshold["strips"] == 10
        )
        values.append(threshold["value"])
    assert values == sorted(values, reverse=True) and len(set(values)) == 3
    assert "cannot support" not in printed.out


def test_known_places_do_not_count(strips, score, tmp_path):
    (tmp_path / "dead.csv").write_text(f"y,x\n{POINTS[0][0]},{POINTS[0][1]}\n")
    mask = np.zeros(SMALL_SIZE, np.uint8)
    mask[POINTS[1][0] - 4 : POINTS[1][0] + 5, POINTS[1][1] - 4 : POINTS[1][1] + 5] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    flags = (*PLAIN, "--threshold", "0.15")
    for more, left in (
        (("--dead_pixels", tmp_path / "dead.csv"), 6),
        (("--ignore_mask", tmp_path / "mask.png"), 6),
    ):
        _, _, output = score(strips / "test" / "spots", *flags, *more)
        assert summary(output)["point_recall"][0]["truths"] == left
        assert sum(row["status"] == "hit" for row in rows(output, "detections")) == left
    fourth = tmp_path / "four" / "test" / "spots" / "strip.tiff"
    image = tifffile.imread(strips / "test" / "spots" / "strip_12.tiff")
    write_strip(fourth, np.concatenate([image, (mask > 0)[None].astype(np.float32)]))
    _, _, output = score(tmp_path / "four" / "test", *flags)
    assert len(rows(output, "detections")) == 2
    _, _, output = score(tmp_path / "four" / "test", *flags, "--mask_channel", "3")
    assert [abs(int(row["y"]) - POINTS[0][0]) < 3 for row in rows(output, "detections")] == [True]
    assert (tifffile.imread(output / "spots" / "strip_heatmap.tiff")[mask > 0] == 0).all()


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    best = trainer.train(trainer.parse_args(arguments_for(dataset, folder, "--epochs", 1)))
    return best


def test_a_training_keeps_threshold_ranges_and_gaussians_with_the_best_checkpoint(trained, dataset):
    content = load_checkpoint(trained)
    assert content["calibration"]["strips"] == 2 and content["target_false_alarms"] == 0.1
    assert set(content["rival_sigmas"]) == {"smoothed", "envelope", "registered", "likelihood"}
    lowest, highest = content["channel_ranges"]["target_mean"]
    means = [
        tifffile.imread(path)[0].mean() for path in (dataset / "train" / "good").glob("*.tiff")
    ]
    assert lowest < min(means) <= max(means) < highest
    assert (trained.with_name(trained.name.replace("_best.pth", "_test")) / "report.html").is_file()


def test_the_kept_threshold_serves_both_commands_alike(trained, dataset, score, tmp_path):
    model = export_file(trained, tmp_path / "m.onnx")
    written = []
    for command, path in ((inference_pytorch, trained), (inference_onnx, model)):
        code, printed, output = score(dataset / "test", "--model_path", path, command=command)
        assert code == 0 and "(kept with the model)" in printed.out
        written.append(
            (
                summary(output)["threshold"],
                [(row["file"], row["verdict"]) for row in rows(output, "scores")],
            )
        )
    assert written[0] == written[1]
    code, printed, _ = score(
        dataset / "test", "--model_path", trained, "--target_false_alarms", "5"
    )
    assert code == 0 and "5 asked for" in printed.out


def test_a_folder_unlike_the_training_strips_is_warned_about(trained, dataset, score, tmp_path):
    _, printed, output = score(dataset / "test", "--model_path", trained)
    # a network of one epoch: its threshold does not hold, but its strips are as in training
    assert "ref2_" not in printed.err and summary(output)["drift"] == []
    for path in (dataset / "test").rglob("*.tiff"):
        image = tifffile.imread(path)
        image[2] = np.roll(image[2], 5, axis=1) * 0.3
        write_strip(tmp_path / "moved" / path.relative_to(dataset / "test"), image)
    code, printed, output = score(tmp_path / "moved", "--model_path", trained)
    assert (
        code == 0
        and "warning: Ref2's " in printed.err
        and "the range of the training strips" in printed.err
    )
    assert summary(output)["drift"] and "ref2_" in (output / "report.html").read_text()


def test_a_checkpoint_without_a_threshold_says_so(make_checkpoint, dataset, score):
    code, printed, output = score(dataset / "test", "--model_path", make_checkpoint())
    assert (
        code == 0
        and "threshold 0.5 (no good strip was held out" in printed.out
        and "is not known" in printed.out
    )
    assert summary(output)["threshold"]["rate"] is None


def test_only_good_only_bad_and_unknown_strips(strips, score, tmp_path):
    good_only = tmp_path / "good_only" / "test"
    shutil.copytree(strips / "test" / "good", good_only / "good")
    code, printed, output = score(good_only, *PLAIN, "--threshold", "0.2")
    assert (
        code == 0
        and summary(output)["point_recall_at_1"] is None
        and summary(output)["image_auroc"] is None
    )
    assert summary(output)["at_threshold"] == {
        "recall": None,
        "false_alarms_per_strip": len(rows(output, "detections")) / 10,
    }
    assert "above the threshold: no true point to find, " in printed.out
    assert "point recall at 1         not defined: needs defective strips with masks" in printed.out
    unknown = tmp_path / "unknown"
    shutil.copytree(strips / "test" / "spots", unknown)
    code, printed, output = score(unknown, *PLAIN, "--threshold", "0.2")
    assert code == 0 and summary(output)["at_threshold"] == {
        "recall": None,
        "false_alarms_per_strip": None,
    }
    assert {row["status"] for row in rows(output, "detections")} == {""} and {
        row["kind"] for row in rows(output, "scores")
    } == {""}
    code, printed, output = score(strips / "test" / "spots", *PLAIN, "--threshold", "0.2")
    assert (
        code == 0
        and summary(output)["image_auroc"] is None
        and summary(output)["at_threshold"]["recall"] == 1.0
    )


def test_a_mask_without_a_strip_is_mentioned(strips, score, tmp_path):
    shutil.copytree(strips, tmp_path / "copy")
    masks = tmp_path / "copy" / "ground_truth" / "spots"
    shutil.copy(masks / "strip_10_mask.png", masks / "strip_99_mask.png")
    code, printed, _ = score(tmp_path / "copy" / "test", *PLAIN)
    assert (
        code == 0
        and printed.err
        == f"warning: {masks / 'strip_99_mask.png'}: found a mask without a strip of its name\n"
    )
    _, printed, _ = score(tmp_path / "copy" / "test" / "good", *PLAIN, "--threshold", "0.2")
    assert printed.err == ""


def test_more_false_alarms_than_asked_for_are_told_everywhere(strips, score, tmp_path):
    plain = np.full((3, *SMALL_SIZE), 100, np.float32)  # good, and unlike the strips that follow
    write_strip(tmp_path / "good" / "strip.tiff", plain)
    code, printed, output = score(strips / "test", *PLAIN, "--good_path", tmp_path / "good")
    rate = summary(output)["at_threshold"]["false_alarms_per_strip"]
    assert code == 0 and rate > 1
    (warning,) = summary(output)["warnings"]
    assert f"found {rate:.3g} false alarms per strip on 16 strips" in warning
    assert printed.err == f"warning: {warning}\n"
    page = (output / "report.html").read_text()
    assert "does not fit these strips" in page and "rests on 1 good strip, expected" in page


def test_a_heatmap_of_nothing_finds_nothing(dataset, score, tmp_path):
    equal = tmp_path / "equal" / "test" / "spots" / "strip.tiff"
    write_strip(equal, np.full((3, *SMALL_SIZE), 100, np.float32))
    mask = tmp_path / "equal" / "ground_truth" / "spots" / "strip_mask.png"
    mask.parent.mkdir(parents=True)
    cv2.imwrite(str(mask), np.pad(np.full((3, 3), 255, np.uint8), ((50, 147), (50, 97))))
    code, _, output = score(tmp_path / "equal" / "test", *PLAIN, "--threshold", "0")
    assert code == 0 and rows(output, "detections") == []
    assert summary(output)["at_threshold"] == {"recall": 0.0, "false_alarms_per_strip": 0.0}


MALFORMED = [
    ("target_false_alarms", 0),
    ("target_false_alarms", True),
    ("target_false_alarms", float("nan")),
    ("calibration", [1]),
    ("calibration", {"strips": 3}),
    ("calibration", {"strips": 0, "peaks": [], "maxima": [], "dispersion": 1.0}),
    ("calibration", {"strips": 2, "peaks": [0.1, 0.2], "maxima": [0.2, 0.1], "dispersion": 1.0}),
    ("calibration", {"strips": 2, "peaks": [7.0], "maxima": [0.2, 0.1], "dispersion": 1.0}),
    (
        "calibration",
        {"strips": 2, "peaks": [0.2], "maxima": [0.2, 0.1], "dispersion": float("nan")},
    ),
    ("channel_ranges", None),
    ("channel_ranges", {"target_mean": [1.0]}),
    ("channel_ranges", {"target_mean": [2.0, 1.0]}),
    ("rival_sigmas", {"smoothed": 1e4}),
    ("rival_sigmas", {"smoothed": [1.0]}),
]


@pytest.mark.parametrize("name, value", MALFORMED)
def test_what_was_measured_must_be_usable(make_checkpoint, dataset, score, name, value):
    path = make_checkpoint(**{name: value})
    code, printed, _ = score(dataset / "test", "--model_path", path)
    assert (
        code == 1
        and printed.err.startswith(f"error: {path}: found {name} ")
        and printed.err.count("\n") == 1
    )


def test_metadata_that_are_not_usable(trained, dataset, score, tmp_path):
    model = export_file(trained, tmp_path / "m.onnx")
    cases = [(name, json.dumps(value)) for name, value in MALFORMED] + [
        ("calibration", "{"),
        ("image_type", "zzz"),
        ("input_max", "0"),
        ("input_max", "nan"),
    ]
    for name, text in cases:
        changed = onnx.load(model)
        for entry in changed.metadata_props:
            entry.value = text if entry.key == name else entry.value
        onnx.save(changed, tmp_path / "changed.onnx")
        code, printed, _ = score(
            dataset / "test", "--model_path", tmp_path / "changed.onnx", command=inference_onnx
        )
        assert code == 1 and printed.err.startswith(
            f"error: {tmp_path / 'changed.onnx'}: found "
        ), (name, text)
        assert printed.err.count("\n") == 1, (name, text)


def test_a_threshold_is_not_set_by_a_broken_network_nor_on_the_training_strips(
    trained, dataset, score, tmp_path
):
    content = load_checkpoint(trained)
    content["model_state_dict"]["head.bias"].fill_(float("nan"))
    save_checkpoint(tmp_path / "broken_best.pth", content)
    code, printed, _ = score(
        dataset / "test",
        "--model_path",
        tmp_path / "broken_best.pth",
        "--good_path",
        dataset / "valid",
    )
    assert code == 1 and "the model's weights are broken" in printed.err
    good = dataset / "train" / "good"
    _, printed, _ = score(dataset / "test", "--model_path", trained, "--good_path", good)
    first = printed.err.splitlines()[0]
    assert first == f"warning: {good}: found the strips of the training, expected others"


def test_one_way_to_set_a_threshold():
    for more in (("--good_path", "folder"), ("--target_false_alarms", "1")):
        with pytest.raises(SystemExit):
            inference_pytorch.parse_args(["--threshold", "0.5", *more])


def test_an_output_folder_among_the_strips_is_refused_by_any_name(
    strips, score, tmp_path, monkeypatch
):
    link = tmp_path / "link"
    link.symlink_to(strips)
    for read, output in (
        (strips / "test", link / "test" / "out"),
        (tmp_path, strips / "valid" / "out"),
    ):
        words = [
            "--method",
            "double",
            "--test_path",
            read,
            "--good_path",
            strips / "valid",
            "--output_dir",
            output,
        ]
        arguments = inference_pytorch.parse_args(list(map(str, words)))
        with pytest.raises(UserError, match="found an output folder among the strips"):
            inference_pytorch.infer(arguments)
        assert not output.exists()


def test_flags_that_do_not_go_together(strips, score, trained):
    code, printed, _ = score(strips / "test" / "good", *PLAIN)
    assert (
        code == 1
        and "--method double: found no threshold, expected --good_path FOLDER" in printed.err
    )
    code, printed, _ = score(strips / "test", "--model_path", trained, "--input_max", "4095")
    assert code == 1 and "found a model of --input_max 255, expected 4095" in printed.err
    code, printed, _ = score(strips / "test", *PLAIN, "--good_path", strips / "test" / "spots")
    assert code == 1 and "found no good strips" in printed.err
    code, printed, _ = score(strips / "test", *PLAIN, "--mask_channel", "3", "--threshold", "0.2")
    assert code == 1 and "found 3 channels, expected channel 3" in printed.err
