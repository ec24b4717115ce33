"""A small copy of a devkit: the same photos, labels and masks with fewer pixels."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from PIL import Image

from wsss.datasets.photos import photo_size, resize_mask
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.artifacts import save_labels
from wsss.runtime.progress import progress


def shrink(source: Path | str, target: Path | str, *, long_side: int) -> Devkit:
    """Copy a devkit with its photos at most ``long_side`` pixels long, from 32.

    Half the side is a quarter of the work in every stage; scores hold for the copy alone. Photos
    are resampled with anti-aliasing at JPEG quality 95, masks by the nearest pixel. Copies are kept
    until their originals change. Id lists are written last, so that an interrupted copy can
    continue and is never taken for a complete one. Raises InputError if a photo, mask, label or
    list is missing or broken, the target is the source or a copy of another size, or ``long_side``
    is below 32.
    """
    kit, target = Devkit(source), Path(target)
    if long_side < 32:
        raise InputError(f"long side {long_side}: expected at least 32 pixels; give more")
    if target.resolve() in (kit.root.resolve(), Path(source).resolve()):
        raise InputError(f"{target}: this is the devkit to copy from; name another folder")
    paths = sorted((kit.root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not paths:
        raise InputError(f"{kit.root}: no id list in ImageSets/Segmentation; add train.txt")
    lists = {path.name: kit.ids(path.stem) for path in paths}
    labels = {each: kit.labels(each) for each in sorted({*chain(*lists.values())})}
    for photo_id in progress(labels, "shrink"):
        _copy(kit, photo_id, target, long_side)
    write_labels(target, labels, classes=kit.classes)
    atomic.write_text(target / "classes.txt", "\n".join([*kit.classes, ""]))
    for name, ids in lists.items():
        listed = target / "ImageSets" / "Segmentation" / name
        atomic.write_text(listed, "\n".join([*ids, ""]))
    return Devkit(target)


def write_labels(root: Path, labels: Mapping[str, list[int]], *, classes: Sequence[str]) -> None:
    """Write a devkit's ``image_labels.csv``: photos' ids, and their classes by numbers from 1."""
    text = io.StringIO()
    named = ((each, ";".join(classes[k - 1] for k in labels[each])) for each in labels)
    csv.writer(text, lineterminator="\n").writerows([("id", "labels"), *named])
    atomic.write_text(root / "image_labels.csv", text.getvalue())


def _copy(kit, photo_id, target, long_side):
    photo = target / "JPEGImages" / f"{photo_id}.jpg"
    mask = target / kit.mask_folder / f"{photo_id}.png"
    photo_source, mask_source = kit.image_path(photo_id), kit.mask_path(photo_id)
    image = Image.fromarray(kit.image(photo_id))
    scale = min(1, long_side / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    kept = _is_current(photo, photo_source)
    if kept and (found := photo_size(photo)) != (height, width):
        raise InputError(
            f"{photo}: expected {width}x{height} but found {found[1]}x{found[0]}; name another "
            "folder or delete this one"
        )
    if not mask_source.exists():
        mask.unlink(missing_ok=True)
    elif not _is_current(mask, mask_source):
        save_labels(mask, resize_mask(kit.mask(photo_id), (height, width)))
    if not kept:
        with atomic.write(photo) as partial:  # after the mask, which may be unreadable
            small = image.resize((width, height), Image.Resampling.BICUBIC)
            small.save(partial, format="JPEG", quality=95)


def _is_current(path, source):
    # the time of status changes cannot be set back, as copying an older file sets the other one
    return path.exists() and path.stat().st_mtime_ns > source.stat().st_ctime_ns
