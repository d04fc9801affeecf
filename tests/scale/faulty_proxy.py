"""An HTTP proxy on loopback before a storage server: it counts requests, and fails as told."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

NOT_PASSED_ON = ("connection", "transfer-encoding", "keep-alive", "date", "server")


@dataclass(frozen=True)
class Request:
    """What a client asks for: the method and the path, /bucket/key, without the query."""

    method: str
    path: str


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that `fits`.

    Either the answer has `status` and the error `code`, or the connection ends after `cut` of its
    body (a share), or `before` is called first.
    """

    fits: Callable[[Request], bool]
    times: int = 10**9
    status: int = 0
    code: str = ""
    cut: float | None = None
    before: Callable[[], None] | None = None


def gets(name: str = "") -> Callable[[Request], bool]:
    """Whether a request reads an object whose path ends in `name`."""
    return lambda request: (
        request.method == "GET"
        and request.path.count("/") > 1
        and not request.path.endswith("/")
        and request.path.endswith(name)
    )


class FaultyProxy:
    """A server at `url` that passes requests on to `target`, each after `latency` seconds."""

    def __init__(self, target: str):
        self.target = urlsplit(target).netloc
        self.latency = 0.0
        self.requests: list[Request] = []
        self.at_once = self.most_at_once = 0  # requests
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                try:
                    proxy._handle(self)
                except OSError:  # the client, or the server at the end of the tests, is gone
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, **options: object) -> None:
        """Add a `Fault`."""
        self._faults.append(Fault(**options))

    def heal(self) -> None:
        """Forget faults and counts."""
        self._faults.clear()
        self.requests.clear()
        self.most_at_once = 0

    def reads(self) -> Counter[str]:
        """How often each object was asked for, by its path."""
        return Counter(request.path for request in self.requests if gets()(request))

    def _take_fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times > 0 and fault.fits(request):
                    fault.times -= 1
                    return fault
        return None

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        if "chunked" in handler.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("a body in chunks")
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(handler.path).path)
        fault = self._take_fault(Request(handler.command, path))
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.latency)
        with self._lock:
            self.at_once -= 1
        if fault and fault.before:
            fault.before()
        if fault and fault.status:
            self._refuse(handler, fault)
            return
        connection = http.client.HTTPConnection(self.target, timeout=60)
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        answer = connection.getresponse()
        content = answer.read()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (*NOT_PASSED_ON, "content-length"):
                handler.send_header(name, value)
        length = answer.getheader("Content-Length") if handler.command == "HEAD" else len(content)
        handler.send_header("Content-Length", str(length or 0))
        handler.end_headers()
        if fault and fault.cut is not None:
            handler.wfile.write(content[: int(len(content) * fault.cut)])
            handler.close_connection = True
            return
        handler.wfile.write(content)
        connection.close()

    @staticmethod
    def _refuse(handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>told to fail</Message></Error>".encode()
        content = b"" if handler.command == "HEAD" else text
        handler.send_response(fault.status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
