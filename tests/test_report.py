"""The report as a person sees it: real evaluations, looked at in a real browser."""

import os
import re
import shutil
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, sync_playwright

from classifier.calibration import Calibration
from classifier.defect_data import LabelledPicture
from classifier.folder_images import FolderImage
from classifier.prediction_figures import summarize
from classifier.prediction_pictures import embedded
from classifier.prediction_report import write_prediction_report
from classifier.predictions import ImagePrediction, Limits
from common.errors import UserError
from common.numbers import three_digits
from data.demo_strips import make_strip
from data.folder import list_strips
from data.write_images import write_strip
from evaluation.evaluate import evaluate
from evaluation.metrics import FALSE_ALARM_RATES
from evaluation.operating_points import (
    fitting_threshold,
    threshold_contradiction,
    threshold_doubts,
)
from evaluation.predictors import DetectorPredictor
from evaluation.results import Evaluation, Rules
from evaluation.thresholds import Threshold, calibrate, threshold_for
from evaluation.worst_cases import CROP_REACH, PICTURES
from ops.classical import DoubleDetection, ToleranceEnvelope
from reporting.case_figures import ENLARGEMENT
from reporting.charts import RIGHT, WIDTH, froc_chart, recall_at, score_histograms
from reporting.html_report import MOST_ROWS, write_report
from reporting.pictures import StripWriter
from tests.conftest import SMALL_SIZE

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
THRESHOLD = Threshold(0.1, "--threshold")
DETECTOR, BASELINE = (
    DetectorPredictor(module, torch.device("cpu"))
    for module in (ToleranceEnvelope(1.0), DoubleDetection())
)
HOSTILE = (
    "\"quoted\" & 'single'.tiff",
    "<img src=x onerror=alert(1)>.tiff",
    "100% #1 ?a=b %20 ;&amp; ${verdict} $$ {{ 7 * 7 }} {% if %}.tiff",
    "javascript:alert(1).tiff",
    "條 帶\t\n\x1b[31m.tiff",
    os.fsdecode(b"no text \xff\xfe.tiff"),
    f"{'long' * 50}.tiff",
)


@dataclass
class Look:
    """A page in the browser, and what went wrong in it."""

    page: Page
    complaints: list[str]

    def rows(self, column: int) -> list[str]:
        """The shown cells of a column of the table of strips."""
        script = (
            "([table, column]) => [...table.tBodies[0].rows]"
            ".filter(row => !row.hidden).map(row => row.cells[column].textContent)"
        )
        return self.page.evaluate(
            f"column => ({script})([document.getElementById('strips'), column])", column
        )

    def text(self) -> str:
        return self.page.inner_text("body")

    def sort(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("found no chromium on the PATH (Debian: apt-get install chromium)")
    assert CHROMIUM, "found no chromium on the PATH, expected one where CI is set"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)


@pytest.fixture
def look_at(browser):
    """Opens a report from disk; at the end nothing may have been asked of the network, blocked,
    logged or shown in a dialog.
    """

    @contextmanager
    def look(path: Path, width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        complaints = []
        requests = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        ), "wider than the window"
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert all(width > 0 for width in widths)
        yield Look(page, complaints)
        page.close()
        assert complaints == [] and [url for url in requests if not url.startswith("data:")] == [
            path.as_uri()
        ]

    return look


@pytest.fixture(scope="module")
def scored(dataset, tmp_path_factory) -> tuple[Evaluation, Path]:
    """A small test set with baselines, scored and drawn."""
    folder = tmp_path_factory.mktemp("scored")
    baselines = {"double detection": BASELINE, "itself & <b>again</b>": DETECTOR}
    result = evaluate(
        DETECTOR,
        list_strips(dataset / "test"),
        on_strip=StripWriter(folder),
        rules=Rules(THRESHOLD, patch=128),
        baselines=baselines,
    )
    return result, folder


def report_of(result: Evaluation, folder: Path, **changes: object) -> Path:
    arguments = {
        "threshold": THRESHOLD,
        "drift": [],
        "subject": {"model": "model_best.pth"},
        "settings": {"min_area": 1},
    }
    write_report(folder / "report.html", result, **(arguments | changes))
    return folder / "report.html"


