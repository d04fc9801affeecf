"""Work in other threads: in order, bounded, its errors not lost, and nothing half-written after
Ctrl-C. No clocks.
"""

import shutil
import signal
import threading

import numpy as np
import pytest
import tifffile

from common.errors import STOPPED
from common.pipeline import STAGES, Backlog, StageTimes, grouped, in_order, threads
from tests import processes
from tests.conftest import ROOT


def test_results_come_in_order_though_later_work_ends_first():
    later = threading.Event()

    def work(number):
        if number == 0:
            assert later.wait(60)
        if number == 1:
            later.set()
        return number * number

    with threads(2) as pool:
        assert list(in_order(pool, work, range(6), 3)) == [0, 1, 4, 9, 16, 25]


def test_no_more_than_so_many_are_taken_ahead():
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    with threads(2) as pool:
        for done, number in enumerate(in_order(pool, lambda number: number, items(), 3)):
            assert number == done and len(taken) <= done + 4
    assert len(taken) == 20


def test_a_backlog_waits_for_room_and_does_everything():
    may_end, begun = threading.Event(), []

    def work(number):
        begun.append(number)
        assert may_end.wait(60)

    with threads(1) as pool:
        backlog = Backlog(pool, 2)
        backlog.add(work, 0)
        backlog.add(work, 1)
        adding = threading.Thread(target=backlog.add, args=(work, 2))
        adding.start()
        adding.join(0.2)
        assert adding.is_alive() and begun in ([], [0])
        may_end.set()
        adding.join(60)
        backlog.finish()
    assert begun == [0, 1, 2]


def test_an_error_of_the_work_is_not_lost_and_the_rest_is_dropped():
    done, may_end = [], threading.Event()

    def work(number):
        if number == 0:
            raise ValueError("full disk")
        assert may_end.wait(60)
        done.append(number)

    with pytest.raises(ValueError, match="full disk"), threads(1) as pool:
        backlog = Backlog(pool, 10)
        for number in range(5):
            backlog.add(work, number)
        threading.Timer(0.1, may_end.set).start()
        backlog.finish()
    assert done in ([], [1])


def test_groups_are_full_but_for_the_last():
    assert list(grouped(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]] and list(grouped([], 3)) == []


def test_times_of_processes_are_added_and_their_clocks_are_not():
    parts = [
        StageTimes(dict.fromkeys(STAGES, seconds), elapsed)
        for seconds, elapsed in ((1.0, 4.0), (2.0, 5.0))
    ]
    whole = StageTimes()
    whole.merge(parts)
    assert whole.seconds == dict.fromkeys(STAGES, 3.0) and whole.elapsed == 5.0
    assert whole.describe(10).startswith(
        "2 strips per second; ms per strip, in overlapping stages: 300.0 loading, "
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_half_written_file(number, make_checkpoint, dataset, tmp_path):
    source = dataset / "test" / "good" / "strip_0.tiff"
    (tmp_path / "strips").mkdir()
    for copy in range(300):
        shutil.copy(source, tmp_path / "strips" / f"{copy:03}.tiff")
    words = [
        "--model_path",
        make_checkpoint(),
        "--test_path",
        tmp_path / "strips",
        "--output_dir",
        tmp_path / "out",
        "--gpu_id",
        "-1",
    ]
    process = processes.start(ROOT / "inference_pytorch.py", *words, folder=tmp_path)
    while process.poll() is None and not list((tmp_path / "out").glob("*_panels.png")):
        pass
    process.send_signal(number)
    _, printed = process.communicate(timeout=120)
    assert (process.returncode, printed) == (128 + number, f"{STOPPED}\n")
    heatmaps = sorted((tmp_path / "out").glob("*_heatmap.tiff"))
    assert 0 < len(heatmaps) < 300 and not list((tmp_path / "out").glob("*.partial"))
    assert not (tmp_path / "out" / "scores.csv").exists()
    assert all(np.isfinite(tifffile.imread(path)).all() for path in heatmaps)
