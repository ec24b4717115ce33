"""What a folder of tagged photos holds, and what is wrong with it, before anything is trained."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import yaml

from wsss.datasets.photos import refuse_special
from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.text import markdown_table
from wsss.runtime.progress import progress


class Survey(NamedTuple):
    """What ``survey`` found.

    Attributes:
        counts: class name to ``{"photos": , "with mask": , one for each id list}``.
        untagged: ids of photos without tags.
        same: lists of paths whose files have the same contents.
        unreadable: id to the fault of a photo or its mask.
        faults: everything that ``wsss run`` would stop at, as lines of text.
    """

    counts: dict
    untagged: list
    same: list
    unreadable: dict
    faults: list


def survey(dataset):
    """Open every photo and mask of a ``Folder``, tagged or not, and count."""
    tagged = dataset.labelled()
    digests, unreadable = {}, {}
    for id in progress(list(dataset.photos), "check"):
        path = dataset.image_path(id)
        try:
            digests.setdefault(_contents(path), []).append(str(dataset.photos[id]))
            dataset.image(id)
            if dataset.masked([id]):
                dataset.mask(id)
        except InputError as fault:
            unreadable[id] = str(fault)
    lists = {split: set(dataset.ids(split)) for split in dataset.splits()}
    lists["with mask"] = set(dataset.masked(sorted(tagged)))
    counts = {}
    for number, name in enumerate(dataset.classes, 1):
        showing = {id for id in tagged if number in dataset.labels(id)}
        counts[name] = {what: len(showing & ids) for what, ids in lists.items()}
    return Survey(
        counts,
        [id for id in dataset.photos if id not in tagged],
        [paths for paths in digests.values() if len(paths) > 1],
        unreadable,
        [*dataset.check([]), *unreadable.values()],
    )


def _contents(path):
    try:
        refuse_special(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{path}: not a readable file ({reason}); replace it") from None


def describe(dataset, found):
    """A ``Survey`` as text for people."""
    columns = list(next(iter(found.counts.values()), {}))
    rows = [[name, *counts.values()] for name, counts in found.counts.items()]
    lines = [
        f"{dataset.root}: {len(dataset.photos)} photos, {len(dataset.classes)} classes; tags from "
        f"{dataset.tags_from}",
        markdown_table(["class", *columns], rows),
    ]
    empty = [name for name, counts in found.counts.items() if not counts.get("all")]
    if empty:
        lines.append(f"note: no photo shows {_some(empty)}: nothing can be learnt of it")
    if found.untagged:
        lines.append(
            f"note: {len(found.untagged)} photos without tags, not trained on: "
            f"{_some(found.untagged)}"
        )
    lines += [f"note: the same picture: {_some(paths)}" for paths in found.same]
    lines += [f"fault: {fault}" for fault in found.faults]
    return "\n".join(lines)


def _some(names, most=5):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def save(dataset, found, path, **given):
    """Write a description file that opens as this dataset, what cannot be read left out.

    Args:
        path: a new YAML file; paths in it are relative to its folder.
        given: further arguments of ``Folder`` by name, paths among them; those that are None are
            left to their defaults.

    Raises:
        InputError: the file is there already.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: this file is there already; name another")
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path}: expected a name that ends in .yaml")
    relative = {
        name: os.path.relpath(value, path.parent)
        for name, value in ({"photos": dataset.root} | given).items()
        if isinstance(value, Path)
    }
    plain = {k: v for k, v in given.items() if v is not None and not isinstance(v, Path)}
    left_out = {"leave_out": sorted(found.unreadable)} if found.unreadable else {}
    content = relative | plain | {"classes": list(dataset.classes)} | left_out
    with atomic.write(path) as partial:
        partial.write_text(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
