"""The report on an archive: what DuckDB is asked, on tables small enough to count by hand."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import run_command
from data.demo_strips import make_strip
from data.write_images import write_strip
from scale import report
from scale.listed import Shard
from scale.output_folder import JOB, MODEL, OutputFolder
from scale.strip_scorer import ScoredStrips
from scale.tables import DETECTIONS, ShardWriter

SIZE = (64, 48)


def strip(path: str, places: list[tuple[int, int, float]], mean: float) -> ScoredStrips:
    """A strip with detections (y, x, margin); its only statistic is a mean."""
    score = 0.9 if places else 0.1 + mean / 1000
    row = {"path": path, "verdict": "NG" if places else "OK", "reason": "", "score": score}
    row |= {"threshold": 0.5, "detections": len(places), "seconds": 0.1, "target_mean": mean}
    detections = [
        dict.fromkeys(DETECTIONS.names)
        | {"path": path, "rank": rank, "y": y, "x": x, "margin": margin}
        for rank, (y, x, margin) in enumerate(places, start=1)
    ]
    return ScoredStrips([row], detections)


def write_job(folder: Path, archive: Path, model: str, places: dict[str, list]) -> Path:
    """The output of a job with these detections, in two shards."""
    output = OutputFolder(folder)
    output.write_notes(JOB, {"model": model * 64, "input": str(archive)})
    output.write_notes(MODEL, {"input_max": 255.0, "order": [0, 1, 2]})
    writer = ShardWriter(output, model * 64, ["target_mean"])
    for name in ("day1", "day2"):
        whole = ScoredStrips()
        for number, path in enumerate(sorted(it for it in places if it.startswith(name))):
            whole.extend(strip(path, places[path], (100 if name == "day1" else 120) + number))
        whole.errors.append({"path": f"{name}/broken.tiff", "problem": "found no picture"})
        writer.write(Shard(name, 0, 4), whole)
    return folder


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six strips by two models, whose detections are a pixel apart, new, or lost."""
    root = tmp_path_factory.mktemp("archive")
    archive = root / "strips"
    names = [f"day{day}/{number}.tiff" for day in (1, 2) for number in range(3)]
    for name in names:
        write_strip(archive / name, make_strip(np.random.default_rng(1), SIZE))
    old: dict[str, list] = {name: [] for name in names}
    new = dict(old)
    old |= {names[0]: [(10, 10, 3.0)], names[1]: [(20, 20, 2.0), (40, 5, 1.0)]}
    # of a common detection, a new one beside it, a strip that is OK now, one that is NG now
    new |= {names[0]: [(11, 10, 2.5), (30, 30, 4.0)], names[5]: [(63, 47, 1.5)]}
    return (
        write_job(root / "new", archive, "b", new),
        write_job(root / "old", archive, "a", old),
    )


def page_of(tmp_path: Path, *words: object) -> str:
    path = tmp_path / "report.html"
    flags = [str(word) for word in (*words, "--output", path)]
    assert run_command(lambda: report.report(report.parse_args(flags))) == 0
    return path.read_text()


def row_of(page: str, name: str) -> list[str]:
    """The cells of the first row that begins with a name."""
    row = page.split(f"<tr><th>{name}</th>", 1)[1].split("</tr>", 1)[0]
    return [cell.split("</td>")[0] for cell in row.split("<td>")[1:]]


def test_two_models_are_compared_by_place_and_by_verdict(jobs, tmp_path):
    page = page_of(tmp_path, "--judged", jobs[0], "--against", jobs[1])
    assert "on 6 strips that both have: 1 detections of both, 2 new, 2 lost." in page
    assert row_of(page, "day1") == ["3", "1", "1", "0", "1"]
    assert row_of(page, "day2") == ["3", "2", "0", "1", "0"]
    new, lost = page.split("Lost: only the model before")
    assert new.index("0.tiff at y 30, x 30: margin 4.00") < new.index("2.tiff at y 63, x 47")
    assert lost.index("1.tiff at y 20, x 20") < lost.index("1.tiff at y 40, x 5")
    assert page.count("data:image/png;base64,") == 4


def test_a_detection_within_the_radius_is_the_same(jobs, tmp_path):
    flags = ("--judged", jobs[0], "--against", jobs[1], "--match_radius", 0.5, "--pictures", 0)
    page = page_of(tmp_path, *flags)
    assert "0 detections of both, 3 new, 3 lost." in page


def test_one_model_is_shown_by_folder_with_what_drifts(jobs, tmp_path):
    page = page_of(tmp_path, "--judged", jobs[1])
    assert f"Model {'a' * 12}: 6 strips, 2 of them NG, 3 detections; 2 strips could not" in page
    # by folder: strips, NG, NG in %, detections per strip, not used
    assert row_of(page, "day1") == ["3", "2", "66.67", "1.0", "1"]
    count, middle, lowest, low, highest, high, apart = row_of(page, "target_mean")
    assert count == "6" and (lowest, low, highest, high) == ("day1", "101", "day2", "121")
    assert float(middle) == 111 and float(apart) > 20
    # the strip of the highest score that is OK is the one that would be NG in addition
    assert "One more NG strip per 100 strips needs a threshold of 0.222" in page
    assert page.count("data:image/png;base64,") == 2


def test_a_folder_of_no_job_is_refused(jobs, tmp_path, capsys):
    flags = ["--judged", str(tmp_path), "--output", str(tmp_path / "report.html")]
    assert run_command(lambda: report.report(report.parse_args(flags))) == 1
    assert "found no shard of a job" in capsys.readouterr().err


def test_strips_that_moved_away_leave_the_tables(jobs, tmp_path):
    output = OutputFolder(jobs[1])
    facts = output.read_notes(JOB)
    output.write_notes(JOB, facts | {"input": str(tmp_path / "nowhere")})
    try:
        page = page_of(tmp_path, "--judged", jobs[1])
    finally:
        output.write_notes(JOB, facts)
    assert row_of(page, "day2")[0] == "3" and "data:image/png" not in page
