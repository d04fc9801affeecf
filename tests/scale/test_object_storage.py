"""What object storage gives and how it fails: listings, copies, and one clear line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import locations, object_store
from common.errors import UserError
from common.storage import fetch, find_object, join, list_objects, put
from tests.conftest import ROOT
from tests.scale.faulty_proxy import gets

SIZE = 200_000  # bytes; more than one packet


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_WAIT", 0.001)


@pytest.fixture
def stored(bucket, tmp_path):
    """Objects by their name below the bucket's strips/, with their content."""
    contents = {name: os.urandom(SIZE) for name in ("a.tiff", "sub folder/b#1,2.tiff", "ä+%.png")}
    for name, content in contents.items():
        (tmp_path / "object").write_bytes(content)
        put(tmp_path / "object", join(bucket, "strips", name))
    return contents


def objects_of(bucket):
    return {
        entry.location.split("/strips/")[1]: entry for entry in list_objects(f"{bucket}/strips")
    }


def test_objects_are_listed_and_read_as_they_were_written(bucket, stored, s3):
    found = objects_of(bucket)
    assert found.keys() == stored.keys() and list(found) == sorted(found)
    assert {entry.size for entry in found.values()} == {SIZE}
    for name, entry in found.items():
        assert fetch(entry).read_bytes() == stored[name]
        assert fetch(entry.location).read_bytes() == stored[name]  # of a URL alone, too
        assert find_object(entry.location) == entry
    assert set(s3.reads().values()) == {1} and len(s3.reads()) == len(stored)
    assert list_objects(f"{bucket}/str") == []  # a prefix of names is no folder


def test_a_few_failures_are_made_good_and_every_byte_is_right(bucket, stored, s3, quick):
    s3.fail(fits=gets("a.tiff"), times=2, status=503, code="SlowDown")
    s3.fail(fits=gets("a.tiff"), times=1, status=500, code="InternalError")
    s3.fail(fits=gets("a.tiff"), times=2, cut=0.5)
    assert fetch(objects_of(bucket)["a.tiff"]).read_bytes() == stored["a.tiff"]
    assert [*s3.reads().values()] == [6]


@pytest.mark.parametrize(
    ("fault", "requests", "words"),
    (
        ({"status": 503, "code": "SlowDown"}, 6, "cannot be read in 6 attempts .SlowDown"),
        ({"cut": 0.5}, 6, "cannot be read in 6 attempts"),
        ({"status": 403, "code": "AccessDenied"}, 1, "found no permission .AccessDenied"),
        ({"status": 400, "code": "ExpiredToken"}, 1, "found expired credentials"),
        ({"status": 404, "code": "NoSuchKey"}, 1, "found no such object"),
    ),
)
def test_what_stays_broken_is_one_line_and_no_file(
    bucket, stored, s3, quick, tmp_path, fault, requests, words
):
    entry = objects_of(bucket)["a.tiff"]
    s3.fail(fits=gets(), **fault)
    with pytest.raises(UserError, match=f"^{entry.location}: {words}") as raised:
        fetch(entry)
    assert "\n" not in str(raised.value)
    assert [*s3.reads().values()] == [requests]
    assert not [path for path in (tmp_path / "cache" / "blocks").rglob("*") if path.is_file()]
    s3.heal()
    assert fetch(entry).read_bytes() == stored["a.tiff"]


def test_an_answer_that_does_not_come_is_asked_for_again(bucket, stored, s3, quick, monkeypatch):
    monkeypatch.setattr(object_store, "READ_SECONDS", 1)
    s3.fail(fits=gets("a.tiff"), times=1, before=lambda: time.sleep(5))
    assert fetch(objects_of(bucket)["a.tiff"]).read_bytes() == stored["a.tiff"]
    assert [*s3.reads().values()] == [2]


def test_an_object_that_changes_is_never_taken_for_the_listed_one(bucket, stored, s3, tmp_path):
    entry = objects_of(bucket)["a.tiff"]
    (tmp_path / "object").write_bytes(os.urandom(SIZE))

    def change() -> None:
        s3.heal()
        put(tmp_path / "object", entry.location)

    s3.fail(fits=gets("a.tiff"), times=1, before=change)
    with pytest.raises(UserError, match=r"a.tiff: found that the object changed since it was lis"):
        fetch(entry)
    assert fetch(entry.location).read_bytes() == (tmp_path / "object").read_bytes()


def test_a_listing_that_fails_is_no_empty_one(bucket, stored, s3, quick):
    s3.fail(fits=lambda request: request.method == "GET", status=403, code="AccessDenied")
    with pytest.raises(UserError, match=rf"^{bucket}/strips: found no permission"):
        list_objects(f"{bucket}/strips")
    s3.heal()
    s3.fail(fits=lambda request: request.method == "PUT", status=500, code="InternalError")
    with pytest.raises(UserError, match=rf"^{bucket}/x: cannot be written in 6 attempts"):
        put(Path(__file__), f"{bucket}/x")


def test_a_server_that_is_not_there_and_credentials_that_are_not(bucket, monkeypatch, quick):
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=rf"^{bucket}/a: cannot be list.* in 6 attempts"):
        list_objects(f"{bucket}/a")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:10")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(UserError, match=rf"^{bucket}/a: found no usable credentials"):
        list_objects(f"{bucket}/a")


READER = """
import hashlib, sys
from common.storage import fetch, list_objects
for entry in list_objects(sys.argv[1]):
    print(entry.location, hashlib.sha256(fetch(entry).read_bytes()).hexdigest(), flush=True)
"""


def test_processes_share_one_cache_and_one_that_is_killed_costs_one_request(
    bucket, s3, tmp_path, moto_server
):
    import boto3

    client, count = boto3.client("s3", endpoint_url=moto_server), 12
    for number in range(count):
        client.put_object(
            Bucket=bucket.removeprefix("s3://"), Key=f"x/{number}", Body=os.urandom(SIZE)
        )
    s3.latency = 0.05
    command = [sys.executable, "-c", READER, f"{bucket}/x"]
    readers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    readers[0].stdout.readline()
    readers[0].kill()
    printed = [reader.communicate()[0] for reader in readers]
    assert readers[1].returncode == readers[2].returncode == 0
    assert printed[1] == printed[2] and len(printed[1].splitlines()) == count
    assert sum(s3.reads().values()) <= count + 1 and len(s3.reads()) == count
    blocks = [path for path in (tmp_path / "cache/blocks").rglob("*") if path.is_file()]
    whole = [path for path in blocks if not path.name.endswith(".partial")]
    assert len(whole) == count and {path.stat().st_size for path in whole} == {SIZE}
    assert locations.cache_folder() == tmp_path / "cache"
