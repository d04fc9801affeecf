"""Storage that is not S3: an object is read, and asked for its etag again."""

import pytest

from common.errors import UserError
from common.locations import FOLDER_VARIABLE
from common.storage import fetch, find_object, list_folders, list_objects, put, remove


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return f"memory://{tmp_path.name}"


def test_objects_are_written_listed_read_and_removed(place, tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    put(tmp_path / "x", f"{place}/a/b/c.bin")
    put(tmp_path / "x", f"{place}/a/d.bin")
    listed = list_objects(f"{place}/a")
    assert [entry.location for entry in listed] == [f"{place}/a/b/c.bin", f"{place}/a/d.bin"]
    assert list_folders(f"{place}/a") == ["b"] and find_object(listed[1].location) == listed[1]
    assert {fetch(entry).read_bytes() for entry in listed} == {b"12345"}
    (tmp_path / "x").write_bytes(b"54321")
    put(tmp_path / "x", f"{place}/a/d.bin")
    assert fetch(f"{place}/a/d.bin").read_bytes() == b"54321"
    remove(f"{place}/a/d.bin")
    remove(f"{place}/a/d.bin")
    assert len(list_objects(f"{place}/a")) == 1
    with pytest.raises(UserError, match=r"d.bin: found no such object"):
        fetch(f"{place}/a/d.bin")


def test_an_object_that_changed_since_it_was_listed_is_refused(place, tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    put(tmp_path / "x", f"{place}/a")
    listed = list_objects(f"{place}/a")[0]
    (tmp_path / "x").write_bytes(b"54321")
    put(tmp_path / "x", f"{place}/a")
    with pytest.raises(UserError, match=f"{place}/a: found that the object changed since"):
        fetch(listed)
