"""An export from a checkpoint in object storage, into object storage."""

import re
import sys

import pytest

import export_onnx_fullimage
from common.errors import UserError
from common.storage import fetch, list_objects, put
from deploy.session import open_session
from tests.conftest import QUICK_OPSET, export_file


@pytest.fixture
def checkpoint(make_checkpoint, bucket):
    """A local checkpoint, which lies in the bucket, too."""
    path = make_checkpoint("net_best.pth")
    put(path, f"{bucket}/runs/net_best.pth")
    return path


@pytest.fixture
def export(monkeypatch, capsys):
    """What an export with some flags prints."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
        assert export_onnx_fullimage.main() == 0
        return capsys.readouterr().out

    return run


def entries_of(path):
    return open_session(path).get_modelmeta().custom_metadata_map


def test_a_file_exported_in_storage_is_that_exported_on_disk(
    checkpoint, bucket, export, dataset, tmp_path, s3
):
    local = export_file(checkpoint, tmp_path / "here")
    for path in (dataset / "test" / "good").iterdir():
        put(path, f"{bucket}/strips/{path.name}")
    strips = ("--test_path", f"{bucket}/strips", "--opset_version", QUICK_OPSET)
    flags = ("--checkpoint_path", f"{bucket}/runs", "--output_path", f"{bucket}/models", *strips)
    assert f"the model is in {bucket}/models/net_best.onnx;" in export(*flags)
    there = fetch(f"{bucket}/models/net_best.onnx")
    without_parity = [
        {name: text for name, text in entries_of(path).items() if name != "parity"}
        for path in (local, there)
    ]
    assert without_parity[0] == without_parity[1]
    s3.heal()
    export(*flags, "--skip_existing")
    assert f"{bucket}/strips".removeprefix("s3:/") not in " ".join(s3.reads())

    one = f"{bucket}/runs/net_best.pth", f"{bucket}/other/mine.onnx"
    export("--checkpoint_path", one[0], "--output_path", one[1], *strips)
    assert [entry.location for entry in list_objects(f"{bucket}/other")] == [one[1]]
    described = export("--describe", one[1])
    assert one[1] in described and re.search(r"checkpoint +net_best.pth", described)


def test_what_is_not_there_is_one_line_with_its_url(bucket, export, tmp_path):
    place = f"{bucket}/nowhere"
    with pytest.raises(UserError, match=rf"^{place}: found no such file or folder"):
        export("--checkpoint_path", place, "--output_path", tmp_path / "a")
    with pytest.raises(UserError, match=rf"^{place}/a.onnx: found no such file"):
        export("--describe", f"{place}/a.onnx")
    assert not list_objects(bucket) and not (tmp_path / "a").exists()
