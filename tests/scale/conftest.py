"""Object storage of the tests: moto's S3 on loopback, behind a proxy that counts and that fails."""

import itertools
import os
from collections.abc import Iterator

import pytest

from benchmarks.scale_server import ACCESS
from common import locations
from tests.scale.faulty_proxy import FaultyProxy

_numbers = itertools.count()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The URL of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto_server: str, tmp_path, monkeypatch) -> Iterator[FaultyProxy]:
    """A proxy before that server; this process and its children use it, with an empty cache."""
    with FaultyProxy(moto_server) as proxy:
        for name in [name for name in os.environ if name.startswith(("AWS_", "S3_"))]:
            monkeypatch.delenv(name)
        mine = {"S3_ENDPOINT_URL": proxy.url, locations.FOLDER_VARIABLE: str(tmp_path / "cache")}
        for name, value in (ACCESS | mine).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def bucket(s3: FaultyProxy, moto_server: str) -> str:
    """The URL of a new, empty bucket."""
    import boto3

    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    boto3.client("s3", endpoint_url=moto_server).create_bucket(Bucket=name)
    return f"s3://{name}"
