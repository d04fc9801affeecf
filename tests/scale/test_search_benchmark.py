"""benchmarks/search.py on a few small strips."""

import json

import pytest

from benchmarks import search
from benchmarks.suite.levels import SUITE_SEED
from data.folder import list_strips

TINY = ("--trials", "2", "--epochs", "1", "--finalists", "1", "--seeds", "1", "--tens", "1")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(search, "LEVELS", ("noise",))
    monkeypatch.setattr(search, "TRAINED", 2)
    monkeypatch.setattr(search, "GOOD_OF_LEVEL", 2)
    quick = {"base_channels": 2, "align": "none", "gpu_id": -1, "weighting": "none", "bs": 4}
    monkeypatch.setattr(search, "FIXED", quick)
    monkeypatch.setattr(search, "SEARCHED", {"flags": {"lr": {"low": 1e-4, "high": 0.01}}})


def test_a_search_on_drawn_strips_prints_its_finals_and_goes_on(tiny, tmp_path, capfd):
    words = [*TINY, "--size", "240", "180", "--output", str(tmp_path / "out")]
    assert search.run(search.parse_args(words)) == 0
    printed = capfd.readouterr().out
    strips = tmp_path / "out" / "strips"
    points = {}
    for folder in ("found", "new/found"):
        found = list_strips(strips / folder)
        assert [len(strip.points) for strip in found] == [1, 1, 1, 18, 18, 18, 18]
        points[folder] = [strip.points for strip in found]
    assert points["found"] != points["new/found"]
    assert SUITE_SEED not in (search.SEED, search.NEW_SEED)
    assert len(list_strips(strips / "new" / "good")) == len(list_strips(strips / "lots")) == 2

    result = json.loads((tmp_path / "out" / "study" / "result.json").read_text())
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert "| known points | 75 |" in rows and "| trainings of the finals | 2 |" in rows
    finals = [row for row in rows if row.startswith(("| default |", "| trial "))]
    assert len(finals) == len(result["finals"]) == 2
    assert all(
        f"{entry['recall']['value']:.3f} (" in row for entry, row in zip(result["finals"], finals)
    )
    assert result["verdict"] in printed.splitlines()

    assert search.run(search.parse_args(words)) == 0
    again = [line for line in capfd.readouterr().out.splitlines() if line.startswith("|")]
    assert again == rows
