"""Points from a table anywhere, and strips on which every detection counts as a false alarm."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from common.errors import UserError
from data.folder import list_strips, truth_without_strip
from data.image_files import STORED_ORDER
from data.unlabelled import SampledFolder, list_false_alarm_strips, parse_sampled_folder
from gaussian import TARGET
from inference_onnx import parse_args as parse_onnx
from inference_pytorch import infer
from inference_pytorch import parse_args as parse_inference

SIZE = (60, 80)
SPOTS = ((20, 30), (40, 60))  # (y, x)


def write_strip(path: Path, spots: tuple[tuple[int, int], ...] = ()) -> None:
    strip = 90 + np.random.default_rng(len(spots)).normal(0, 1, (3, *SIZE))
    for y, x in spots:
        strip[TARGET, y - 1 : y + 2, x - 1 : x + 2] += 60
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, strip.astype(np.float32), photometric="minisblack")


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    """Two strips of kind `line`, each with SPOTS, and a points.csv that knows only one of them."""
    folder = tmp_path / "strips"
    for name in ("0.tif", "1.tif"):
        write_strip(folder / "line" / name, SPOTS)
    (folder / "points.csv").write_text("file,y,x\n0.tif,20,30\n")
    return folder


@pytest.fixture
def production(tmp_path: Path) -> Path:
    """Ten strips of unknown truth, one spot on each."""
    for number in range(10):
        write_strip(tmp_path / "production" / f"{number}.tif", SPOTS[:1])
    return tmp_path / "production"


def test_a_table_elsewhere_replaces_those_beside_the_strips(tmp_path, strips):
    table = tmp_path / "known.csv"
    rows = ["file,y,x", f"{strips / 'line' / '1.tif'},40,60", "line/1,20,30", "elsewhere/1.tif,1,1"]
    table.write_text("\n".join(rows))
    first, second = list_strips(strips, table=table)
    assert first.points is None and second.points == ((40, 60), (20, 30))
    assert truth_without_strip(strips, table) == [
        f"{table}: found points of elsewhere/1.tif, expected the name of a strip"
    ]
    table.write_text("file,y,x\nelsewhere/1.tif,1,1\n")
    with pytest.raises(UserError, match=r"known.csv: found a point of none of the 2 strips in "):
        list_strips(strips, table=table)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a/b", SampledFolder(Path("a/b"), 1)),
        ("a/b:0.1", SampledFolder(Path("a/b"), 0.1)),
        ("C:\\strips", SampledFolder(Path("C:\\strips"), 1)),
        ("C:\\strips:1", SampledFolder(Path("C:\\strips"), 1)),
    ],
)
def test_a_folder_with_a_share(text, expected):
    assert parse_sampled_folder(text) == expected


@pytest.mark.parametrize("text", ["a:0", "a:1.5", "a:-1", "a:nan", ":0.5"])
def test_a_folder_with_a_wrong_share_is_an_error(text):
    with pytest.raises(UserError, match=f"found '{text}', expected FOLDER"):
        parse_sampled_folder(text)


def test_the_sample_is_always_the_same_and_a_smaller_one_is_part_of_it(production, strips):
    def names(share: float) -> list[str]:
        sampled = [SampledFolder(production, share)]
        found = list_false_alarm_strips(sampled, None, STORED_ORDER)
        assert all(strip.points == () and strip.is_defective is None for strip in found)
        return [strip.relative.as_posix() for strip in found]

    assert names(0.3) == names(0.3) and len(names(0.3)) == 3 and len(names(0.01)) == 1
    assert set(names(0.3)) < set(names(0.5)) < set(names(1))
    assert names(1)[0] == "fp_path/production/0.tif"
    twice = [SampledFolder(production), SampledFolder(production)]
    with pytest.raises(UserError, match=r"--fp_path .*found .*0.tif, which is scored already"):
        list_false_alarm_strips(twice, None, STORED_ORDER)
    with pytest.raises(UserError, match="which is scored already"):
        list_false_alarm_strips([SampledFolder(strips)], None, STORED_ORDER, list_strips(strips))
    other = production.parent / "more" / "production"
    write_strip(other / "0.tif")
    both = [SampledFolder(production), SampledFolder(other)]
    assert list_false_alarm_strips(both, None, STORED_ORDER)[-1].relative == Path(
        "fp_path/production_2/0.tif"
    )


def test_a_folder_is_scored_with_a_table_and_with_strips_of_false_alarms(
    tmp_path, strips, production, capsys
):
    (tmp_path / "known.csv").write_text("file,y,x\n0.tif,20,30\n1.tif,20,30\n")
    output = tmp_path / "out"
    flags = ["--method", "smoothed", "--threshold", "0.1", "--gpu_id", "-1"]
    flags += ["--test_path", str(strips), "--output_dir", str(output)]
    flags += ["--points", str(tmp_path / "known.csv"), "--fp_path", f"{production}:0.5"]
    assert infer(parse_inference(flags)) == 0
    printed = capsys.readouterr().out
    assert "production: 5 of 10 strips, on which every detection counts as a false alarm" in printed
    # the second spot of the two strips, which the table lacks, and the one of each of the five
    assert "above the threshold: 1.0000 of the true points found, 1 false alarms per strip" in (
        printed
    )
    summary = json.loads((output / "metrics.json").read_text())
    assert summary["strips"] == 7 and summary["recall_at_k"][0]["truths"] == 2
    assert summary["image_auroc"] is None
    scored = (output / "scores.csv").read_text()
    assert "fp_path/production/" in scored
    assert len(list((output / "fp_path" / "production").glob("*_heatmap.tiff"))) == 5
    report = (output / "report.html").read_text()
    assert f"{production}:0.5" in report and "known.csv" in report


def test_strips_of_false_alarms_do_not_ask_for_the_truth_of_others(tmp_path, strips, production):
    (strips / "points.csv").unlink()
    flags = ["--method", "smoothed", "--threshold", "0.1", "--gpu_id", "-1"]
    flags += ["--test_path", str(strips), "--output_dir", str(tmp_path / "out")]
    assert infer(parse_inference([*flags, "--fp_path", f"{production}:0.1"])) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["strips"] == 3
    inside = [*flags, "--fp_path", str(tmp_path / "out")]
    with pytest.raises(UserError, match="found an output folder among the strips of"):
        infer(parse_inference(inside))


@pytest.mark.parametrize("parse", [parse_inference, parse_onnx])
@pytest.mark.parametrize(
    "flags, line",
    [
        (["--fp_path", "a:2"], "--fp_path: found 'a:2', expected FOLDER or FOLDER:SHARE"),
        (
            ["--points", "a.csv", "--use_ground_truth_mask", "False"],
            "found --points a.csv beside --use_ground_truth_mask False",
        ),
    ],
)
def test_wrong_flags_are_one_line(parse, flags, line, capsys):
    with pytest.raises(SystemExit):
        parse(flags)
    assert line in capsys.readouterr().err
