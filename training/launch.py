"""Start trainer.py in several processes, one per GPU; on the CPU they share the cores.

    python training/launch.py 8 trainer.py --training_dataset_path /data/strips/train/good

NPROC=8 bash train.sh runs this. It does the same as torchrun --standalone --nproc_per_node=8,
except that Ctrl-C and SIGTERM end it as they end every other command.

On several machines, the same command runs on each, with two more variables:

    NNODES=2 RENDEZVOUS=first-machine:29400 NPROC=8 bash train.sh ... --resume auto

NNODES is the number of machines. The training waits until all have come, and where one is lost, for
that one or another in its place; then it goes on from the last checkpoint. RENDEZVOUS is an address
of one of them, where they meet.
"""

import logging
import os
import sys
import time

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main as torchrun

LAUNCHER = "LAUNCHER_PROCESS"  # read by common/distributed.py, which this script does not find
USER_ERROR = "SIGUSR1"  # sent by a process that found an error which would come again
LONGEST_WAIT = 30 * 24 * 3600  # seconds for a lost machine to come back
MOST_RESTARTS = 1000  # of the processes of this machine
PAUSE = 5.0  # seconds until the next try, where the machine that the others meet at is lost


def launch(processes: int, command: list[str]) -> int:
    """Run a Python command in so many processes and return the exit code.

    The code is 0 on success, 128 + n after signal n, else that of the first process that failed.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            # the processes report their errors themselves
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # seconds that processes have after a signal to finish their step and save it
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ[LAUNCHER] = str(os.getpid())
    machines, address = os.environ.get("NNODES", "1"), os.environ.get("RENDEZVOUS")
    where = _meeting(machines, address) if address else ["--standalone"]
    try:
        while True:
            try:
                torchrun([*where, f"--nproc_per_node={processes}", *command])
                return 0
            except (RendezvousError, DistError) as error:
                if not address:
                    raise
                reason = " ".join(str(error).split())[:200]
                print(f"lost the machines at {address} ({reason}): trying again", file=sys.stderr)
                time.sleep(PAUSE)
    except SignalException as stopped:
        return 1 if stopped.sigval.name == USER_ERROR else 128 + stopped.sigval
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code  # a shell's convention: 128 + signal


def _meeting(machines: str, address: str) -> list[str]:
    """The flags of torchrun for so many machines, always all of them, that meet at an address."""
    return [
        f"--nnodes={machines}",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint={address}",
        f"--rdzv_id={os.environ.get('RUN_ID', 'training')}",
        f"--rdzv_conf=join_timeout={LONGEST_WAIT},last_call_timeout=1",
        f"--max_restarts={MOST_RESTARTS}",
        f"--signals_to_handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,{USER_ERROR}",
    ]


def _find_problem(words: list[str]) -> str | None:
    """What is wrong with a command line and the environment; None where nothing is."""
    if len(words) < 2 or not words[0].isdecimal() or int(words[0]) < 1:
        found = " ".join(words[:1]) or "nothing"
        return f"found {found}, expected a number of processes (NPROC) and a command"
    machines = os.environ.get("NNODES", "1")
    if not machines.isdecimal() or int(machines) < 1:
        return f"NNODES: found {machines}, expected a number of machines"
    if int(machines) > 1 and not os.environ.get("RENDEZVOUS"):
        return "RENDEZVOUS: found nothing, expected HOST:PORT of one of the machines (NNODES)"
    return None


if __name__ == "__main__":
    if problem := _find_problem(sys.argv[1:]):
        sys.exit(f"error: {problem}")
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
