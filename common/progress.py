"""Progress bars that say in 80 columns what matters: what is done, the time left, the loss."""

from typing import Any

from tqdm import tqdm

# tqdm cuts a line that is too long at its end, so the least important part comes last
FORMAT = "{l_bar}{bar}| {remaining} left{postfix}, {n_fmt}/{total_fmt}, {rate_fmt}"


def progress_bar(*arguments: Any, **settings: Any) -> tqdm:
    """A tqdm bar of FORMAT, on a terminal only, that vanishes at its end.

    Arguments are those of `tqdm`, and override these settings.
    """
    return tqdm(*arguments, **{"bar_format": FORMAT, "disable": None, "leave": False} | settings)