def many(result: Evaluation, count: int) -> Evaluation:
    """As if that many strips had been scored."""
    generator = np.random.default_rng(0)
    results = []
    for number in range(count):
        one = result.results[number % len(result.results)]
        name = Path(one.strip.kind) / f"strip_{number}.tiff"
        results.append(
            replace(one, strip=replace(one.strip, relative=name), score=float(generator.random()))
        )
    return replace(result, results=results)


@pytest.mark.parametrize("width", [1280, 800, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_there_and_in_order(scored, look_at, width, scheme):
    result, folder = scored
    path = report_of(
        result,
        folder,
        drift=["target_mean: too <dark>"],
        subject={"model": "a&b.pth", "strips": "/data/" + "s" * 300, "scored": "2024-02-29"},
        settings={"a" * 300: "b" * 3000},
    )
    with look_at(path, width, scheme) as seen:
        assert seen.page.locator("h2").all_inner_texts() == [
            "Unlike the training strips (1)",
            "Verdicts and truth",
            "Figures",
            "Beside simpler detectors",
            "Known points among the strongest detections",
            "Recall against false alarms",
            "Scores and threshold",
            "Worst misses",
            "Worst false alarms",
            "Found defects",
            "Strips",
            "Settings",
            "What cannot be seen",
        ]
        text = seen.text()
        rejected = sum(scored.verdict == "NG" for scored in result.results)
        assert f"4 strips: {rejected} NG, {4 - rejected} OK" in text
        names, values = (
            seen.page.locator(f".subject {tag}").all_inner_texts() for tag in ("dt", "dd")
        )
        assert names == ["model", "strips", "scored", "threshold"]
        assert values[2:] == ["2024-02-29", THRESHOLD.describe().split(" ", 1)[1]]
        assert (
            "target_mean: too <dark>" in text
            and "itself & <b>again</b>" in text
            and "a&b.pth" in text
        )
        files = seen.page.locator("#strips td:first-child")
        assert files.first.bounding_box()["width"] > 150, "names of files one letter a line"
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")


def test_the_figures_are_the_evaluation_s(scored, look_at):
    result, folder = scored
    with look_at(report_of(result, folder)) as seen:
        tiles = dict(
            zip(
                seen.page.locator(".tiles dt").all_inner_texts(),
                seen.page.locator(".tiles dd").all_inner_texts(),
            )
        )
        figures = {
            "recall at the threshold": result.at_threshold()["recall"],
            "image AUROC": result.figures["image_auroc"],
        }
        figures |= {
            "pixel AUPRO 0.05": result.figures["pixel_aupro_0.05"],
            "pixel AUROC": result.figures["pixel_auroc"],
        }
        assert len(tiles) == 8 and {name: tiles[name] for name in figures} == {
            name: three_digits(value) for name, value in figures.items()
        }
        recalls, comparison = (seen.page.locator(".wide table").nth(number) for number in range(2))
        for row, group in zip(
            recalls.locator("tbody tr").all_inner_texts(),
            result.metrics.points.table(),
            strict=True,
        ):
            assert row.startswith(f"{group['group']}\t{group['truths']}\t")
            for value, low, high in group["recall"].values():
                value, low, high = map(three_digits, (value, low, high))
                assert f"{value} {low} to {high}" in row
        boards = {"this detector": result.metrics, **result.baselines}
        for row, (name, board) in zip(
            comparison.locator("tbody tr").all_inner_texts(), boards.items(), strict=True
        ):
            names = [
                *(f"point_recall_at_{rate:g}" for rate in FALSE_ALARM_RATES),
                "pixel_average_precision",
                "image_auroc",
            ]
            assert row.split("\t") == [
                name,
                *(three_digits(board.compute()[figure]) for figure in names),
            ]
        assert (
            seen.page.locator("path.curve").count() == 2 * 3
            and seen.page.locator("circle.mark").count() == 3 * 3
        )


def test_mistakes_are_shown_with_links_to_their_panels(dataset, tmp_path, look_at):
    rules = Rules(Threshold(0.9, "--threshold"))
    missing = evaluate(
        DETECTOR, list_strips(dataset / "test"), on_strip=StripWriter(tmp_path), rules=rules
    )
    alarming = evaluate(
        BASELINE, list_strips(dataset / "test"), rules=Rules(Threshold(0.01, "--threshold"))
    )
    assert (
        0 < len(missing.worst_cases.misses) < PICTURES
        and len(alarming.worst_cases.false_alarms) == PICTURES
    )
    missing.worst_cases.false_alarms = alarming.worst_cases.false_alarms
    with look_at(report_of(missing, tmp_path, threshold=rules.threshold)) as seen:
        pictures, side = seen.page.locator("figure img"), ENLARGEMENT * (2 * CROP_REACH + 1)
        cases = missing.worst_cases
        assert pictures.count() == len(cases.misses) + PICTURES + len(cases.hits)
        sizes = seen.page.evaluate(
            "[...document.images]"
            ".map(image => [image.naturalHeight, Math.floor(image.naturalWidth / 4)])"
        )
        assert all(height == side and side <= width <= side + 10 for height, width in sizes)
        worst = missing.worst_cases.misses[0]
        caption = "{} at y {}, x {}: {}".format(worst.file, *worst.place, worst.caption)
        assert seen.page.locator("figcaption").first.inner_text() == caption
        assert len(files_linked(seen)) == pictures.count() + 4 and all(
            path.is_file() for path in files_linked(seen)
        )


def files_linked(seen: Look) -> list[Path]:
    links = seen.page.evaluate("[...document.links].map(link => link.href)")
    return [
        Path(os.fsdecode(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(link).path)))
        for link in links
    ]


def test_sorting_and_filtering(scored, tmp_path, look_at):
    result = many(scored[0], 30)
    result.results[3].score = 5e-5
    result.results[4].score = 4e-5  # printed alike
    with look_at(report_of(result, tmp_path)) as seen:
        names = [scored.strip.relative.as_posix() for scored in result.results]
        assert seen.rows(0) == names
        seen.sort("file")
        assert seen.rows(0) == sorted(
            names,
            key=lambda name: (name.split("/")[0], int(name.split("_")[-1].removesuffix(".tiff"))),
        )
        by_score = [
            scored.strip.relative.as_posix()
            for scored in sorted(result.results, key=lambda scored: -scored.score)
        ]
        seen.sort("score")
        assert seen.rows(0) == by_score and seen.page.locator("[aria-sort]").all_inner_texts() == [
            "score"
        ]
        seen.sort("score")
        assert seen.rows(0) == by_score[::-1]
        for direction in (-1, 1):  # strips without a detection come last either way
            seen.sort("y")
            numbers = [int(cell) for cell in seen.rows(6) if cell.isdigit()]
            assert 0 < len(numbers) < 30 and numbers == sorted(
                numbers, key=lambda number: direction * number
            )
            assert not any(cell.isdigit() for cell in seen.rows(6)[len(numbers) :])
        seen.page.fill("#filter", "GOOD strip_2")
        wanted = [
            scored
            for scored in result.results
            if scored.strip.kind == "good" and "strip_2" in scored.strip.relative.name
        ]
        assert (
            0 < len(wanted) < 30
            and len(seen.rows(0)) == len(wanted)
            and set(seen.rows(1)) == {"good"}
        )
        assert seen.page.inner_text("#shown") == f"{len(wanted)} of 30 strips"
        seen.page.fill("#filter", "")
        seen.page.select_option("#verdict", "NG")
        assert set(seen.rows(2)) == {"NG"} and len(seen.rows(2)) == sum(
            scored.verdict == "NG" for scored in result.results
        )
        seen.page.fill("#filter", "nothing of that name")
        assert seen.rows(0) == []


def test_hostile_names(tmp_path, look_at):
    image = make_strip(np.random.default_rng(0), SMALL_SIZE)
    for name in HOSTILE:
        write_strip(tmp_path / "strips" / "<i>kind</i>".replace("/", "") / name, image)
    result = evaluate(
        BASELINE,
        list_strips(tmp_path / "strips"),
        on_strip=StripWriter(tmp_path / "out"),
        rules=Rules(THRESHOLD),
    )
    assert len(result.results) == len(HOSTILE) and not result.problems
    far_too_long = replace(
        result.results[0].strip, relative=Path("k" * 300, "n" * 4000 + ".tiff"), kind="k" * 300
    )
    result.results.append(replace(result.results[0], strip=far_too_long))
    result.problems = ["<script>alert(1)</script>" + os.fsdecode(b"\xff"), "p" * 3000]
    settings = {
        '</script><script>alert("a")</script>': "\ud800$x${y}{{ x }}{% y %}",
        "s" * 400: "t" * 4000,
    }
    for width in (1280, 800, 390):
        with look_at(
            report_of(result, tmp_path / "out", drift=["d" * 3000], settings=settings), width
        ) as seen:
            shown = sorted(seen.rows(0))
            assert (
                len(shown) == len(HOSTILE) + 1 and "<i>kind<i>/no text \ufffd\ufffd.tiff" in shown
            )
            assert all(
                any(cell.endswith(name) for cell in shown) for name in (*HOSTILE[:4], HOSTILE[-1])
            )
            assert (
                "<script>alert(1)</script>\ufffd" in seen.text()
                and "\ufffd$x${y}{{ x }}{% y %}" in seen.text()
            )
            linked = files_linked(seen)
            assert len(set(linked)) == len(HOSTILE) and all(path.is_file() for path in linked)


def cases(dataset: Path) -> dict[str, Evaluation]:
    strips, rules = list_strips(dataset / "test"), Rules(THRESHOLD)
    good, defective = (
        [strip for strip in strips if strip.is_defective is kind] for kind in (False, True)
    )
    nowhere = [replace(strip, kind=None, mask=None) for strip in strips]
    return {
        "no strips": evaluate(BASELINE, [], rules=rules),
        "one strip": evaluate(BASELINE, defective[:1], rules=rules),
        "no masks": evaluate(BASELINE, strips, rules=rules, use_masks=False),
        "only good strips": evaluate(BASELINE, good, rules=rules),
        "only defective strips": evaluate(BASELINE, defective, rules=rules),
        "unknown kinds": evaluate(BASELINE, nowhere, rules=rules),
        "no threshold": evaluate(BASELINE, strips),
        "heatmaps of zeros": evaluate(
            lambda image: np.zeros(image.shape[1:], np.float32), strips, rules=rules
        ),
        "heatmaps of ones": evaluate(
            lambda image: np.ones(image.shape[1:], np.float32), strips, rules=rules
        ),
        "rivals and no truths": evaluate(
            BASELINE, good, rules=rules, baselines={"double detection": BASELINE}
        ),
    }


def test_what_may_be_missing(dataset, tmp_path, look_at):
    for name, result in cases(dataset).items():
        with look_at(report_of(result, tmp_path)) as seen:
            text = seen.text()
            count, truths = len(result.results), result.metrics.points.truths
            known = result.metrics.points.strips
            tiles = result.at_threshold() | {
                figure: value
                for figure, value in result.figures.items()
                if not figure.startswith("point")
            }
            defined = [value for value in tiles.values() if value is not None]
            assert seen.page.locator(".tiles dt").count() == len(defined), name
            lines = seen.page.locator("#undefined").all_inner_texts()
            assert len(lines) == (len(defined) < len(tiles)), name
            for figure, value in tiles.items():
                if value is None:
                    words = figure.replace("_", " ").replace("auroc", "AUROC")
                    assert words.replace("aupro", "AUPRO") in lines[0], (name, figure)
            assert text.count(f"{count} strip{'' if count == 1 else 's'}: ") == 1
            assert seen.page.locator("circle.mark").count() == (3 if truths else 0)
            assert seen.page.locator("svg.chart").count() == bool(count) + bool(truths)
            headings = seen.page.locator("h2").all_inner_texts()
            assert ("Worst misses" in headings) == ("Found defects" in headings) == bool(truths)
            assert ("Worst false alarms" in headings) == bool(known), name
            assert "nan" not in text.lower().split() and len(seen.rows(0)) == count


def test_an_unlabelled_folder_shows_its_strongest_detections(dataset, tmp_path, look_at):
    strips = [replace(strip, kind=None, mask=None) for strip in list_strips(dataset / "test")]
    heights = [0.9, 0.3, 0.05, 0.6]
    places = [(20, 30), (40, 50), (60, 70), (80, 10)]
    planned = iter(zip(heights, places))

    def predictor(image):
        heatmap, (height, place) = np.zeros(image.shape[1:], np.float32), next(planned)
        heatmap[place] = height
        return heatmap

    result = evaluate(predictor, strips, rules=Rules(THRESHOLD))
    with look_at(report_of(result, tmp_path)) as seen:
        headings = seen.page.locator("h2").all_inner_texts()
        assert headings[:2] == ["Strongest detections", "Just below the threshold"]
        assert "Figures" not in headings and "Verdicts and truth" not in headings
        captions = seen.page.locator("figcaption").all_inner_texts()
        order = [0, 3, 1, 2]  # NG strips first, by their heatmaps
        assert [caption.split(":")[0] for caption in captions] == [
            "{} at y {}, x {}".format(strips[at].relative.as_posix(), *places[at]) for at in order
        ]
        assert seen.page.locator("#undefined").count() == 1
        assert "overkill" not in seen.page.inner_html("#verdict")
        assert seen.page.inner_text("#counts") == "3 NG, 1 OK"
    result.results[2].is_blind = True
    with look_at(report_of(result, tmp_path)) as seen:
        assert seen.page.inner_text("#counts") == "4 NG, 0 OK"


def test_good_strips_that_are_ng_are_marked_and_filterable(dataset, tmp_path, look_at):
    result = evaluate(BASELINE, list_strips(dataset / "test"), rules=Rules(THRESHOLD))
    outcomes = [scored.outcome for scored in result.results]
    assert 0 < outcomes.count("overkill") < len(outcomes)
    with look_at(report_of(result, tmp_path)) as seen:
        cells = seen.page.locator(".outcomes td").all_inner_texts()
        assert [tuple(cell.split()) for cell in cells] == [
            (str(outcomes.count(name)), name) for name in ("found", "escaped", "overkill", "passed")
        ]
        assert seen.rows(3) == outcomes
        wrong = outcomes.count("overkill") + outcomes.count("escaped")
        assert seen.page.locator("tr.mistake").count() == wrong
        seen.page.select_option("#verdict", "overkill")
        assert set(seen.rows(3)) == {"overkill"} and set(seen.rows(1)) == {"good"}
        assert len(seen.rows(3)) == outcomes.count("overkill")


def test_the_slider_counts_what_its_flag_would_give(dataset, tmp_path, look_at):
    strips = list_strips(dataset / "test")
    result = evaluate(BASELINE, strips, rules=Rules(THRESHOLD))
    with look_at(report_of(result, tmp_path)) as seen:
        last = int(seen.page.get_attribute("#threshold", "max"))
        assert seen.page.inner_text("#flag") == "--threshold 0.1"
        for position in (0, last // 3, last // 2, last):
            seen.page.evaluate(
                "at => { const slider = document.getElementById('threshold'); slider.value = at;"
                "slider.dispatchEvent(new Event('input')); }",
                position,
            )
            value = float(seen.page.inner_text("#flag").split()[1])
            again = evaluate(BASELINE, strips, rules=Rules(Threshold(value, "as given")))
            outcomes = [scored.outcome for scored in again.results]
            rejected = sum(scored.verdict == "NG" for scored in again.results)
            measured = again.at_threshold()
            assert seen.page.inner_text("#counts") == (
                f"{rejected} NG, {len(strips) - rejected} OK, "
                f"{outcomes.count('overkill')} overkill, {outcomes.count('escaped')} escaped, "
                f"recall {three_digits(measured['recall'])}, "
                f"{three_digits(measured['false_alarms_per_strip'])} false alarms per strip"
            )


def test_a_threshold_that_does_not_hold_is_in_red(dataset, tmp_path, look_at):
    strips = list_strips(dataset / "test")
    threshold = threshold_for(calibrate([np.array([0.01])] * 8), 0.1, "kept with the model")
    result = evaluate(BASELINE, strips, rules=Rules(threshold))
    warning = threshold_contradiction(result, threshold)
    suggested = float(re.search(r"--threshold (\S+)", warning)[1])
    for value, holds in ((suggested, True), (suggested * 0.99, False)):
        rules = Rules(Threshold(value, "as given"))
        rate = evaluate(BASELINE, strips, rules=rules).at_threshold()["false_alarms_per_strip"]
        assert (rate <= 0.1) is holds
    result.warnings.append(warning)
    with look_at(report_of(result, tmp_path, threshold=threshold)) as seen:
        box = seen.page.locator(".box.red").inner_text()
        assert "rests on 8 good strips, expected at least 30" in box and warning in box
    fitting = replace(threshold, value=suggested)
    result = evaluate(BASELINE, strips, rules=Rules(fitting))
    assert threshold_contradiction(result, fitting) is None


def test_a_value_is_suggested_where_enough_strips_are_known(dataset):
    few = threshold_for(calibrate([np.array([0.01])] * 8), 0.1, "kept with the model")
    strips = list_strips(dataset / "test")
    result = evaluate(BASELINE, strips, rules=Rules(few))
    assert threshold_doubts(result, few) == few.doubts()  # four strips prove nothing, either
    result = evaluate(BASELINE, strips * 8, rules=Rules(few))
    (doubt,) = threshold_doubts(result, few)
    suggested = float(re.search(r"--threshold (\S+) gives", doubt)[1])
    assert suggested == fitting_threshold(result, 0.1) and "On these 32 strips" in doubt


def test_problems_and_a_threshold_that_is_known(scored, tmp_path, look_at):
    result = replace(
        scored[0],
        problems=["a.tiff: found no strip", "b.tiff: found no strip"],
        warnings=["the folder: found values of <1 level>"],
    )
    threshold = threshold_for(calibrate([np.array([0.2, 0.1])] * 5), 0.1, "set on 5 good strips")
    with look_at(report_of(result, tmp_path, threshold=threshold)) as seen:
        assert threshold.describe().split(" ", 1)[1] in seen.text()
        assert threshold.doubts()[0] in seen.text()
        warnings, problems = seen.page.locator(".box").all_inner_texts()
        assert warnings.startswith("Warnings (2)") and "values of <1 level>" in warnings
        assert (
            problems.startswith("Strips that could not be scored (2)")
            and "b.tiff: found no strip" in problems
        )


def test_five_thousand_strips(scored, tmp_path, look_at):
    result = many(scored[0], 5000)
    flagged = next(one for one in result.results if one.verdict == "NG")
    mistake = next(one for one in result.results if one.strip.kind == "good")
    mistake.detections, mistake.score = flagged.detections, 0.0
    path = report_of(result, tmp_path)
    assert path.stat().st_size < 1.5e6
    with look_at(path) as seen:
        assert f"{MOST_ROWS} of 5000 strips" in seen.text() and "5000 strips: " in seen.text()
        assert mistake.strip.relative.as_posix() in seen.rows(0)
        seen.sort("score")
        assert len(seen.rows(0)) == MOST_ROWS
        nodes = seen.page.evaluate("document.getElementById('strips').tBodies[0].childNodes.length")
        assert nodes == MOST_ROWS, (
            "text between the rows makes sorting thousands of them take ten seconds instead of one"
        )
        name = seen.rows(0)[7].split("/")[1]
        seen.page.fill("#filter", name)
        assert len(seen.rows(0)) == 1


def test_the_page_cannot_reach_the_network(scored, tmp_path, browser):
    page = browser.new_page()
    page.goto(report_of(scored[0], tmp_path).as_uri())
    blocked = """() => new Promise(resolve => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", event => {
            seen.push(event.effectiveDirective);
            if (seen.length === 3) resolve(seen.sort());
        });
        fetch("http://127.0.0.1:9/").catch(() => {});
        new Image().src = "http://127.0.0.1:9/image.png";
        const script = document.createElement("script");
        script.src = "http://127.0.0.1:9/script.js";
        document.head.append(script);
    })"""
    assert page.evaluate(blocked) == ["connect-src", "img-src", "script-src-elem"]
    page.close()


def test_a_report_that_cannot_be_written(scored, tmp_path):
    (tmp_path / "afile").touch()
    with pytest.raises(UserError, match="cannot be written"):
        report_of(scored[0], tmp_path / "afile")


def test_the_curve_goes_on_where_false_alarms_run_out(dataset, tmp_path):
    def perfect(image):
        heatmap = np.zeros(image.shape[1:], np.float32)
        heatmap[0, 0] = 1e-3
        return heatmap

    result = evaluate(
        perfect,
        list_strips(dataset / "test"),
        rules=Rules(THRESHOLD),
        baselines={"double detection": BASELINE},
    )
    text = report_of(result, tmp_path).read_text(encoding="utf-8")
    for name, board in (
        ("this detector", result.metrics),
        ("double detection", result.baselines["double detection"]),
    ):
        for rate in FALSE_ALARM_RATES:
            assert (
                f"{name}: recall {board.compute()[f'point_recall_at_{rate:g}']:.3f} "
                f"at {rate:g} false alarms per strip" in text
            )


def test_recall_between_the_points_of_a_curve_and_beyond():
    curve = (np.array([0.0, 0.1, 0.5]), np.array([0.2, 0.4, 1.0]))
    assert recall_at(curve, np.array([0.01, 0.1, 0.49, 0.5, 10])).tolist() == [
        0.2,
        0.4,
        0.4,
        1.0,
        1.0,
    ]
    assert froc_chart({"one": curve}, (0.1,)).count("V") == 2  # steps


@pytest.mark.parametrize("scores", [[0.0], [1.0], [0.0, 1.0], [0.5] * 7, [1e-9, 0.2, 1 - 1e-7]])
def test_every_strip_is_in_a_bar_and_every_tick_in_the_chart(scores):
    for threshold in (0.0, 0.3, 1.0):
        chart = score_histograms({"good": scores, "unknown": [0.7]}, threshold)
        counted = [int(part.split(" strips")[0]) for part in chart.split("<title>")[1:]]
        assert sum(counted) == len(scores) + 1 and "nan" not in chart
        places = [float(part.split('"')[0]) for part in chart.split('class="grid" x1="')[1:]]
        assert len(places) >= 2 and min(places) >= 52 and max(places) <= WIDTH - RIGHT


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0.00"),
        (1.0, "1.00"),
        (0.95, "0.950"),
        (0.99949, "0.999"),
        (0.9996, "0.9996"),
        (0.99998, "0.99998"),
        (0.999999999999, "1.00"),
        (12.345, "12.3"),
        (123.4, "123"),
        (0.00012345, "0.000123"),
    ],
)
def test_three_digits(value, text):
    assert three_digits(value) == text


