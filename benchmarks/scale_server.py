"""S3 on loopback for measurements: moto's server, which counts requests and answers late."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.locations import FOLDER_VARIABLE
from common.storage import join, put

BUCKET = "archive"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class CountingServer:
    """A server in threads of this process.

    `latency` is the seconds that it waits before it gives an object. `requests` counts what it was
    asked for: "object" for reads of an object, "other" for the rest.
    """

    def __init__(self):
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it prints each request
        self.latency, self.requests = 0.0, Counter()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "CountingServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable) -> Iterable[bytes]:
        is_read = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].count("/") > 1
        self.requests["object" if is_read else "other"] += 1
        if is_read:
            time.sleep(self.latency)
        return self._moto(environ, start)


def add_empty_objects(folder: str, count: int) -> str:
    """Add objects without content to the server of this process, and return their URL."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for number in range(count):
        backend.put_object(BUCKET, f"{folder}/2026-11-{number % 30:02}/strip_{number:07}.tiff", b"")
    return f"s3://{BUCKET}/{folder}"


@contextmanager
def serving(strips: Path, cache: Path) -> Iterator[tuple[CountingServer, str]]:
    """A server with the strips of a folder, and their URL; this process and its children use it.

    `cache` is the folder of what was fetched.
    """
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "S3_"))]:
        del os.environ[name]
    try:
        with CountingServer() as server:
            os.environ |= ACCESS | {"S3_ENDPOINT_URL": server.url, FOLDER_VARIABLE: str(cache)}
            import boto3

            boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket=BUCKET)
            url = f"s3://{BUCKET}/strips"
            for path in sorted(strips.rglob("*.tiff")):
                put(path, join(url, path.relative_to(strips).as_posix()))
            server.requests.clear()
            yield server, url
    finally:
        os.environ.clear()
        os.environ.update(kept)
