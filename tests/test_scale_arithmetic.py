"""The arithmetic of ten million strips: as the page shows it, and by hand."""

import re

import pytest

from benchmarks import scale
from benchmarks.scale_arithmetic import CASES, Plan, bound, rates
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "explanation" / "ten-million-strips.md"


def test_the_page_shows_what_the_script_prints(capsys):
    assert scale.run(scale.parse_args(["--arithmetic"])) == 0
    shown = re.search(
        r"<!-- begin: arithmetic -->(.*)<!-- end: arithmetic -->", PAGE.read_text(), re.S
    )
    assert shown[1].strip() == capsys.readouterr().out.strip()


def test_each_part_can_be_the_bound():
    float32, uint8 = CASES
    # 10 Gbit/s are 1.25 GB/s, and a strip has 2.06 MB in float32
    assert rates(Plan(), float32, 1)["network"] == pytest.approx(606, abs=1)
    assert rates(Plan(), uint8, 1)["network"] == pytest.approx(2426, abs=1)
    plan = Plan(float32_ms=10, host_ms=30, workers_per_gpu=2, driver_ms=0.5)
    assert bound(plan, float32, 1) == ("workers", pytest.approx(50))
    assert bound(plan, float32, 64)[0] == "network"
    assert bound(Plan(float32_ms=100, host_ms=1), float32, 2) == ("GPUs", pytest.approx(20))
    assert bound(Plan(link=1000, host_ms=1, float16_ms=1), uint8, 64)[0] == "writing"


def test_a_figure_is_replaced_by_its_flag(capsys):
    words = ["--arithmetic", "--archive", "1000000", "--egress_gb", "1", "--gpu_hour", "100"]
    assert scale.run(scale.parse_args(words)) == 0
    printed = capsys.readouterr().out
    # 1e6 strips x 3 x 976 x 176 bytes
    assert "| uint8 strips, read from another region | 515 $ |" in printed
    assert "an hour | 100 |" in printed