def test_the_report_of_a_classifier_fits_every_width_and_escapes_names(look_at, tmp_path):
    kinds = ("good", "<b>spot</b>", "刮痕")
    generator = np.random.default_rng(3)
    predictions = []
    for number in range(24):
        truth = number % 3
        shares = generator.dirichlet(np.where(np.arange(3) == truth, 4.0, 1.0))
        relative = Path(kinds[truth].replace("/", "_")) / f"{number} {HOSTILE[number % 2]}"
        picture = LabelledPicture(tmp_path / relative.name, kinds[truth], None, truth == 0)
        status = ("sure", "unsure", "unknown")[number % 5 % 3]
        outcome = (0.1, 500 + number, 0.4 if truth else None, 0.5 if truth else None)
        one = ImagePrediction(
            FolderImage(relative, picture), shares, int(shares.argmax()), truth, status,
            *outcome, None if truth else True, (40, 60),
        )  # fmt: skip
        predictions.append(one)
    calibration = Calibration(1.4, (0.9,) * 24, (True,) * 24)
    targets = {"target_error": 0.2, "target_unknown": 0.01}
    limits = Limits(0.5, 0.2)
    summary = summarize(predictions, kinds, calibration, limits, targets, ["x.png: found nothing"])
    panels = {"image": np.zeros((64, 900, 3), np.uint8), "mask": np.zeros((64, 900, 3), np.uint8)}
    figures = {one.image.relative: embedded(panels) for one in predictions}
    path = tmp_path / "report.html"
    subject = {"model": "m" * 90}
    write_prediction_report(path, predictions, kinds, summary, figures, subject, {}, ["<i>beware"])
    wrong = sum(one.predicted != one.truth for one in predictions)
    for width, scheme in ((400, "dark"), (800, "light"), (1280, "light")):
        with look_at(path, width, scheme) as look:
            assert f"{wrong} of 24 labelled ones mistaken" in look.text()
            assert "<b>spot</b>" in look.text() and "<i>beware" in look.text()
            look.page.select_option("#verdict", "mistake")
            assert look.page.inner_text("#shown") == f"{wrong} of 24 images"
            look.page.select_option("#verdict", "")
            look.sort("confidence")
            values = look.page.eval_on_selector_all(
                "#strips tbody tr", "rows => rows.map(row => Number(row.cells[5].dataset.value))"
            )
            highest = [one.confidence for one in predictions]
            assert values == pytest.approx(sorted(highest, reverse=True), rel=1e-6)
