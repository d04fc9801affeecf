import csv

import cv2
import numpy as np
import pytest
import tifffile

import prepare_dataset
from common.errors import UserError
from data import demo_strips
from data.demo_strips import OVERSAMPLING, PATTERN_MARGIN, render_channel
from data.folder import list_strips
from data.image_files import load_image
from data.masks import load_mask
from gaussian import AMPLITUDES, Defect, paint
from prepare_dataset import parse_args, prepare
from tests.conftest import run


def build(*arguments):
    prepare(parse_args([str(argument) for argument in arguments]))


def read_points(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def contents(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def few_demo_strips(monkeypatch):
    monkeypatch.setattr(
        prepare_dataset, "DEMO_COUNTS", {"train": (2, 0), "valid": (1, 2), "test": (1, 2)}
    )


def test_demo_strips_are_whole_and_the_same_for_the_same_seed(tmp_path, few_demo_strips):
    build("demo", "--output", tmp_path / "one")
    build("demo", "--output", tmp_path / "two")
    build("demo", "--output", tmp_path / "other", "--seed", 7)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two and one.keys() == other.keys() and one != other
    files = {path.as_posix() for path in one}
    assert {
        "train/good/strip_001.tiff",
        "valid/bright_spots/strip_001.tiff",
        "test/good/strip_000.tiff",
    } < files
    assert {
        "ground_truth_valid/bright_spots/strip_000_mask.png",
        "ground_truth/bright_spots/points.csv",
    } < files
    strips = {name: load_image(tmp_path / "one" / name) for name in files if name.endswith(".tiff")}
    assert {strip.shape for strip in strips.values()} == {(3, 976, 176)}
    assert len({strip.tobytes() for strip in strips.values()}) == len(strips)
    assert min(strip.std(axis=(1, 2)).min() for strip in strips.values()) > 8  # never flat


def test_demo_masks_and_points_tell_the_same_defects(tmp_path, few_demo_strips):
    build("demo", "--output", tmp_path / "demo")
    strips = [strip for strip in list_strips(tmp_path / "demo" / "test") if strip.is_defective]
    points = read_points(tmp_path / "demo" / "ground_truth" / "bright_spots" / "points.csv")
    for strip in strips:
        of_strip = [point for point in points if point["file"] == strip.path.name]
        assert 4 <= len(of_strip) <= 10 and {
            float(point["amplitude"]) for point in of_strip
        } <= set(AMPLITUDES)
        expected = np.zeros((976, 176), np.float32)
        for point in of_strip:
            assert point["target"] == "1"
            if (point["ref1"], point["ref2"]) == ("0", "0"):
                size, sigma = (
                    tuple(float(point[name]) for name in names)
                    for names in (("height", "width"), ("sigma_y", "sigma_x"))
                )
                paint(
                    expected,
                    Defect((int(point["y"]), int(point["x"])), tuple(map(int, size)), sigma, 100.0),
                )
        mask = load_mask(strip.mask, (976, 176))
        assert mask.any() and np.array_equal(mask, expected > 10)


def test_a_shot_has_the_gain_offset_illumination_and_noise_that_are_promised():
    size = (300, 100)
    pattern = np.full(
        [(length + 2 * PATTERN_MARGIN) * OVERSAMPLING for length in size], 100, np.float32
    )
    shots = [
        render_channel(pattern, np.random.default_rng(seed), size, (0.0, 0.0))
        for seed in range(200)
    ]
    # a second difference knows no slope
    noise = [np.diff(shot, n=2, axis=1).std() / np.sqrt(6) for shot in shots]
    assert 1.4 < min(noise) < 1.7 and 2.8 < max(noise) < 3.1
    means = [shot.mean() for shot in shots]  # gain 92-108, offset 6, a wave's mean of up to 2.5
    assert 83 < min(means) < 91 and 109 < max(means) < 117
    slow = [np.ptp(cv2.GaussianBlur(shot, (0, 0), 8)) for shot in shots]
    assert 6 < np.median(slow) < 12 and max(slow) < 16


def test_a_shot_is_moved_by_its_shift():
    size = (60, 50)
    y, x = (
        np.indices([(length + 2 * PATTERN_MARGIN) * OVERSAMPLING for length in size], np.float32)
        / OVERSAMPLING
    )
    for axis, ramp in enumerate((y, x)):
        shift = [0.0, 0.0]
        shift[axis] = 0.4
        moved, still = (
            render_channel(2 * ramp, np.random.default_rng(1), size, by).mean()
            for by in (shift, (0.0, 0.0))
        )
        assert 0.7 < still - moved < 0.9  # 0.4 px of a slope of 2 grey levels, times the gain


def test_references_are_shifted_against_the_target(monkeypatch):
    shifts = []
    monkeypatch.setattr(
        demo_strips,
        "render_channel",
        lambda pattern, generator, size, shift: shifts.append(shift) or np.zeros(size),
    )
    for seed in range(40):
        demo_strips.make_strip(np.random.default_rng(seed), (150, 140))
    assert all(tuple(shift) == (0.0, 0.0) for shift in shifts[::3])
    amounts = np.abs([shift for number, shift in enumerate(shifts) if number % 3])
    assert amounts.max() <= 0.4 and (amounts.max(axis=0) > 0.35).all()


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path, few_demo_strips):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        build("demo", "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_build_leaves_nothing(tmp_path, few_demo_strips, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_dataset, "write_points", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build("demo", "--output", tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixel_type, input_max",
    [(np.float32, 255), (np.float32, 1), (np.float64, 255), (np.uint8, 255), (np.uint16, 4095)],
)
def test_a_test_set_keeps_good_strips_and_their_pixel_type(
    tmp_path, strip_file, pixel_type, input_max
):
    pixels = (
        np.random.default_rng(0)
        .uniform(0.3 * input_max, 0.7 * input_max, (2, 3, 150, 140))
        .astype(pixel_type)
    )
    for number, strip in enumerate(pixels):
        strip_file(strip, f"source/{number}.tiff")
    build(
        "testset",
        "--source",
        tmp_path / "source",
        "--output",
        tmp_path / "set",
        "--input_max",
        input_max,
    )
    strips = list_strips(tmp_path / "set" / "test")
    names = [strip.relative.as_posix() for strip in strips]
    assert names == ["bright_spots/0.tiff", "bright_spots/1.tiff", "good/0.tiff", "good/1.tiff"]
    for number, strip in enumerate(strips[2:]):
        assert strip.path.read_bytes() == (tmp_path / "source" / f"{number}.tiff").read_bytes()
        painted = load_image(strips[number].path, input_max)
        good = load_image(strip.path, input_max)
        mask = load_mask(strips[number].mask, good.shape[1:])
        assert mask.any() and (np.abs(painted[0] - good[0])[mask] > 5).all()
        assert prepare_dataset.open_channels(strips[number].path).dtype == pixel_type
    points = read_points(tmp_path / "set" / "ground_truth" / "bright_spots" / "points.csv")
    assert {point["file"] for point in points} == {"0.tiff", "1.tiff"}


@pytest.fixture
def deeppcb(tmp_path):
    """Three groups of six boards in DeepPCB's layout."""
    generator = np.random.default_rng(0)
    for group in ("00041", "12000", "20085"):
        boards = tmp_path / "PCBData" / f"group{group}"
        (boards / group).mkdir(parents=True)
        (boards / f"{group}_not").mkdir()
        for number in range(6):
            name = f"{group}{number:03}"
            template = (
                ((generator.random((40, 40)) > 0.5) * 255)
                .astype(np.uint8)
                .repeat(4, 0)
                .repeat(4, 1)
            )
            board = template.copy()
            board[20:28, 40:52] = 255 - board[20:28, 40:52]
            cv2.imwrite(str(boards / group / f"{name}_temp.jpg"), template)
            cv2.imwrite(str(boards / group / f"{name}_test.jpg"), board)
            (boards / f"{group}_not" / f"{name}.txt").write_text("40 20 52 28 3\n")
    return tmp_path / "PCBData"


def test_deeppcb_keeps_whole_groups_for_the_test(tmp_path, deeppcb):
    build("deeppcb", "--source", deeppcb, "--output", tmp_path / "set")
    names = {
        split: {path.stem for path in (tmp_path / "set" / split).rglob("*.png")}
        for split in ("train", "valid", "test")
    }
    groups = {split: {name[:5] for name in found} for split, found in names.items()}
    assert len(groups["test"]) == 1 and not groups["test"] & (groups["train"] | groups["valid"])
    assert (
        not names["train"] & names["valid"]
        and len(names["train"] | names["valid"] | names["test"]) == 18
    )
    strips = [strip for strip in list_strips(tmp_path / "set" / "test") if strip.is_defective]
    image, mask = load_image(strips[0].path), load_mask(strips[0].mask, (160, 160))
    assert np.argwhere(mask).min(0).tolist() == [20, 40] and np.argwhere(mask).max(0).tolist() == [
        27,
        51,
    ]
    assert np.array_equal(image[1], image[2]) and np.abs(image[0] - image[1])[mask].mean() > 150
    assert np.abs(image[0] - image[1])[~mask].mean() < 10


def test_mvtec_strips_lie_side_by_side_with_a_zero_mask_channel(tmp_path):
    picture = np.random.default_rng(0).integers(60, 200, (1024, 1024), dtype=np.uint8)
    for split in ("train", "test"):
        (tmp_path / "grid" / split / "good").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "grid" / split / "good" / "000.png"), picture)
    build("mvtec", "--source", tmp_path / "grid", "--output", tmp_path / "set")
    for crop in range(5):
        stored = tifffile.imread(tmp_path / "set" / "train" / "good" / f"000_{crop}.tiff")
        assert stored.shape == (4, 976, 176) and stored.dtype == np.float32 and not stored[3].any()
        for channel in stored[:3]:
            assert np.array_equal(channel, picture[:976, crop * 176 : (crop + 1) * 176])
    assert sum(strip.mask is not None for strip in list_strips(tmp_path / "set" / "test")) == 5


