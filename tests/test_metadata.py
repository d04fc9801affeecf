import shutil

import numpy as np
import onnx
import onnxruntime
import pytest

from common.errors import UserError
from deploy.export_module import OUTPUTS
from deploy.metadata import (
    NO_THRESHOLD,
    RATES,
    SCHEMA_VERSION,
    format_table,
    read_metadata,
    shortened,
    write_entries,
)
from deploy.summary import summarize
from evaluation.thresholds import calibrate, threshold_for
from export_onnx_fullimage import export, parse_args, read_entries
from ops.registration import MEASURES
from ops.tiling import calculate_kept_ranges, calculate_positions
from tests.conftest import export_file, run
from training.checkpoint import load_checkpoint

CALIBRATION = calibrate([np.array([0.9 - 0.02 * strip, 0.3]) for strip in range(40)])


@pytest.fixture(scope="module")
def exported(write_checkpoint, tmp_path_factory):
    """A checkpoint that knows its thresholds, and its ONNX file."""
    folder, ranges = tmp_path_factory.mktemp("exported"), {"target_mean": [80.0, 120.0]}
    checkpoint = write_checkpoint(
        folder / "model_best.pth",
        calibration=CALIBRATION,
        target_false_alarms=0.2,
        channel_ranges=ranges,
    )
    arguments = ["--checkpoint_path", str(checkpoint), "--output_path", str(folder / "model.onnx")]
    return checkpoint, export(parse_args(arguments))


def test_a_file_says_all_that_is_needed_to_use_it(exported):
    checkpoint, path = exported
    content, entries = load_checkpoint(checkpoint), read_entries(path)
    metadata = read_metadata(entries)
    assert (
        metadata.info.image_type == content["image_type"]
        and metadata.info.input_max == content["input_max"]
    )
    assert metadata.info.align == "none" and metadata.info.patch == 128
    assert metadata.info.measured == {name: content[name] for name in metadata.info.measured}
    assert (
        entries["schema_version"] == str(SCHEMA_VERSION)
        and entries["channels"] == "Target Ref1 Ref2"
    )
    assert (
        entries["network"] == "SegmentationNetwork"
        and entries["base_channels"] == "4"
        and entries["opset"] == "18"
    )
    assert (
        entries["image_size"] == "200 150"
        and entries["input_range"] == "0 1"
        and entries["precision"] == "float32"
    )
    for name, length in (("rows", 200), ("columns", 150)):
        assert list(map(int, entries[f"tile_{name}"].split())) == calculate_positions(length, 128)
        ranges = [tuple(map(int, kept.split(":"))) for kept in entries[f"kept_{name}"].split()]
        assert ranges == calculate_kept_ranges(length, 128)
    assert "strips, batch 3" in entries["parity"]


def test_thresholds_are_those_of_the_calibration(exported):
    entries = read_entries(exported[1])
    wanted = {"threshold": 0.2} | {f"threshold_at_{rate:g}": rate for rate in RATES}
    values = {name: float(entries[name]) for name in wanted}
    assert values == {
        name: threshold_for(CALIBRATION, rate, "").value for name, rate in wanted.items()
    }
    assert 0 < values["threshold_at_1"] < values["threshold"] < values["threshold_at_0.01"] == 0.9


def test_a_checkpoint_without_thresholds_is_exported_and_the_file_says_so(
    make_checkpoint, tmp_path, capsys
):
    path = export_file(make_checkpoint(), tmp_path / "model.onnx")
    assert "no threshold is in the file" in capsys.readouterr().out
    entries = read_entries(path)
    assert {entries[name] for name in entries if name.startswith("threshold")} == {NO_THRESHOLD}
    assert read_metadata(entries).info.measured["calibration"] is None


def test_each_further_output_is_described_in_words(exported):
    entries = read_entries(exported[1])
    names = [OUTPUTS[output] for output in OUTPUTS if output != "heatmap"]
    more = {"outputs": " ".join(["output", *names]), "most_detections": "100"}
    more |= {"detections": "y x heatmap", "alignment": " ".join(MEASURES)}
    lines, first = summarize(entries | more, "m.onnx"), summarize(entries, "m.onnx")
    added = [line for line in lines if line not in first]
    assert [line.split("`")[1] for line in added] == names and len(first) == 6
    assert "(strips, 100, 3): y, x, heatmap of the strongest" in added[1]
    assert f"(strips, 2, {len(MEASURES)}): of Ref1 and Ref2 the shift_y, " in added[2]
    assert not [line for line in added if "{" in line]


def test_describe_prints_every_entry_and_exports_nothing(exported, tmp_path):
    before = sorted(exported[1].parent.iterdir())
    done = run("export_onnx_fullimage.py", "--describe", exported[1], cwd=tmp_path)
    entries = read_entries(exported[1])
    lines = done.stdout.split("\n")
    assert done.returncode == 0 and lines[6] == ""
    assert "\n".join(lines[7:]) == format_table(shortened(entries)) + "\n"
    assert [line.split()[0] for line in lines[:6]] == [
        *("size", "input", "output", "threshold", "call", "made")
    ]
    height, width = entries["image_size"].split()
    assert f"{height} x {width} pixels" in lines[0] and "divided by 255" in lines[1]
    assert lines[3].split()[1].strip(":") in (entries["threshold"], "none")
    strips = np.zeros((1, 3, int(height), int(width)), np.float32)
    call = lines[4].removeprefix("call").strip()
    names = {"onnxruntime": onnxruntime, "strips": strips}
    assert eval(call, names).shape == (1, int(height), int(width))
    assert "schema_version" in done.stdout and "characters)" in done.stdout
    assert sorted(exported[1].parent.iterdir()) == before and not list(tmp_path.iterdir())
    done = run("export_onnx_fullimage.py", "--describe", exported[0], cwd=tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.startswith(f"error: {exported[0]}: ")
        and done.stderr.count("\n") == 1
    )


def test_a_file_that_is_not_as_expected_is_refused(exported, dataset, tmp_path):
    path = shutil.copy(exported[1], tmp_path / "model.onnx")
    entries = read_entries(path)
    cases = [
        ({"schema_version": None}, "found no schema_version"),
        ({"schema_version": "3"}, "found metadata of schema version 3, expected 2 at most"),
        ({"schema_version": "one"}, "found schema_version 'one'"),
        (
            {"tool": "classifier"},
            "found a model of the classifier, expected one of the strip detector",
        ),
        ({"align": None, "calibration": None}, "found no align, calibration"),
        ({"image_type": "wide"}, "found image_type 'wide'"),
        ({"align": "half"}, "found align 'half'"),
        ({"input_max": "-1"}, "found input_max '-1'"),
        ({"calibration": "{"}, "no JSON"),
        ({"calibration": "[1]"}, "found calibration"),
    ]
    for change, complaint in cases:
        changed = {name: text for name, text in (entries | change).items() if text is not None}
        with pytest.raises(UserError, match=complaint):
            read_metadata(changed)
    for change, complaint in cases[:2]:
        write_entries(
            path, {name: text for name, text in (entries | change).items() if text is not None}
        )
        onnx.checker.check_model(path)
        done = run(
            "inference_onnx.py", "--model_path", path, "--test_path", dataset / "test", cwd=tmp_path
        )
        assert (
            done.returncode == 1
            and done.stderr.startswith(f"error: {path}: {complaint}")
            and done.stderr.count("\n") == 1
        )
