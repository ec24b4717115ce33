"""What a folder of tagged photos contains, and what is wrong with it, before any training."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from wsss.datasets.folder import Folder
from wsss.errors import InputError
from wsss.io import atomic, safe_yaml
from wsss.io.text import markdown_table, read_bytes
from wsss.runtime.progress import progress

PHOTO_BYTES = 2**29  # of a file; 100 million pixels have at most 300 MB


class Survey(NamedTuple):
    """What ``survey`` found."""

    counts: dict[str, dict[str, int]]  # class name to photos on each id list, and "with mask"
    untagged: list[str]  # ids of photos without tags
    same: list[list[str]]  # paths whose files have the same contents
    unreadable: dict[str, str]  # id to the fault of a photo or its mask
    faults: list[str]  # everything that ``wsss run`` would stop at, one line each


def survey(dataset: Folder) -> Survey:
    """Open every photo and mask, tagged or not, and count."""
    tagged = dataset.labelled()
    contents, unreadable = {}, {}
    for photo_id in progress(list(dataset.photos), "check"):
        try:
            content = read_bytes(dataset.image_path(photo_id), "a photo", most=PHOTO_BYTES)
            digest = hashlib.blake2b(content).digest()
            contents.setdefault(digest, []).append(str(dataset.photos[photo_id]))
            dataset.image(photo_id)
            if dataset.masked([photo_id]):
                dataset.mask(photo_id)
        except InputError as fault:
            unreadable[photo_id] = str(fault)
    lists = {split: set(dataset.ids(split)) for split in dataset.splits()}
    lists["with mask"] = set(dataset.masked(sorted(tagged)))
    counts = {}
    for number, name in enumerate(dataset.classes, 1):
        showing = {photo_id for photo_id in tagged if number in dataset.labels(photo_id)}
        counts[name] = {what: len(showing & ids) for what, ids in lists.items()}
    return Survey(
        counts,
        [photo_id for photo_id in dataset.photos if photo_id not in tagged],
        [paths for paths in contents.values() if len(paths) > 1],
        unreadable,
        [*dataset.check([]), *unreadable.values()],
    )


def describe(dataset: Folder, found: Survey) -> str:
    """A survey as text for people."""
    columns = list(next(iter(found.counts.values()), {}))
    rows = [[name, *counts.values()] for name, counts in found.counts.items()]
    lines = [
        f"{dataset.root}: {len(dataset.photos)} photos, {len(dataset.classes)} classes; tags from "
        f"{dataset.tags_from}",
        markdown_table(["class", *columns], rows),
    ]
    empty = [name for name, counts in found.counts.items() if not counts.get("all")]
    if empty:
        lines.append(f"note: no photo is tagged with {_some(empty)}: it cannot be learnt")
    if found.untagged:
        count = len(found.untagged)
        lines.append(f"note: {count} photos without tags, not trained on: {_some(found.untagged)}")
    lines += [f"note: the same picture: {_some(paths)}" for paths in found.same]
    lines += [f"fault: {fault}" for fault in found.faults]
    return "\n".join(lines)


def _some(names, most=5):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def save(dataset: Folder, found: Survey, *, path: Path, **given) -> None:
    """Write a YAML file that opens as this dataset, with further arguments of ``Folder`` if given,
    without its unreadable photos. Paths in it are relative to its folder.

    Raises:
        InputError: the file exists, or is not named as YAML.
    """
    if path.exists():
        raise InputError(f"{path}: this file exists already; name another")
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path}: expected a name that ends in .yaml")
    content = {"photos": dataset.root, **given, "classes": list(dataset.classes)}
    for name, value in content.items():
        if isinstance(value, Path):
            content[name] = os.path.relpath(value, path.parent)
    if found.unreadable:
        content["leave_out"] = sorted(found.unreadable)
    atomic.write_text(path, safe_yaml.dump(content))