def test_mvtec_images_of_one_name_are_refused(tmp_path):
    for folder, suffix in (("train", ".png"), ("train", ".jpg"), ("test", ".png")):
        (tmp_path / "grid" / folder / "good").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(tmp_path / "grid" / folder / "good" / f"000{suffix}"),
            np.full((1024, 1024), 90, np.uint8),
        )
    with pytest.raises(UserError, match="two images of one name"):
        build("mvtec", "--source", tmp_path / "grid", "--output", tmp_path / "set")
    (tmp_path / "grid" / "train" / "good" / "000.jpg").write_bytes(b"")
    (tmp_path / "grid" / "train" / "good" / "000.png").unlink()
    with pytest.raises(UserError, match=r"000\.jpg: found no readable image"):
        build("mvtec", "--source", tmp_path / "grid", "--output", tmp_path / "set")


def test_boards_and_templates_must_be_of_one_size(tmp_path, deeppcb):
    for path in deeppcb.glob("*/*/*_test.jpg"):
        cv2.imwrite(str(path), np.zeros((100, 160), np.uint8))
    with pytest.raises(UserError, match=r"_test\.jpg: found \(100, 160\).* expected \(160, 160\)"):
        build("deeppcb", "--source", deeppcb, "--output", tmp_path / "set")


