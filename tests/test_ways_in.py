"""The ways in that most lines need: single channels, coordinates, candidates, named amounts."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from common.errors import UserError
from data.folder import list_strips, truth_without_strip
from data.image_files import load_image
from data.labelled_strip import read_strip
from data.recipe_file import LIMITS, check_amounts
from data.recipes import RobustRecipe, make_recipe, point_settings, settings_of_recipe
from data.splits import set_aside
from data.verify import verify_strips
from evaluation.matching import MatchResult, TrueDefect
from evaluation.ranks import RankMetrics
from gaussian import TARGET
from inference_pytorch import infer
from inference_pytorch import parse_args as parse_inference
from prepare_dataset import main as prepare_main
from prepare_dataset import parse_args as parse_prepare
from prepare_dataset import prepare
from tests.conftest import arguments_for
from trainer import parse_args as parse_training
from trainer import train
from training.checkpoint import load_checkpoint

SIZE = (130, 140)


def combine(*flags: object) -> None:
    prepare(parse_prepare(["combine", *map(str, flags)]))


@pytest.fixture
def planes() -> np.ndarray:
    """Target, Ref1 and Ref2 of two strips: (2, 3, H, W) uint8."""
    return np.random.default_rng(0).integers(0, 255, (2, 3, *SIZE), dtype=np.uint8)


def write_channels(root: Path, planes: np.ndarray, pattern: str, scale: int = 1) -> None:
    for number, strip in enumerate(planes):
        for channel, plane in zip("ABC", strip):
            path = root / pattern.format(n=number, c=channel)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = plane.astype(np.uint16) * scale if scale > 1 else plane
            if path.suffix == ".tif":
                tifffile.imwrite(path, pixels)
            else:
                cv2.imwrite(str(path), pixels)


@pytest.mark.parametrize("suffix, scale", [("bmp", 1), ("png", 16), ("tif", 16), ("BMP", 1)])
def test_three_folders_of_images_become_strips(
    tmp_path, planes, suffix, scale, capsys, monkeypatch
):
    write_channels(tmp_path, planes, "{c}/day/{n}." + suffix, scale)
    flags = ("--target", tmp_path / "A", "--ref1", tmp_path / "B", "--ref2", tmp_path / "C")
    output = tmp_path / "strips"
    words = ["prepare_dataset.py", "combine", *map(str, flags), "--output", str(output)]
    monkeypatch.setattr("sys.argv", words)
    assert prepare_main() == 0
    assert f"next: bash train.sh --training_dataset_path '{output}'" in capsys.readouterr().out
    for number, strip in enumerate(planes):
        stored = tifffile.imread(output / "day" / f"{number}.tiff")
        assert stored.dtype == (np.uint8 if scale == 1 else np.uint16)
        assert np.array_equal(stored, strip.astype(np.uint16) * scale)


def test_one_folder_with_endings_and_one_file_for_all(tmp_path, planes):
    write_channels(tmp_path, planes, "all/{n}_{c}.bmp")
    places = ("--folder", tmp_path / "all", "--target", "_A", "--ref1", "_B", "--ref2", "_C")
    combine(*places, "--output", tmp_path / "strips")
    assert np.array_equal(load_image(tmp_path / "strips/1.tiff"), planes[1])
    write_channels(tmp_path, planes[:, :1], "{c}/{n}.png")
    golden = tmp_path / "all/0_B.bmp"
    combine("--target", tmp_path / "A", "--ref1", golden, "--output", tmp_path / "golden")
    expected = np.stack([planes[1, 0], planes[0, 1], planes[0, 1]])
    assert np.array_equal(load_image(tmp_path / "golden/1.tiff"), expected)


def test_a_grey_image_in_three_colours_is_one_channel_and_a_colour_photo_is_not(tmp_path, planes):
    write_channels(tmp_path, planes, "{c}/{n}.bmp")
    path = tmp_path / "B/0.bmp"
    cv2.imwrite(str(path), np.dstack([planes[0, 1]] * 3))
    flags = ("--target", tmp_path / "A", "--ref1", tmp_path / "B", "--output")
    combine(*flags, tmp_path / "strips")
    assert np.array_equal(load_image(tmp_path / "strips/0.tiff")[2], planes[0, 1])
    cv2.imwrite(str(path), np.moveaxis(planes[0], 0, 2))
    with pytest.raises(UserError, match=r"B/0.bmp: found an image in colours, expected one grey"):
        combine(*flags, tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_channels_that_do_not_fit_are_refused_by_name(tmp_path, planes, capsys):
    write_channels(tmp_path, planes, "{c}/{n}.png")
    flags = ("--target", tmp_path / "A", "--ref1", tmp_path / "B", "--output", tmp_path / "strips")
    (tmp_path / "B/1.png").rename(tmp_path / "B/x.png")
    with pytest.raises(UserError, match=r"B: found no image 1 as in .*missing: 1 of 2"):
        combine(*flags)
    (tmp_path / "B/x.png").rename(tmp_path / "B/1.PNG")
    cv2.imwrite(str(tmp_path / "B/1.PNG"), planes[0, 0, 1:])
    with pytest.raises(UserError, match=r"B/1.PNG: found \(129, 140\).* expected \(130, 140\)"):
        combine(*flags)
    cv2.imwrite(str(tmp_path / "B/1.PNG"), planes[0, 0].astype(np.uint16))
    with pytest.raises(UserError, match=r"B/1.PNG: found pixels of type uint16, expected uint8"):
        combine(*flags)
    cv2.imwrite(str(tmp_path / "B/1.PNG"), planes[0, 0])
    cv2.imwrite(str(tmp_path / "B/2.png"), planes[0, 0])
    combine(*flags)
    assert f"{tmp_path}/B: left out 2.png" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"0.png: .*prepare_dataset.py combine makes strips of"):
        load_image(tmp_path / "A/0.png")


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ("--target A", "either --ref1"),
        ("--target A --ref1 B --references B C D", "either --ref1"),
        ("--target A --references B C", "expected three or more"),
    ],
)
def test_references_are_given_in_one_way(flags, complaint, capsys):
    with pytest.raises(SystemExit, match="2"):
        combine(*flags.split(), "--output", "nowhere")
    assert complaint in capsys.readouterr().err


def test_many_references_are_registered_to_target_and_averaged_in_two_groups(tmp_path):
    generator = np.random.default_rng(1)
    texture = cv2.GaussianBlur(generator.normal(0, 1, (SIZE[0] + 8, SIZE[1] + 8)), (0, 0), 2)
    texture = 2048 + 400 * texture / texture.std()
    shifts = [(0, 0), (0.6, -1.2), (-1.4, 0.3), (1.1, 0.9)]
    for name, (down, across) in zip("TABC", shifts):
        matrix = np.float32([[1, 0, across - 4], [0, 1, down - 4]])
        moved = cv2.warpAffine(texture, matrix, SIZE[::-1], flags=cv2.INTER_CUBIC)
        noisy = moved * (1 if name == "T" else 0.9) + generator.normal(0, 80, SIZE)
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), np.clip(noisy, 0, 4095).astype(np.uint16))
    flags = ["--target", tmp_path / "T", "--output", tmp_path / "strips", "--input_max", 4095]
    combine(*flags, "--align", "full", "--references", *(tmp_path / name for name in "ABC"))
    stored = tifffile.imread(tmp_path / "strips/0.tiff")
    assert stored.shape == (3, *SIZE) and stored.dtype == np.float32
    truth = texture[4:-4, 4:-4]
    residual = [(plane - truth)[10:-10, 10:-10].std() for plane in stored]
    # two references are averaged in Ref1 and one is left as it is, all moved by an interpolation
    assert abs(residual[TARGET] - 80) < 4
    assert residual[1] < 0.85 * residual[2] and residual[2] < 100
    with pytest.raises(UserError, match=r"0.png: found values up to \d+, expected at most 255"):
        combine(*flags[:3], tmp_path / "dark", "--references", *(tmp_path / n for n in "ABC"))


FLAGS = ("--training_dataset_path", "strips", "--recipe", "robust", "--recipe_settings")


def amounts_file(folder: Path, text: str) -> str:
    (folder / "amounts.yaml").write_text(text)
    return str(folder / "amounts.yaml")


def test_amounts_from_a_file_replace_the_recipes(tmp_path):
    text = "contrast: [20, 30]  # grey levels\nleak_share: 0\nstripe_count: [2, 4]\n"
    settings = parse_training([*FLAGS, amounts_file(tmp_path, text)]).recipe_settings
    assert settings == settings_of_recipe("robust") | {
        "contrast": [20.0, 30.0],
        "leak_share": 0.0,
        "stripe_count": [2, 4],
    }
    recipe = make_recipe("robust", (4, 10), settings)
    assert recipe.points.contrast == (20.0, 30.0) and recipe.nuisances.stripe_count == (2, 4)
    usual = make_recipe("robust", (4, 10), settings_of_recipe("robust"))
    assert usual == RobustRecipe((4, 10))


@pytest.mark.parametrize(
    "text, complaint",
    [
        (
            "contrasts: [5, 9]",
            "found no amount 'contrasts' in --recipe robust: did you mean contra",
        ),
        ("qqq: 1", "'qqq' in --recipe robust: expected one of shift, wobble_share"),
        ("contrast: 5", "contrast 5, expected two numbers, the smaller one first, from 0.1 to 255"),
        ("contrast: [9, 5]", r"contrast \[9, 5\], expected two numbers"),
        ("leak_share: 1.5", "leak_share 1.5, expected a number from 0 to 1"),
        ("leak_share: yes", "leak_share True, expected a number"),
        ("jitter: .nan", "jitter nan, expected a number from 0 to 5"),
        ("stripe_count: [1, 2.5]", "expected two whole numbers"),
        ("sigma: [1, 9]", "sigma up to 9 and large_sigma up to 5"),
        ("jitter: 9\nleak_share: -1", "leak_share -1, expected .* to 1; found jitter 9, expected"),
        ("contrasts: 1\nqqq: 1", "'contrasts' in .* mean contrast.; found no amount 'qqq'"),
        ("leak_share: a lot", "leak_share 'a lot', expected a number from 0 to 1"),
        ("- 1\n- 2", r"found \[1, 2\], expected lines of names"),
        ("contrast: [5", "no readable YAML file"),
        ("gain: 0.1\ngain: 0.2", "no readable YAML file .gain comes 2 times."),
        ("a: !!python/object/apply:os.system [ls]", "no readable YAML file"),
    ],
)
def test_wrong_amounts_are_one_line(tmp_path, text, complaint):
    with pytest.raises(UserError, match=rf"amounts.yaml: .*{complaint}") as error:
        parse_training([*FLAGS, amounts_file(tmp_path, text)])
    assert "\n" not in str(error.value)


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    path = amounts_file(tmp_path, "contrast: [1e1, 2e1]\nleak_share: 1e-1")
    settings = parse_training([*FLAGS, path]).recipe_settings
    assert settings["contrast"] == [10.0, 20.0] and settings["leak_share"] == 0.1


def test_every_amount_has_limits_and_the_usual_value_is_within():
    usual = settings_of_recipe("robust")
    assert set(LIMITS) == set(usual) and check_amounts(usual) == usual


def test_the_classic_recipe_takes_no_amounts(tmp_path):
    path = amounts_file(tmp_path, "contrast: [5, 9]")
    with pytest.raises(UserError, match="found --recipe classic, whose amounts are fixed"):
        parse_training(
            [
                *("--training_dataset_path", "strips", "--recipe", "classic"),
                *("--recipe_settings", path),
            ]
        )


def test_a_named_run_keeps_its_amounts_and_finds_png_strips_by_looking(tmp_path, dataset):
    good = tmp_path / "train" / "good"
    good.mkdir(parents=True)
    for path in sorted((dataset / "train" / "good").iterdir())[:3]:
        pixels = np.rint(np.moveaxis(load_image(path), 0, 2)).astype(np.uint8)
        cv2.imwrite(str(good / f"{path.stem}.png"), pixels)
    runs = tmp_path / "runs"
    amounts = amounts_file(tmp_path, "contrast: [60, 61]\nlarge_share: 0\nnoise_share: 0")
    flags = ["--recipe", "robust", "--recipe_settings", amounts, "--name", "line_3.b"]
    best = train(parse_training(arguments_for(tmp_path, runs, *flags, "--epochs", 1)))
    assert best == runs / "line_3.b_best.pth"
    content = load_checkpoint(runs / "line_3.b.pth")
    assert content["recipe_settings"]["contrast"] == [60.0, 61.0] and content["name"] == "line_3.b"
    other = amounts_file(tmp_path, "contrast: [60, 62]\nlarge_share: 0\nnoise_share: 0")
    resumed = ["--resume", str(runs), "--epochs", "2", "--gpu_id", "-1"]
    with pytest.raises(UserError, match=r"whose contrast is \[60.0, 61.0\], expected \[60.0, 62"):
        train(parse_training([*resumed, "--recipe_settings", other]))
    with pytest.raises(UserError, match=r"found no other.pth"):
        train(parse_training([*resumed, "--name", "other"]))
    assert train(parse_training(resumed)) == best
    assert len(load_checkpoint(runs / "line_3.b.pth")["history"]) == 2


def test_strips_that_are_set_aside_are_painted_with_the_runs_amounts(dataset):
    amounts = {"contrast": (90.0, 91.0), "large_share": 0.0, "noise_share": 0.0, "jitter": 0.0}
    amounts |= {"leak_share": 0.0, "flat_share": 0.0}
    strips = list_strips(dataset / "train" / "good")
    _, (good, painted) = set_aside(strips, "robust", point_settings(amounts))
    (before, _), (after, mask) = (read_strip(strip, 255) for strip in (good, painted))
    change = np.abs(after - before)[TARGET][mask]
    assert mask.any() and 60 < change.max() <= 91.5


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "", "x_best", "é", "n" * 101])
def test_names_that_are_no_file_names_are_refused(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_training(["--training_dataset_path", "strips", "--name", name])
    assert "--name: found" in capsys.readouterr().err


SPOTS = ((60, 40), (110, 120))  # (y, x)


def write_strip_with_spots(path: Path, spots: tuple[tuple[int, int], ...], contrast: float) -> None:
    generator = np.random.default_rng(len(path.name) + len(spots))
    strip = 90 + generator.normal(0, 1, (3, *SIZE))
    for y, x in spots:
        strip[TARGET, y - 1 : y + 2, x - 1 : x + 2] += contrast
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, strip.astype(np.float32), photometric="minisblack")


@pytest.mark.parametrize(
    "table, rows",
    [
        ("test/points.csv", "file,y,x\nbright/0.tif,60,40\nbright/0.tif,110,120\n"),
        ("test/bright/points.csv", "File, Y ,X\n0,60.0,40\n0,110,120\n"),
        ("ground_truth/bright/points.csv", "x,file,y\n40,0.TIF,60\n120,0.tif,110\n"),
        ("masks/Points.csv", "file,y,x\nbright\\0.tif,60,40\n\n0.tif,110,120\n"),
        (
            "gt/points.csv",
            "file,y,x,target,ref1,ref2\n0,60,40,1,0,0\n0,9,9,1,1,0\n0,8,8,0,0,1\n0,110,120,1,0,0\n",
        ),
    ],
)
def test_true_points_come_from_a_table_wherever_masks_are_taken(tmp_path, table, rows):
    for kind in ("bright", "good"):
        write_strip_with_spots(tmp_path / "test" / kind / "0.tif", SPOTS, 50)
    (tmp_path / table).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / table).write_text(rows)
    bright, good = list_strips(tmp_path / "test")
    assert bright.points == SPOTS and good.points is None
    assert list_strips(tmp_path / "test", use_masks=False)[0].points is None
    assert truth_without_strip(tmp_path / "test") == []


def test_true_points_come_from_names(tmp_path):
    for name in ("part#40,60#120,110.tif", "part#1.5,2.tif", "part#1.tif", "a#b.tif"):
        write_strip_with_spots(tmp_path / name, (), 0)
    points = {strip.path.name: strip.points for strip in list_strips(tmp_path)}
    assert points["part#40,60#120,110.tif"] == SPOTS and points["part#1.5,2.tif"] == ((2.0, 1.5),)
    assert points["part#1.tif"] is points["a#b.tif"] is None


def test_wrong_tables_of_points_are_errors_and_unused_rows_are_named(tmp_path):
    write_strip_with_spots(tmp_path / "test/bright/0.tif", SPOTS, 50)
    table = tmp_path / "test/points.csv"
    for text, complaint in (
        ("name,y,x\n", "expected file, y and x"),
        ("file,y,x\n0.tif,60,\n", "line 2: found '0.tif, 60, ', expected a file, and y and x"),
        ("file,y,x\n0.tif,60,nan\n", "line 2: "),
        ("file,y,x\n0.tif,-1,5\n", "line 2: "),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=rf"points.csv: .*{complaint}"):
            list_strips(tmp_path / "test")
    table.write_text("file,y,x\nbright/0.tif,130,5\nbright/7.tif,1,5\n")
    strips = list_strips(tmp_path / "test")
    assert truth_without_strip(tmp_path / "test") == [
        f"{table}: found points of bright/7.tif, expected the name of a strip"
    ]
    problem = verify_strips(strips, 255).problems[0]
    assert problem.endswith(
        "bright/0.tif: found a true point at y 130, x 5, expected one inside (130, 140) "
        "(height, width)"
    )


def test_recall_at_k_counts_the_places_of_all_detections_and_ties_do_not_help():
    truths = (TrueDefect((0, 0)), TrueDefect((9, 9)))
    metrics = RankMetrics()
    scores = np.arange(40.0, 0, -1)
    outcome = MatchResult(scores, np.where(scores == 35, 0, np.where(scores == 12, 1, -1)), truths)
    metrics.update(scores, outcome)
    assert [entry.found for entry in metrics.compute()] == [2, 2, 2, 2]
    metrics.update(np.full(29, 35.0), None)  # as strong as the defect, on a strip of unknown truth
    assert [entry.found for entry in metrics.compute()] == [0, 1, 2, 2]
    merged = RankMetrics()
    merged.merge([metrics, metrics])
    assert [(entry.k, entry.found, entry.truths) for entry in merged.compute()] == [
        (30, 0, 4),
        (50, 0, 4),
        (150, 4, 4),
        (500, 4, 4),
    ]


def test_known_points_and_candidates_of_a_folder_and_of_one_strip(tmp_path, capsys):
    folder, output = tmp_path / "strips", tmp_path / "out"
    write_strip_with_spots(folder / "a#40,60#120,110.tif", SPOTS, 60)
    write_strip_with_spots(folder / "b#40,60#120,110.tif", SPOTS, 9)
    write_strip_with_spots(folder / "c.tif", (), 0)
    flags = ["--method", "smoothed", "--threshold", "0.1", "--gpu_id", "-1", "--candidates", "4"]
    flags += ["--test_path", str(folder), "--output_dir", str(output)]
    assert infer(parse_inference(flags)) == 0
    printed = capsys.readouterr().out
    assert (
        "known points among the 30, 50, 150, 500 strongest detections: 4, 4, 4, 4 of 4" in printed
    )
    assert "above the threshold: 0.5000 of the true points found" in printed
    assert "pixel average precision   not defined" in printed
    summary = json.loads((output / "metrics.json").read_text())
    assert summary["recall_at_k"][0] == {"k": 30, "found": 4, "truths": 4, "recall": 1.0}
    with (output / "candidates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == [str(rank) for rank in (1, 2, 3, 4)] * 3
    by_file = {
        name: [(int(row["y"]), int(row["x"]), row["status"]) for row in rows if row["file"] == name]
        for name in ("b#40,60#120,110.tif", "c.tif")
    }
    found = {entry for entry in by_file["b#40,60#120,110.tif"] if entry[2] == "hit"}
    assert {entry[:2] for entry in found} == set(SPOTS)
    assert {status for _, _, status in by_file["c.tif"]} == {""}
    assert {row["above_threshold"] for row in rows if row["file"][0] == "b"} == {"0"}
    report = (output / "report.html").read_text()
    assert "Known points among the strongest detections" in report
    flags[flags.index(str(folder))] = str(folder / "b#40,60#120,110.tif")
    flags[flags.index(str(output))] = str(tmp_path / "one")
    assert infer(parse_inference(flags)) == 0
    assert "1 of 1 strips scored" in capsys.readouterr().out
    assert (tmp_path / "one" / "b#40,60#120,110_heatmap.tiff").is_file()
