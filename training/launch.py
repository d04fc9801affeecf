"""Start trainer.py in several processes, one per GPU; on the CPU they share the cores.

    python training/launch.py 8 trainer.py --training_dataset_path /data/strips/train/good

NPROC=8 bash train.sh runs this. It does the same as torchrun --standalone --nproc_per_node=8,
except that Ctrl-C and SIGTERM end it as they end every other command.
"""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


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
    try:
        torchrun(["--standalone", f"--nproc_per_node={processes}", *command])
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code  # a shell's convention: 128 + signal
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit(
            f"error: found {' '.join(sys.argv[1:2]) or 'nothing'}, "
            "expected a number of processes (NPROC) and a command"
        )
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
