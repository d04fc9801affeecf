"""A folder of object storage as a local one, with what belongs to it beside it."""

from pathlib import Path

from common.locations import place_in_tree, to_url
from common.remote_tree import make_tree
from common.storage import StoredObject, join, list_folders, list_objects
from data.truth_layout import MASK_FOLDERS, SPLIT_NAMES, split_of


def local_view(url: str, with_splits: bool = False, is_data_set: bool = True) -> Path:
    """The local path that stands for a URL of a folder or of one file.

    Files are fetched when they are read. Of a folder in a data set, the folders of masks beside it
    are there, too, and `with_splits` the other splits. Where nothing lies at the URL, nothing lies
    at the path. Raises `UserError` where storage refuses.
    """
    url = to_url(url)
    objects = list_objects(url)
    if is_data_set and objects:
        objects += _beside(url, objects, with_splits)
    return place_in_tree(make_tree(set(objects)), url)


def _beside(url: str, objects: list[StoredObject], with_splits: bool) -> list[StoredObject]:
    """What lies in the folders beside a split that belong to it; `url` may be a kind in it."""
    scheme, _, rest = url.partition("://")
    names = rest.split("/")
    if objects[0].location == url:  # one file
        names = names[:-1]
    if len(names) > 2 and split_of(names[-2]) and not split_of(names[-1]):
        names = names[:-1]
    if len(names) < 2:  # the folders beside a bucket are other buckets
        return []
    root, own = f"{scheme}://{'/'.join(names[:-1])}", names[-1]
    found = []
    for name in list_folders(root):
        if name != own and (is_mask_folder(name) or (with_splits and split_of(name))):
            found += list_objects(join(root, name))
    if objects[0].location == url:
        found += [entry for entry in list_objects(join(root, own)) if _is_table(entry)]
    return found


def _is_table(entry: StoredObject) -> bool:
    return entry.location.lower().endswith(".csv")


def is_mask_folder(name: str) -> bool:
    """Whether a folder of that name beside a split may hold masks of one."""
    folded = name.casefold()
    parts = [part for names in SPLIT_NAMES.values() for part in names]
    return folded in MASK_FOLDERS or any(
        folded in (f"{masks}{joint}{part}", f"{part}{joint}{masks}")
        for masks in MASK_FOLDERS
        for part in parts
        for joint in "_-"
    )
