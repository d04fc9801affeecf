"""Strips, models and results by URL: the same results as from local folders."""

import json
import re
from pathlib import Path

import pytest

import inference_onnx
import inference_pytorch
from common.errors import UserError
from common.mirror import MANIFEST, mirror, pull, read_manifest
from common.storage import fetch, join, list_objects, put
from tests.scale.faulty_proxy import gets

SAME = ("scores.csv", "detections.csv", "detections.json", "metrics.json")
TIMES = re.compile(r'"[a-z_ ]*(seconds|ms|per_s|time)[a-z_ ]*": [^\n]*')


@pytest.fixture
def remote(bucket, dataset, onnx_model):
    """A data set and its model in a bucket."""
    for path in dataset.rglob("*"):
        if path.is_file():
            put(path, join(bucket, "data", path.relative_to(dataset).as_posix()))
    put(onnx_model, f"{bucket}/models/older_best.onnx")
    put(onnx_model, f"{bucket}/models/net_best.onnx")
    return bucket


def score(command, model, strips, output, *flags):
    words = ["--model_path", model, "--test_path", strips, "--output_dir", output, *flags]
    return command.infer(command.parse_args(list(map(str, words))))


def tables(folder: Path, place: object = "") -> dict[str, str]:
    """The tables of results without times and without the `place` of the data set."""
    texts = {name: (folder / name).read_text().replace(str(place), "") for name in SAME}
    return {name: TIMES.sub("", text) for name, text in texts.items()}


def test_scores_from_storage_are_those_from_a_folder(
    remote, dataset, onnx_model, s3, tmp_path, capsys
):
    flags = ("--good_path", dataset / "train" / "good", "--dead_pixels", tmp_path / "dead.csv")
    (tmp_path / "dead.csv").write_text("y,x\n3,4\n,7\n")
    put(tmp_path / "dead.csv", f"{remote}/dead.csv")
    assert score(inference_onnx, onnx_model, dataset / "test", tmp_path / "here", *flags) == 0
    capsys.readouterr()
    there = f"{remote}/results/first"
    flags = ("--good_path", f"{remote}/data/train/good", "--dead_pixels", f"{remote}/dead.csv")
    s3.heal()
    assert score(inference_onnx, f"{remote}/models", f"{remote}/data/test", there, *flags) == 0
    printed = capsys.readouterr().out
    assert f"strips of {remote}/data/test" in printed and f"copied to {there}" in printed
    assert "/trees/" not in printed and f"{remote}/models/net_best.onnx on cpu" in printed
    read = s3.reads()
    assert set(read.values()) == {1}
    names = [path.split("/", 2)[2] for path in read]
    wanted = [p.relative_to(dataset) for p in dataset.rglob("*") if p.is_file()]
    wanted = [f"data/{p.as_posix()}" for p in wanted if "valid" not in p.parts[0]]
    assert sorted(names) == sorted([*wanted, "models/net_best.onnx", "dead.csv"])
    copies = pull(there, tmp_path / "copied")
    assert tables(tmp_path / "copied", f"{remote}/data") == tables(tmp_path / "here", dataset)
    report = (tmp_path / "copied" / "report.html").read_text()
    assert f"{remote}/data/test" in report and "/trees/" not in report
    assert len(copies) == len([p for p in (tmp_path / "here").rglob("*") if p.is_file()])

    s3.heal()  # everything is in the cache now
    assert score(inference_onnx, f"{remote}/models", f"{remote}/data/test", there, *flags) == 0
    assert not [path for path in s3.reads() if "/results/" not in path]


def test_one_kind_of_a_split_brings_its_masks_and_a_checkpoint_scores_too(
    remote, dataset, write_checkpoint, tmp_path
):
    checkpoint = write_checkpoint(tmp_path / "run_best.pth", threshold=0.5)
    put(checkpoint, f"{remote}/runs/run_best.pth")
    kind = next(path.name for path in (dataset / "test").iterdir() if path.name != "good")
    flags = ("--threshold", "0.5", "--gpu_id", "-1")
    strips, model = f"{remote}/data/test/{kind}", f"{remote}/runs"
    for source, chosen, scored, output in (
        (dataset, checkpoint, dataset / "test" / kind, "a"),
        (f"{remote}/data", model, strips, "b"),
    ):
        others = ("--fp_path", f"{source}/train/good:0.5", f"{source}/valid/good")
        assert score(inference_pytorch, chosen, scored, tmp_path / output, *flags, *others) == 0
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert "fp_path" in (tmp_path / "b" / "scores.csv").read_text()
    assert "point_recall" in (tmp_path / "b" / "metrics.json").read_text()


