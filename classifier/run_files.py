"""The files of a classifier's run: one run a folder, so their names need no run's name.

last.pth             last checkpoint; --resume continues here
best_accuracy.pth    of the epoch with the highest balanced accuracy on valid/
best_iou.pth         of the epoch with the highest IoU of defective images on valid/
arguments.json, environment.json, metrics.jsonl, events/, samples.png, curves.png
mlflow.json          with --mlflow: which run it is there
"""

from pathlib import Path

from classifier.defect_checkpoint import BEST_ACCURACY, BEST_IOU, LAST
from classifier.defect_settings import STAGE1_FOLDER, STAGE2_FOLDER
from training.checkpoint import BEST_SUFFIX
from training.run_folder import RunFolder

BEST_IOU_SUFFIX = "_best_iou.pth"
NAMES = {".pth": LAST, BEST_SUFFIX: BEST_ACCURACY, BEST_IOU_SUFFIX: BEST_IOU}


class DefectRunFolder(RunFolder):
    """The files of the only run in `folder`."""

    def __init__(self, folder: Path):
        super().__init__(folder, "", (BEST_IOU_SUFFIX,))

    @property
    def title(self) -> str:
        """The folder's name, behind that of the run where it is one of its stages."""
        folder = self.folder.absolute()
        is_stage = folder.name in (STAGE1_FOLDER, STAGE2_FOLDER)
        return f"{folder.parent.name}-{folder.name}" if is_stage else folder.name

    def file(self, suffix: str) -> Path:
        return self.folder / NAMES.get(suffix, suffix.removeprefix("_"))

    def bests_beside(self, last: Path) -> dict[Path, Path]:
        names = (BEST_ACCURACY, BEST_IOU)
        return {self.folder / name: last.with_name(name) for name in names}
