"""What a folder of tagged photos contains, and what is wrong with it, before any training."""

import difflib
import os
from pathlib import Path
from typing import NamedTuple

from wsss.datasets.folder import Folder
from wsss.datasets.photos import digest_files
from wsss.datasets.voc import MaskTags, shared_photos
from wsss.errors import InputError
from wsss.io import atomic, safe_yaml
from wsss.io.text import markdown_table
from wsss.runtime.progress import progress

DARK = 32  # of 255: no value of a 16-bit photo with 12 bits of data exceeds 15
MOST_FAULTS = 1000  # printed one by one; by then their kinds are seen
FEW = 10  # photos of a class, a rule of thumb
ALIKE = 0.85  # similarity in difflib's measure: catt and cat have 0.86, house and horse 0.8


class Survey(NamedTuple):
    """What ``survey`` found."""

    counts: dict[str, dict[str, int]]  # class name to photos on each id list, and "with mask"
    notes: list[str]  # what may be wrong, one line each
    unreadable: dict[str, str]  # id to the fault of a photo or its mask
    faults: list[str]  # all other things that ``wsss run`` would stop at, one line each


def survey(dataset: Folder) -> Survey:
    """Open every photo and mask, tagged or not, and count."""
    tagged = dataset.labelled()
    readable, unreadable, dark, compared = [], {}, [], MaskTags()
    for photo_id in progress(list(dataset.photos), "check"):
        try:
            image = dataset.image(photo_id)
            readable.append(dataset.image_path(photo_id))
            dark += [dataset.photos[photo_id]] if image.max() < DARK else []
            mask = dataset.mask(photo_id) if dataset.masked([photo_id]) else None
            if mask is not None and photo_id in tagged:
                compared.add(mask, dataset.labels(photo_id))
        except InputError as fault:
            unreadable[photo_id] = str(fault)
    same = {}
    for name, digest in digest_files(dataset.root, readable).items():
        same.setdefault(digest, []).append(name)
    lists = {split: set(ids) for split, ids in dataset.splits.items() if ids}
    lists["with mask"] = set(dataset.masked(sorted(tagged)))
    counts = {}
    for number, name in enumerate(dataset.classes, 1):
        showing = {photo_id for photo_id in tagged if number in dataset.labels(photo_id)}
        counts[name] = {what: len(showing & ids) for what, ids in lists.items()}
    faults = [*dataset.check([]), *compared.faults(dataset)]
    if not tagged:
        fix = "give --tags, a tags.csv or tags.json in it, or a folder per tag"
        faults.append(f"{dataset.root}: no photo has tags (from {dataset.tags_from}); {fix}")
    if {"train", "val"} <= lists.keys():
        faults += shared_photos(dataset, "train", "val")
    notes = _class_notes(counts) | {
        "not trained on, without tags": [each for each in dataset.photos if each not in tagged],
        f"nearly black, below {DARK} of 255 (of 16 bits the upper 8 are read)": dark,
        "not read, as photos are JPEG, PNG or WebP": [
            f"{count} {kind}" for kind, count in dataset.unread.most_common()
        ],
    }
    lines = [f"{text}: {_some(names)}" for text, names in notes.items() if names]
    lines += [f"the same picture: {_some(paths)}" for paths in same.values() if paths[1:]]
    lines += [str(compared)] if compared.masks else []
    return Survey(counts, lines, unreadable, faults)


def _class_notes(counts):
    """What may be wrong with classes: text to their names."""
    seen = {name: on["all"] for name, on in counts.items() if on.get("all")}
    likely = []
    for name, count in seen.items():
        folded, others = name.casefold(), {}
        for each in seen:  # a slip is rare; names with numbers look alike as well
            same = each.casefold() == folded and (count, name) < (seen[each], each)
            if same or 3 * count <= seen[each]:
                others[each.casefold()] = each
        for close in difflib.get_close_matches(folded, others, 1, ALIKE):
            likely.append(f"{name} ({count}) for {others[close]} ({seen[others[close]]})")
    return {
        "perhaps misspelt (photos)": likely,
        "cannot be learnt, on no photo": [name for name in counts if name not in seen],
        f"hardly learnt, on under {FEW} photos": [name for name in seen if seen[name] < FEW],
        "no score, on no photo of val": [name for name in seen if not counts[name].get("val", 1)],
    }


def describe(dataset: Folder, found: Survey) -> str:
    """A survey as text for people."""
    columns = list(next(iter(found.counts.values()), {}))
    rows = [[name, *counts.values()] for name, counts in found.counts.items()]
    size = f"{len(dataset.photos)} photos, {len(dataset.classes)} classes"
    lines = [f"{dataset.root}: {size}; tags from {dataset.tags_from}"]
    lines += [markdown_table(["class", *columns], rows)]
    lines += [f"note: {note}" for note in found.notes]
    faults = [*found.faults, *found.unreadable.values()]
    lines += [f"fault: {fault}" for fault in faults[:MOST_FAULTS]]
    if faults[MOST_FAULTS:]:
        lines.append(f"and {len(faults) - MOST_FAULTS:,} more faults")
    return "\n".join(lines)


def _some(names, most=5):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def save(dataset: Folder, found: Survey, *, path: Path, **given) -> None:
    """Write a YAML file that opens as this dataset, with further arguments of ``Folder`` if given,
    without its unreadable photos. Paths in it are relative to its folder. Raises InputError if the
    file exists, or is not named as YAML.
    """
    if path.exists():
        raise InputError(f"{path}: this file exists already; name another")
    if path.suffix not in safe_yaml.YAML:
        raise InputError(f"{path}: expected a name that ends in .yaml")
    content = {"photos": dataset.root, **given, "classes": list(dataset.classes)}
    for name, value in content.items():
        if isinstance(value, Path):
            content[name] = os.path.relpath(value, path.parent)
    if found.unreadable:
        content["leave_out"] = sorted(dataset.photos[each].as_posix() for each in found.unreadable)
    atomic.write_text(path, safe_yaml.dump(content))
