"""Stand in for a Python interpreter: `python -S tests/fork_client.py WORD...` does what `python
WORD...` does.

The process is one of the fork server's, whose socket the environment names. This one, started in a
fiftieth of a second, hands it its streams, passes signals on and ends as it does.
"""

import os
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(__file__))  # where PYTHONSAFEPATH keeps Python from it

import fork_server


def main(words: list[str]) -> int:
    environment = dict(os.environ)
    threads = int(environment.get("OMP_NUM_THREADS", 1))
    request = {
        "words": words,
        "folder": os.getcwd(),
        "environment": environment,
        "threads": threads,
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(environment[fork_server.ADDRESS])
        fork_server.send(connection, request, [1, 2])
        answers = connection.makefile()
        process = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: os.kill(process, number))
        return int(answers.readline())


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
