"""A process that has imported the libraries and forks commands, which so start in half a second.

Started by tests/processes.py as `python tests/fork_server.py DESCRIPTOR`, that of a listening Unix
socket. It ends when its standard input does, and takes with it what still runs.

Each connection is a process. The request comes as JSON behind its length, with the descriptors of
standard output and error. The answer is a line with the process id and, once the process has ended,
a line with its exit code, negative for a signal.

What it forks is a Python process like any other, with an id, signal handlers, threads and an end of
its own, and it imports the repository's modules itself. It differs from one that a user starts in
the libraries that are there before it imports them, and in its hash seed, which is the server's.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

# Not ONNX Runtime: it starts a thread when it is imported, and threads do not survive a fork.
LIBRARIES = (
    "cv2",
    "matplotlib.backends.backend_agg",
    "numpy",
    "onnx",
    "onnxscript",
    "scipy.spatial",
    "scipy.stats",
    "sklearn.metrics",
    "tifffile",
    "torch._inductor",
    "torch.distributed.run",
    "torch.onnx._internal.exporter._core",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "tqdm",
)
ADDRESS = "TESTS_FORK_SERVER"  # the environment variable that says where the socket is
SIZE = 8  # bytes of a request's length


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """A request and the descriptors that came with it."""
    size, descriptors, _, _ = socket.recv_fds(connection, SIZE, 2)
    with connection.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(size))), descriptors


def send(connection: socket.socket, request: dict, descriptors: list[int]) -> None:
    """The counterpart of `receive`."""
    text = json.dumps(request).encode()
    socket.send_fds(connection, [len(text).to_bytes(SIZE)], descriptors)
    connection.sendall(text)


def serve(listener: socket.socket) -> dict:
    """Fork a process for each request. Returns, in that process alone, the request."""
    received, awakened = socket.socketpair()
    for end in (received, awakened):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(awakened.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (listener, received, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    for process in running:
                        os.kill(process, signal.SIGKILL)
                    os._exit(0)
                if key.fileobj is received:
                    received.recv(4096)
                    answer_ended(running)
                    continue
                connection, _ = listener.accept()
                try:
                    request, descriptors = receive(connection)
                except (OSError, ValueError):  # whoever asked has gone
                    connection.close()
                    continue
                process = os.fork()
                if not process:
                    for number, descriptor in enumerate(descriptors, start=1):
                        os.dup2(descriptor, number)
                    signal.set_wakeup_fd(-1)
                    for own in (*running.values(), connection, listener, received, awakened):
                        own.close()
                    for descriptor in descriptors:
                        os.close(descriptor)
                    return request
                for descriptor in descriptors:
                    os.close(descriptor)
                running[process] = connection
                answer(connection, process)


def answer_ended(running: dict[int, socket.socket]) -> None:
    """Tell whoever waits for a process that has ended."""
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        with running.pop(process) as connection:
            answer(connection, os.waitstatus_to_exitcode(status))


def answer(connection: socket.socket, number: int) -> None:
    """Send a line, unless whoever asked has gone."""
    with contextlib.suppress(OSError):
        connection.sendall(f"{number}\n".encode())


def become(request: dict) -> None:
    """Turn this process into the one that was asked for, up to its first line of code."""
    import torch

    if request.get("new_session"):
        os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    open_streams(is_buffered=not os.environ.get("PYTHONUNBUFFERED"))
    tempfile.tempdir = None  # it depends on the environment
    torch.set_num_threads(request["threads"])
    if request.get("largest_file"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)


def open_streams(is_buffered: bool) -> None:
    """Open standard output and error as Python does.

    The server's own have looked at other files, and know what those can do.
    """
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        file = open(number, "wb", -1 if is_buffered else 0, closefd=False)  # noqa: SIM115
        stream = io.TextIOWrapper(
            file, None, errors, line_buffering=number == 2, write_through=not is_buffered
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(words: list[str]) -> None:
    """Do what `python WORD...` does: [-u] SCRIPT, -m MODULE or -c CODE, and its arguments."""
    if words[0] == "-u":
        open_streams(is_buffered=False)
        words = words[1:]
    what, *arguments = words
    if what == "-m":
        # of PYTHONPATH, the first folder alone
        is_safe, folders = "PYTHONSAFEPATH" in os.environ, os.environ.get("PYTHONPATH", "")
        sys.path[0] = folders.split(os.pathsep)[0] if is_safe else os.getcwd()
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if what == "-c":
        code, *arguments = arguments
        sys.path[0], name = "", "<string>"
    else:
        code, name = Path(what).read_bytes(), what
        sys.path[0], main.__file__ = str(Path(what).absolute().parent), what
    sys.argv = [what, *arguments]
    exec(compile(code, name, "exec"), main.__dict__)


class Rank:
    """A process that is forked before torchrun has threads and waits for what to run.

    torchrun takes it for a `subprocess.Popen`.
    """

    def __init__(self, earlier: list["Rank"]):
        self.end, request = socket.socketpair()
        self.returncode, self.request = None, None
        self.pid = os.fork()
        if not self.pid:
            for one in (*earlier, self):
                one.end.close()
            text = request.makefile("rb").read()
            if not text:
                os._exit(0)  # none was needed
            self.request = json.loads(text)
            os.setsid()
            request.sendall(b".")
        request.close()

    def start(self, words: tuple[str, ...], environment: dict[str, str]) -> "Rank":
        """Returns when the process has a session of its own, in which torchrun may end it."""
        with self.end:
            self.end.sendall(json.dumps({"words": words[1:], "environment": environment}).encode())
            self.end.shutdown(socket.SHUT_WR)
            self.end.recv(1)
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        return self.returncode


def fork_ranks(count: int) -> list[str] | None:
    """Let torchrun, in this process, fork the processes that it starts.

    Returns, in one of them, what that one is to run.
    """
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    ranks: list[Rank] = []
    for _ in range(count):
        rank = Rank(ranks)
        if rank.request:
            os.environ.clear()
            os.environ.update(rank.request["environment"])
            return rank.request["words"]
        ranks.append(rank)
    left = iter(ranks)
    subprocess_handler.Popen = lambda args, env, **streams: next(left).start(args, env)
    return None


def main(listener: socket.socket) -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        sys.exit(
            f"error: found {threads} threads after the imports, expected one: "
            "others would be lost in a fork"
        )
    gc.collect()
    gc.freeze()  # or a child's collections would copy every page
    request = serve(listener)
    become(request)
    words = request["words"]
    if Path(words[0]).name == "launch.py":
        words = fork_ranks(int(words[1])) or words
    run(words)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