def test_the_next_command_fits_the_files(tmp_path, deeppcb):
    flags = ("--source", deeppcb, "--output", tmp_path / "set")
    done = run("prepare_dataset.py", "deeppcb", *flags, genuine=True)
    assert done.stdout.endswith(
        f"next: bash train.sh --training_dataset_path '{tmp_path}/set/train/good'\n"
    )


def test_an_empty_folder_may_be_the_output(tmp_path, few_demo_strips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("demo", "--output", ".")
    assert (tmp_path / "train" / "good" / "strip_000.tiff").is_file()


@pytest.mark.parametrize(
    "command, complaint",
    [
        ("testset", "no such path"),
        ("deeppcb", "expected the PCBData folder"),
        ("mvtec", "no such path"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(tmp_path, command, complaint):
    done = run(
        "prepare_dataset.py",
        command,
        "--source",
        tmp_path / "nowhere",
        "--output",
        tmp_path / "set",
    )
    assert done.returncode == 1 and complaint in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_source_are_refused_by_name(tmp_path, deeppcb):
    boxes = next(deeppcb.glob("*/*_not/*.txt"))
    for text in ("one two three four", "1 2 3"):
        for path in deeppcb.glob("*/*_not/*.txt"):
            path.write_text(text)
        with pytest.raises(UserError, match="no readable boxes"):
            build("deeppcb", "--source", deeppcb, "--output", tmp_path / "set")
    assert boxes.exists() and not (tmp_path / "set").exists()
