"""Listing an archive: in order, without masks, answer by answer, and in few bytes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

import pyarrow as pa
import pytest

from common import object_store
from common.errors import UserError
from common.locations import FOLDER_VARIABLE
from common.storage import iterate_objects, list_objects, put
from data.listing import list_images
from scale.archive import Archive
from scale.listed import ListedStrip
from scale.strip_listing import PART, StripListing

# in an order that is neither that of the whole names nor that in which they are made
NAMES = ("b/1.tiff", "a-b/2.tif", "a/c/3.TIFF", "a/4.tiff", "a.b/5.tiff", "ä/6.tiff", "a/c-d.tiff")
MASKS = ("a/4_mask.png", "a/c/3_gt.tiff", "ground_truth/b/1.tiff", "B/1 mask.tiff")
OTHERS = ("a/7_mask.tiff", "notes.txt", "a/table.csv")  # no image is named so that it has that mask
KEPT = (*NAMES, OTHERS[0])


def paths_of(listing: StripListing, size: int = 3) -> list[str]:
    parts = list(listing.parts(size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    return [strip.path for part in parts for strip in part]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate((*NAMES, *MASKS, *OTHERS, ".hidden/8.tiff")):
        path = tmp_path / "strips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    return tmp_path / "strips"


def test_a_folder_is_listed_as_every_command_lists_it(folder):
    listing = Archive(folder).list_strips(None)
    expected = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    assert paths_of(listing) == expected == [path.as_posix() for path in sorted(map(Path, KEPT))]
    assert len(listing) == len(KEPT)
    sizes = {strip.path: strip.size for part in listing.parts(2) for strip in part}
    assert sizes == {name: (folder / name).stat().st_size for name in KEPT}


def test_a_url_is_listed_as_a_folder_is(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}"
    for path in folder.rglob("*.*"):
        if path.is_file():
            put(path, f"{url}/{path.relative_to(folder).as_posix()}")
    assert sorted(iterate_objects(url)) == list_objects(url)
    assert paths_of(Archive(url).list_strips(None)) == paths_of(Archive(folder).list_strips(None))
    with pytest.raises(UserError, match=rf"^{url}/none: found no images, expected files ending in"):
        Archive(f"{url}/none").list_strips("tiff")


def test_several_formats_are_a_choice(folder):
    (folder / "a" / "9.png").touch()
    with pytest.raises(UserError, match=r"choose with --img_format \{tiff,png_jpg\}"):
        Archive(folder).list_strips(None)
    assert paths_of(Archive(folder).list_strips("png_jpg")) == ["a/9.png"]
    with pytest.raises(UserError, match="found no such path"):
        Archive(folder / "none").list_strips(None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_no_table_can_hold_is_said(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.tiff")).touch()
    with pytest.raises(UserError, match="found a file name that is not valid UTF-8"):
        Archive(tmp_path).list_strips(None)


def test_answers_of_s3_are_asked_for_one_by_one_and_again_where_one_fails(bucket, s3, monkeypatch):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    monkeypatch.setattr(object_store, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "40")  # of an answer
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    names = [f"day {number % 3}/ä+{number:04}.tiff" for number in range(100)]
    for name in (*names, "day 0/", "../x.tiff"):
        backend.put_object(bucket.removeprefix("s3://"), f"strips/{name}", b"")
    backend.put_object(bucket.removeprefix("s3://"), "strips2/y.tiff", b"")
    listed = iterate_objects(f"{bucket}/strips")
    next(listed)
    s3.fail(fits=lambda request: request.method == "GET", times=1, status=503)
    assert 1 + sum(1 for _ in listed) == 101
    assert paths_of(Archive(f"{bucket}/strips").list_strips(None), 30) == sorted(names)
    assert sorted(iterate_objects(f"{bucket}/strips")) == list_objects(f"{bucket}/strips")
    listed = iterate_objects(f"{bucket}/strips")
    next(listed)
    s3.fail(fits=lambda request: request.method == "GET", status=403, code="AccessDenied")
    with pytest.raises(UserError, match=rf"^{bucket}/strips: found no permission"):
        list(listed)  # half of a listing is none


def test_a_strip_takes_the_bytes_of_its_name_and_no_object():
    count, etag = 5 * PART, "d41d8cd98f00b204e9800998ecf8427e"
    objects, most = WeakSet(), []

    def files() -> Iterator[ListedStrip]:
        for number in range(count):
            strip = ListedStrip(f"2026-11-{number % 30:02}/strip_{number:07}.tiff", 7, etag)
            objects.add(strip)
            most.append(len(objects))
            yield strip

    before = pa.total_allocated_bytes()
    listing = StripListing(files(), "", None)
    assert len(listing) == count and max(most) < 2.5 * PART
    assert (pa.total_allocated_bytes() - before) / count < 120
