"""Label maps in the formats of annotation tools, and people's corrections read back.

Label maps are files ``<folder>/<id>.png``: 0 background, 1.. classes, 255 ignored. They are written
in the photo's own size, also if they were made of the photo at a smaller size.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from wsss.datasets.annotations import cvat, labelme
from wsss.datasets.photos import photo_size, read_png, resize_mask
from wsss.datasets.tags import normal
from wsss.datasets.voc import read_mask
from wsss.errors import InputError, reason
from wsss.io import atomic
from wsss.io.artifacts import IGNORE
from wsss.io.text import read_text
from wsss.runtime.progress import progress

JSON_BYTES = 2**28  # at most; labelme may embed the photo


def coco(maps: Iterable[tuple[str, np.ndarray]], classes: Sequence[str]) -> dict[str, Any]:
    """Label maps as COCO's instances, a dict for JSON: one run-length mask per photo and class.
    Ignored pixels belong to none.

    Args:
        maps: pairs of a photo's file name and its label map, uint8 (H, W).
        classes: names; their numbers, from 1, are the category ids.
    """
    images, annotations = [], []
    for name, labels in maps:
        height, width = labels.shape
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        for number in np.flatnonzero(np.bincount(labels.ravel())).tolist():
            if number in (0, IGNORE):
                continue
            runs: Any = coco_mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": number,
                    "segmentation": {"size": [height, width], "counts": runs["counts"].decode()},
                    "area": int(coco_mask.area(runs)),
                    "bbox": coco_mask.toBbox(runs).tolist(),  # x, y, width, height
                    "iscrowd": 0,  # COCO's evaluation leaves crowds out
                }
            )
    categories = [
        {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(classes, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


class LabelMaps(NamedTuple):
    """Label maps of photos, to be written in a format of an annotation tool."""

    folder: Path  # with <id>.png
    ids: Sequence[str]
    classes: Sequence[str]  # names of the numbers from 1
    photo: Callable[[str], Path]  # id to the photo's path, which ends in the id and an extension

    def read(self, photo_id: str) -> tuple[np.ndarray, tuple[int, int]]:
        """``(label map, (height, width) of its photo)``.

        Raises:
            InputError: one of them is missing or unreadable, or the label map is of another size
                than the photo at full or reduced resolution.
        """
        path, photo = self.folder / f"{photo_id}.png", self.photo(photo_id)
        labels, size = read_mask(path, num_classes=len(self.classes)), photo_size(photo)
        if labels.shape not in (size, photo_size(photo, long_side=max(labels.shape))):
            raise InputError(
                f"{path}: the label map is {labels.shape[1]}x{labels.shape[0]} but its photo is "
                f"{size[1]}x{size[0]}; make it of this photo"
            )
        return labels, size

    def enlarged(self, photo_id: str) -> np.ndarray:
        """The label map in its photo's size."""
        labels, size = self.read(photo_id)
        return labels if labels.shape == size else resize_mask(labels, size)


def write_coco(maps: LabelMaps, path: Path) -> None:
    """Write one JSON file of COCO's instances."""
    named = (  # each photo by as many parts of its path as its id has
        ("/".join(maps.photo(each).parts[-1 - each.count("/") :]), maps.enlarged(each))
        for each in progress(maps.ids, "coco")
    )
    _write_json(path, coco(named, maps.classes))


def write_labelme(maps: LabelMaps, out: Path) -> None:
    """Write ``out/<id>.json`` for labelme, with the photo's path relative to that file.

    Raises:
        InputError: as ``LabelMaps.read``, or a file exists, which may be corrected by hand.
    """
    targets = {each: out / f"{each}.json" for each in maps.ids}
    for target in targets.values():
        if target.exists():
            raise InputError(f"{target}: exists, perhaps corrected; give another folder")
    for photo_id, target in progress(targets.items(), "labelme"):
        labels, size = maps.read(photo_id)
        photo, folder = maps.photo(photo_id), target.parent.resolve()
        image = Path(os.path.relpath(photo.parent.resolve() / photo.name, folder)).as_posix()
        content = labelme.annotation(labels, maps.classes, image_path=image, size=size)
        _write_json(target, content)


def write_cvat(maps: LabelMaps, out: Path) -> None:
    """Write a folder in CVAT's format "Segmentation mask 1.1". A zip archive of its contents can be
    imported into a task of these photos whose labels are the classes and ``__ignore__``.
    """
    lines = cvat.label_lines(maps.classes)
    for photo_id in progress(maps.ids, "cvat"):
        picture = Image.fromarray(cvat.colours(maps.enlarged(photo_id)))
        # without objects, CVAT would take background for one
        for kind in ("SegmentationClass", "SegmentationObject"):
            with atomic.write(out / kind / f"{photo_id}.png") as partial:
                picture.save(partial, format="PNG")
    listed = "".join(f"{photo_id}\n" for photo_id in maps.ids)
    atomic.write_text(out / "ImageSets" / "Segmentation" / "default.txt", listed)
    atomic.write_text(out / "labelmap.txt", lines)


def read_labelme(path: Path, classes: Sequence[str]) -> np.ndarray:
    """The label map, uint8 (H, W) of the photo's size, of a JSON file that labelme saved
    (``labelme.label_map``).
    """
    text = read_text(path, "labelme's JSON", most=JSON_BYTES)
    try:
        return labelme.label_map(json.loads(text), classes)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({reason(error)}); save it again") from None


def read_corrections(
    folder: Path | str, classes: Sequence[str], *, ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """Label maps that people corrected: id to uint8 (H, W), 0 background, 1.. classes, 255 ignored,
    in the order of ``ids``.

    Reads every ``<id>.json`` of labelme and every index mask ``<id>.png`` in the folder and its
    subfolders; or, if the folder has a ``labelmap.txt``, the colours in ``SegmentationClass``, as
    CVAT exports them. Hidden and other files are ignored.

    Args:
        folder: with the corrections.
        classes: names of the numbers from 1.
        ids: of the photos that may have a correction.

    Raises:
        InputError: no corrections, one of an unknown photo, two of one photo, or one that cannot be
            read or has an unknown label.
    """
    folder, names = Path(folder), {normal(each): each for each in ids}
    colours = (folder / "labelmap.txt").exists()
    root = folder / "SegmentationClass" if colours else folder
    found = {}
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inner.parts)
        if hidden or inner.suffix not in (".json", ".png") or not path.is_file():
            continue
        photo_id = names.get(name := normal(inner.as_posix()).removesuffix(inner.suffix))
        if photo_id is None:
            raise InputError(
                f"{path}: there is no photo '{name}' with tags; rename or remove the file"
            )
        if photo_id in found:
            raise InputError(
                f"{path}: there is {found[photo_id].name} too, for the same photo; keep one"
            )
        found[photo_id] = path
    if not found:
        raise InputError(f"{root}: expected <id>.json or <id>.png but found none; check the path")
    lines = read_text(folder / "labelmap.txt", "labels' colours") if colours else None
    return {each: _correction(found[each], classes, lines) for each in ids if each in found}


def _correction(path, classes, lines):
    if path.suffix == ".json":
        return read_labelme(path, classes)
    if lines is None:
        return read_mask(path, num_classes=len(classes))
    picture = read_png(path, "mask", colours=True)
    try:
        return cvat.label_map(picture, lines, classes=classes)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None


def _write_json(path, content):
    atomic.write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
