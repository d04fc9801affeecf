"""An archive some of whose strips end the process that opens them, as a crash of a library does."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from scale.archive import Archive
from scale.listed import ListedStrip


@dataclass(frozen=True)
class DeadlyArchive(Archive):
    """The strips `deadly` end any process but the one that made this."""

    deadly: tuple[str, ...] = ()
    maker: int = field(default_factory=os.getpid)

    def open(self, strip: ListedStrip) -> Path:
        if strip.path in self.deadly and os.getpid() != self.maker:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(strip)
