"""Local paths and URLs behind one door, and the cache of what was fetched."""

import ast
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from common import locations, object_cache
from common.errors import UserError
from common.object_cache import cached
from common.storage import fetch, find_object, is_remote, join, list_objects, put
from docs.draw_architecture import package_of, repository_modules

# what requirements-remote.txt and requirements-scale.txt install, and what those bring
OPTIONAL = {"fsspec", "s3fs", "gcsfs", "adlfs", "boto3", "botocore", "aiobotocore", "moto"}
OPTIONAL |= {"ray", "pyarrow", "pandas", "optuna", "duckdb", "mlflow"}
SIZE = 1000  # bytes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(locations.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def imported_with(tree: ast.AST) -> set[str]:
    """The packages that are imported as soon as a module is, in any branch of it."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
        found |= imported_with(node)
    return found


def test_nothing_but_the_scale_package_imports_what_only_it_needs():
    for name, path in repository_modules().items():
        found = imported_with(ast.parse(path.read_text(encoding="utf-8")))
        if package_of(name) != "scale":
            assert not found & {*OPTIONAL, "scale"}, name


def test_an_import_in_a_branch_is_found_and_one_in_a_function_is_left_to_its_call():
    text = "try:\n    import ray.data\nexcept ImportError:\n    from s3fs import core\n"
    assert imported_with(ast.parse(text + "def f():\n    import duckdb\n")) == {"ray", "s3fs"}


def test_urls_are_told_from_paths():
    assert is_remote("s3://b/a") and is_remote("memory://a") and is_remote("ftp://a/b")
    assert is_remote(Path("s3://b/a"))
    for path in ("a/b", "/a/b", "C:\\a", "C:/a", "./s3", "s3/b", "a b://c"):
        assert not is_remote(path), path
    assert join("s3://b/a/", "c", "/d.tiff") == "s3://b/a/c/d.tiff"
    assert join(Path("s3://b/a"), "c") == "s3://b/a/c"
    assert Path(join("a", "b", "c")) == Path("a/b/c")


def test_a_missing_package_and_an_unknown_scheme_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        UserError,
        match=r"^s3://b/a: found no package .* -r requirements-remote.txt$",
    ):
        fetch("s3://b/a")
    with pytest.raises(UserError, match=r"ftp://b/a: found the scheme ftp://, expected .* s3://"):
        list_objects("ftp://b/a")
    with pytest.raises(UserError, match=r"s3://: found no name after s3://, expected a bucket"):
        list_objects("s3://")


def test_local_files_are_listed_found_copied_and_never_cached(tmp_path, cache):
    source = tmp_path / "a" / "b" / "x.bin"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"12345")
    put(source, tmp_path / "new" / "y.bin")
    assert (tmp_path / "new" / "y.bin").read_bytes() == b"12345"
    listed = list_objects(tmp_path / "a")
    assert [(entry.location, entry.size) for entry in listed] == [(str(source), 5)]
    assert list_objects(source) == listed == [find_object(source)]
    assert fetch(source) == fetch(listed[0]) == source
    assert list_objects(tmp_path / "none") == []
    with pytest.raises(UserError, match="none: found no such object"):
        find_object(tmp_path / "none")
    assert not cache.exists()


def writer(content: bytes, calls: list[str], name: str = "", seconds: float = 0.0):
    def download(path: Path) -> None:
        calls.append(name)
        time.sleep(seconds)
        path.write_bytes(content)

    return download


def test_threads_that_ask_at_once_download_once():
    calls, content, paths = [], os.urandom(SIZE), []

    def ask() -> None:
        paths.append(cached("s3://b/x.tiff", "1", SIZE, writer(content, calls, seconds=0.2)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(paths)) == 1 and len(paths) == 4
    assert paths[0].read_bytes() == content and paths[0].suffix == ".tiff"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_during_a_download_keeps_nobody_waiting():
    with object_cache._locked("a"):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    taken = threading.Event()

    def take() -> None:
        with object_cache._locked("a"):
            taken.set()

    try:
        threading.Thread(target=take, daemon=True).start()
        assert taken.wait(timeout=30)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_another_etag_is_another_file_and_a_short_one_is_none(cache):
    calls, content = [], os.urandom(SIZE)
    first = cached("s3://b/x", "1", SIZE, writer(content, calls))
    second = cached("s3://b/x", "2", SIZE, writer(content[::-1], calls))
    assert first.read_bytes() == second.read_bytes()[::-1] == content
    with pytest.raises(UserError, match="s3://b/x: found 999 bytes, expected 1000"):
        cached("s3://b/x", "3", SIZE, writer(content[1:], calls))
    first.write_bytes(content[:5])  # as after a loss of power
    assert cached("s3://b/x", "1", SIZE, writer(content, calls)).read_bytes() == content
    files = [path for path in (cache / "blocks").rglob("*") if path.is_file()]
    assert len(files) == 2 and len(calls) == 4


def test_the_least_recently_used_go_first_and_the_bound_holds(monkeypatch, cache):
    monkeypatch.setenv(object_cache.SIZE_VARIABLE, str(5.5 * SIZE / object_cache.GB))
    monkeypatch.setattr(object_cache, "GRACE_SECONDS", 0.0)
    calls = []

    def use(name: str) -> Path:
        path = cached(f"s3://b/{name}", "1", SIZE, writer(b"x" * SIZE, calls, name))
        time.sleep(0.02)  # of which file systems tell the times of use apart
        assert sum(file.stat().st_size for file in cache.glob("blocks/*/*")) <= 5.5 * SIZE
        return path

    for name in "abcdeaf":
        use(name)
    assert calls == list("abcdef")
    use("a")  # used after b, so b made room for f
    assert calls == list("abcdef")
    use("b")
    assert calls == list("abcdefb")


def test_what_was_just_fetched_stays_though_the_bound_is_passed(monkeypatch, cache):
    monkeypatch.setenv(object_cache.SIZE_VARIABLE, str(1.5 * SIZE / object_cache.GB))
    for name in "abc":
        cached(f"s3://b/{name}", "1", SIZE, writer(b"x" * SIZE, []))
    assert len(list(cache.glob("blocks/*/*"))) == 3


@pytest.mark.parametrize("text", ("0", "-1", "nan", "much"))
def test_a_bound_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(object_cache.SIZE_VARIABLE, text)
    with pytest.raises(UserError, match=f"REMOTE_CACHE_GB: found '{text}'"):
        cached("s3://b/a", "1", SIZE, writer(b"x" * SIZE, []))
