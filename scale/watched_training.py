"""Run trainer.py as a process that ends with the one that has started it.

    python -m scale.watched_training PARENT FLAG...

A process that is killed cannot end its training, which would go on unseen, and hold the GPU and the
lock of its folder.
"""

import runpy
import sys
from pathlib import Path

from common.parent import end_with_parent

TRAINER = Path(__file__).resolve().parent.parent / "trainer.py"

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    sys.argv = [str(TRAINER), *sys.argv[2:]]
    runpy.run_path(str(TRAINER), run_name="__main__")
