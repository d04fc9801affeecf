"""Commands in processes of their own, forked by tests/fork_server.py or started as a user does.

A forked one needs none of the seconds that the libraries' imports take.
"""

import functools
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch

from tests import fork_server
from tests.fork_server import ADDRESS

# Environment variables that are looked at when a process starts or imports, and then never again.
UNTIL_START = ("LD_", "PYTHON", "GLIBC_", "MALLOC_", "CXX")
HAS_SERVER = sys.platform == "linux"  # elsewhere a fork does not bear what the libraries have begun


def start_server() -> None:
    """Start the server of this process and of those that it starts.

    Requests wait until the server has imported everything.
    """
    listener = socket.socket(socket.AF_UNIX)
    address = Path(tempfile.mkdtemp(prefix="tests_")) / "socket"
    listener.bind(str(address))
    listener.listen(64)
    command = [sys.executable, fork_server.__file__, str(listener.fileno())]
    # no threads, but for those that a child asks for
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with address.with_name("log").open("w") as log:
        start_server.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # it ends when this process does
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    listener.close()
    os.environ[ADDRESS] = str(address)


def ensure_server() -> bool:
    """Have a server, where there can be one; whether there is."""
    if HAS_SERVER and ADDRESS not in os.environ:
        start_server()
    return HAS_SERVER


def stop_server() -> None:
    """End the server that this process has started, if any."""
    process = getattr(start_server, "process", None)
    if process:
        process.stdin.close()
        process.wait()
        address = Path(os.environ.pop(ADDRESS))
        for path in (address, address.with_name("log")):
            path.unlink(missing_ok=True)
        address.parent.rmdir()


def write_interpreter(path: Path) -> None:
    """Write a script that stands in for the interpreter that runs the tests.

    It starts at once what it is asked for, unless GENUINE is in the environment.
    """
    genuine = f'exec "{sys.executable}" "$@"'
    client = Path(fork_server.__file__).with_name("fork_client.py")
    quick = f'exec "{sys.executable}" -S "{client}" "$@"' if ensure_server() else genuine
    path.write_text(f'#!/bin/sh\nif [ "$GENUINE" ]; then {genuine}; else {quick}; fi\n')
    path.chmod(0o755)


@functools.cache
def threads_of_torch() -> int:
    """How many threads torch takes in a process where nothing says how many."""
    return torch.get_num_threads()


class ForkedProcess:
    """A process of the fork server, with the interface of a `subprocess.Popen` of text streams.

    `stdout` and `stderr` are `subprocess.PIPE` or open files.
    """

    def __init__(
        self,
        words: list[str],
        folder: Path,
        environment: Mapping[str, str],
        stdout: int | IO = subprocess.PIPE,
        stderr: int | IO = subprocess.PIPE,
        new_session: bool = False,
        largest_file: int = 0,
    ):
        ensure_server()
        self.args, self.returncode = words, None
        request = {
            "words": words,
            "folder": str(folder),
            "environment": dict(environment),
            "new_session": new_session,
        }
        request |= {
            "largest_file": largest_file,
            "threads": int(environment.get("OMP_NUM_THREADS", threads_of_torch())),
        }
        streams = [_Stream(stdout), _Stream(stderr)]
        self.stdout, self.stderr = (stream.file for stream in streams)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.environ[ADDRESS])
        fork_server.send(self._connection, request, [stream.descriptor for stream in streams])
        for stream in streams:
            stream.handed_over()
        self._answers = self._connection.makefile()
        self.pid = self._next_answer()

    def _next_answer(self) -> int:
        line = self._answers.readline()
        if not line:
            log = Path(os.environ[ADDRESS]).with_name("log")
            raise RuntimeError(f"the fork server has ended: {log.read_text()}")
        return int(line)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._end()
        return self.returncode

    def _end(self) -> None:
        self.returncode = self._next_answer()
        self._answers.close()
        self._connection.close()

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """What it printed on both streams, once it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        texts: dict[str, str] = {}
        readers = []
        for name in ("stdout", "stderr"):
            if getattr(self, name):
                readers.append(threading.Thread(target=self._read, args=(name, texts), daemon=True))
                readers[-1].start()
        self.wait(timeout)
        for reader in readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        return texts.get("stdout"), texts.get("stderr")

    def _read(self, name: str, texts: dict[str, str]) -> None:
        with getattr(self, name) as file:
            texts[name] = file.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(9)


class _Stream:
    """A descriptor to hand over and, of a pipe, the file to read what is written to it."""

    def __init__(self, wanted: int | IO):
        self.file, self.is_own = None, wanted == subprocess.PIPE
        if self.is_own:
            reading, self.descriptor = os.pipe()
            self.file = open(reading)  # noqa: SIM115
        else:
            self.descriptor = wanted if isinstance(wanted, int) else wanted.fileno()

    def handed_over(self) -> None:
        if self.is_own:
            os.close(self.descriptor)


def must_be_genuine(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment has to be started as a user starts it."""
    return not HAS_SERVER or any(
        environment.get(name) != os.environ.get(name)
        for name in {*environment, *os.environ}
        if name.startswith(UNTIL_START) and name != "PYTHONUNBUFFERED"
    )


def start(
    *words: object,
    folder: Path | str = ".",
    environment: Mapping[str, str] | None = None,
    genuine: bool = False,
    new_session: bool = False,
    largest_file: int = 0,
    **streams: IO,
) -> "subprocess.Popen | ForkedProcess":
    """Start `python WORD...`.

    `environment` is added to this process's own. `largest_file` is in bytes, 0 for no limit.
    A `genuine` process is one that a user starts.
    """
    texts, whole = list(map(str, words)), os.environ | (environment or {})
    if not genuine and not must_be_genuine(whole):
        return ForkedProcess(
            texts,
            Path(folder).absolute(),
            whole,
            new_session=new_session,
            largest_file=largest_file,
            **streams,
        )
    limited = functools.partial(_limit_files, largest_file) if largest_file else None
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    command = [sys.executable, *texts]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=whole,
        text=True,
        start_new_session=new_session,
        preexec_fn=limited,
        **streams,
    )


def _limit_files(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def run(*words: object, timeout: float = 600, **options: object) -> subprocess.CompletedProcess:
    """`python WORD...` to its end. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
    process = start(*words, **options)
    try:
        printed, errors = process.communicate(timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)