def test_bad_input_is_one_line_that_names_the_url(remote, onnx_model, s3, tmp_path):
    output = tmp_path / "out"

    def refused(words, model=onnx_model, strips=f"{remote}/data/test", output=output):
        with pytest.raises(UserError, match=words) as raised:
            score(inference_onnx, model, strips, output, "--threshold", "0.5")
        assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value)

    refused(rf"^{remote}/nothing: found no such path", strips=f"{remote}/nothing")
    refused(rf"^{remote}/no.onnx: found no such file", model=f"{remote}/no.onnx")
    refused(rf"^{remote}/data: found .*did you mean {remote}/data/test", strips=f"{remote}/data")
    refused("ftp://a/b: found the scheme ftp://", strips="ftp://a/b")
    inside = f"{remote}/data/test/out"
    refused(rf"^{inside}: found an output folder among the strips", output=inside)
    s3.fail(fits=gets(".tiff"), status=403, code="AccessDenied")
    refused(rf"^{remote}/data/test: none of 4 .* first: {remote}/data/test/.*found no permission")


def test_a_manifest_tells_whole_from_half(bucket, s3, tmp_path):
    folder, url = tmp_path / "run", f"{bucket}/run"
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (folder / name).write_text(name)
    (folder / "d.12.partial").write_text("half")
    mirror(folder, url)
    order = [request.path for request in s3.requests if request.method == "PUT"]
    assert order[-1].endswith(f"/run/{MANIFEST}") and len(order) == 4
    pulled = pull(url, tmp_path / "copy")
    assert sorted(p.relative_to(tmp_path / "copy").as_posix() for p in pulled) == [
        "a",
        "b",
        "sub/c",
    ]

    s3.heal()  # only what changed is written, what is gone is removed
    (folder / "a").write_text("new")
    (folder / "sub" / "c").unlink()
    mirror(folder, url)
    assert [r.path.rpartition("/")[2] for r in s3.requests if r.method == "PUT"] == ["a", MANIFEST]
    assert sorted(entry.location.rpartition("/")[2] for entry in list_objects(url)) == [
        "a",
        "b",
        MANIFEST,
    ]

    (folder / "b").write_text("newer")
    s3.fail(
        fits=lambda request: request.method == "PUT" and request.path.endswith("/b"),
        status=403,
        code="AccessDenied",
    )
    with pytest.raises(UserError, match=rf"^{url}/b: found no permission"):
        mirror(folder, url)
    assert read_manifest(url) is None
    with pytest.raises(UserError, match=rf"^{url}/{MANIFEST}: found no such object, expected the"):
        pull(url, tmp_path / "half")
    s3.heal()
    mirror(folder, url)
    put(folder / "a", f"{url}/b")  # of somebody else
    with pytest.raises(UserError, match=rf"^{url}/b: found another object than {MANIFEST}"):
        pull(url, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("name", ("../x", "/x", "a/../../x", "C:x", "a\\b", ""))
def test_a_manifest_that_leads_elsewhere_is_refused(bucket, tmp_path, name):
    (tmp_path / "m").write_text(json.dumps({"format": 1, "objects": {name: [1, "00"]}}))
    put(tmp_path / "m", f"{bucket}/run/{MANIFEST}")
    with pytest.raises(UserError, match=rf"{MANIFEST}: found a file of something else"):
        pull(f"{bucket}/run", tmp_path / "copy")


def test_names_that_no_file_has_are_left_out(bucket, dataset, moto_server, tmp_path, capsys):
    import boto3

    from data.remote_folder import local_view

    strip = next((dataset / "test" / "good").iterdir())
    client, name = boto3.client("s3", endpoint_url=moto_server), bucket.removeprefix("s3://")
    for key in ("x/a.tiff", "x//b.tiff", "x/../../../c.tiff", "x/d", "x/d/e.tiff", "x/folder/"):
        client.put_object(Bucket=name, Key=key, Body=strip.read_bytes())
    view = local_view(f"{bucket}/x")
    files = sorted(p.relative_to(view).as_posix() for p in view.rglob("*") if p.is_file())
    assert files in (["a.tiff", "d/e.tiff"], ["a.tiff", "d"])
    assert "left out" in capsys.readouterr().err
    assert fetch(view / "a.tiff").read_bytes() == strip.read_bytes()
