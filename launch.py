"""Start trainer.py in several processes, one for each GPU; on the CPU they share the cores.

    python launch.py 8 trainer.py --training_dataset_path /data/strips/train/good     # what NPROC=8 bash train.sh does

The same as torchrun --standalone --nproc_per_node=8, but that Ctrl-C and SIGTERM end it as they end every command.
"""

import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def launch(processes: int, command: list[str]) -> int:
    """Run the command in so many processes. Returns the exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        torchrun(["--standalone", f"--nproc_per_node={processes}", *command])
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
