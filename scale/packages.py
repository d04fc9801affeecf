"""Where scale/score_archive.py finds what stands in common/packages.py."""

from common.packages import require_packages

__all__ = ["require_packages"]
