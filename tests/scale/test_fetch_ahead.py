"""Objects are fetched before they are read: so many at once, and so far ahead."""

import pytest

from common import fetch_ahead
from common.errors import UserError
from common.fetch_ahead import fetch_together, fetching_ahead
from common.storage import join, put
from data.folder import list_strips
from data.listing import list_images
from data.remote_folder import local_view
from data.verify import verify_strips
from tests.scale.faulty_proxy import gets

COUNT, AHEAD = 12, 4


@pytest.fixture
def strips(bucket, dataset, s3, monkeypatch):
    """The URL of a folder of strips, each with 50 ms of latency."""
    source = next((dataset / "train" / "good").iterdir())
    for number in range(COUNT):
        put(source, join(bucket, "strips", f"{number:02}.tiff"))
    s3.heal()
    s3.latency = 0.05
    monkeypatch.setenv(fetch_ahead.AHEAD_VARIABLE, str(AHEAD))
    return f"{bucket}/strips"


def test_some_are_fetched_at_once_and_no_more_than_asked_for_ahead(strips, s3):
    paths = list_images(local_view(strips))
    with fetching_ahead([[path] for path in paths]) as fetching:
        fetching.reach(0)
        asked = len(s3.reads())
    assert 1 <= asked <= AHEAD + 1
    with fetching_ahead([[path] for path in paths]) as fetching:
        for number in range(COUNT):
            fetching.reach(number)
    assert 1 < s3.most_at_once <= AHEAD
    assert len(s3.reads()) == COUNT and set(s3.reads().values()) == {1}


def test_the_check_of_strips_fetches_ahead_and_a_missing_one_is_asked_for_once(strips, s3):
    listed = list_strips(local_view(strips))
    s3.fail(fits=gets("03.tiff"), status=404, code="NoSuchKey")
    checked = verify_strips(listed, 255)
    assert [strip.path.name for strip in checked.usable] == [
        f"{number:02}.tiff" for number in range(COUNT) if number != 3
    ]
    assert checked.problems == [f"{strips}/03.tiff: found no such object, expected one"]
    assert 1 < s3.most_at_once <= AHEAD and set(s3.reads().values()) == {1}


def test_a_batch_is_fetched_together_and_errors_are_left_to_the_reader(strips, s3):
    paths = list_images(local_view(strips))
    s3.fail(fits=gets("01.tiff"), status=403, code="AccessDenied")
    fetch_together(paths)
    assert len(s3.reads()) == COUNT and 1 < s3.most_at_once <= AHEAD


@pytest.mark.parametrize("text", ("-1", "257", "many", ""))
def test_a_number_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(fetch_ahead.AHEAD_VARIABLE, text)
    with pytest.raises(UserError, match=f"REMOTE_PREFETCH: found '{text}', expected 0 to 256"):
        fetch_ahead.ahead_count()
