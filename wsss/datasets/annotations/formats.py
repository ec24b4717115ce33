"""Label maps in the forms that annotation tools load, and what people corrected there read back.

Label maps lie as ``<folder>/<id>.png``: 0 background, 1.. classes, 255 ignored. They are written
for the photo's own size, also where they are of the photo made smaller.
"""

import json
import os
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from wsss.datasets.annotations import cvat, labelme
from wsss.datasets.photos import photo_size, read_png
from wsss.datasets.tags import normal
from wsss.datasets.voc import read_mask
from wsss.errors import InputError, reason
from wsss.io import atomic
from wsss.io.artifacts import IGNORE
from wsss.io.text import read_text
from wsss.runtime.progress import progress

JSON_BYTES = 2**28  # at most; labelme may keep the photo itself in it


def coco(maps, classes):
    """Label maps as COCO's instances, a dict for JSON: for each photo and class that it shows, one
    run-length mask of all its pixels. Ignored pixels belong to none.

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
            runs = coco_mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": number,
                    "segmentation": {"size": [height, width], "counts": runs["counts"].decode()},
                    "area": int(coco_mask.area(runs)),
                    "bbox": coco_mask.toBbox(runs).tolist(),  # x, y, width, height
                    "iscrowd": 0,  # crowds are left out when scores are told
                }
            )
    categories = [
        {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(classes, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder, path, ids, classes, photo):
    """Write the label maps of some photos as one file of COCO's instances.

    Args:
        folder: with the label maps.
        path: the JSON file to write.
        ids: of the photos.
        classes: names, of the numbers from 1.
        photo: function from an id to the photo's path, which ends in the id and an extension.

    Raises:
        InputError: a label map or photo that is missing, unreadable, or of another size.
    """
    maps = (
        (_file_name(photo(id), id), _enlarged(folder, id, classes, photo))
        for id in progress(ids, "coco")
    )
    _write_json(path, coco(maps, classes))


def write_labelme(folder, out, ids, classes, photo, *, tolerance=1.0, least_area=10):
    """Write ``out/<id>.json`` for labelme, which finds the photo by its path from there.

    Files that are there are never written over: somebody may have corrected them.

    Args:
        folder, ids, classes, photo: as for ``write_coco``.
        out: the folder to write.
        tolerance, least_area: of ``outlines.outlines``, in pixels of the label map.

    Raises:
        InputError: as ``write_coco``, or one of the files is there.
    """
    targets = {id: Path(out, f"{id}.json") for id in ids}
    for target in targets.values():
        if target.exists():
            raise InputError(f"{target}: is there, perhaps corrected; give another folder")
    for id, target in progress(targets.items(), "labelme"):
        labels, size = _label_map(folder, id, classes, photo)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Path(photo(id))
        image = os.path.relpath(image.parent.resolve() / image.name, target.parent.resolve())
        content = labelme.annotation(
            labels,
            classes,
            Path(image).as_posix(),
            size=size,
            tolerance=tolerance,
            least_area=least_area,
        )
        _write_json(target, content)


def write_cvat(folder, out, ids, classes, photo):
    """Write a folder in CVAT's form "Segmentation mask 1.1"; a zip archive of what is in it can be
    imported into a task of these photos that has the classes and ``__ignore__`` as labels.

    Args:
        folder, ids, classes, photo: as for ``write_coco``.
        out: the folder to write.
    """
    out = Path(out)
    lines = cvat.label_lines(classes)
    for id in progress(ids, "cvat"):
        picture = Image.fromarray(cvat.colours(_enlarged(folder, id, classes, photo)))
        # without objects, CVAT would take background for one
        for kind in ("SegmentationClass", "SegmentationObject"):
            with atomic.write(out / kind / f"{id}.png") as partial:
                picture.save(partial, format="PNG")
    _write_text(
        out / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{id}\n" for id in ids)
    )
    _write_text(out / "labelmap.txt", lines)


def read_labelme(path, classes):
    """The label map, uint8 (H, W) of the photo's size, of a JSON file that labelme saved; see
    ``labelme.label_map``.
    """
    try:
        content = json.loads(read_text(path, "labelme's JSON", most=JSON_BYTES))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({reason(error)}); save it again") from None
    try:
        return labelme.label_map(content, classes)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None


def read_corrections(folder, classes, ids):
    """Label maps that people corrected: a dict from id to uint8 (H, W), 0 background, 1.. classes,
    255 ignored, in the order of ``ids``.

    Read are all ``<id>.json`` of labelme and all ``<id>.png`` with values of pixels, in the folder
    and the folders in it; or, if ``labelmap.txt`` lies in the folder, the colours in
    ``SegmentationClass``, as CVAT exports them. Hidden and other files are passed over.

    Args:
        folder: with the corrections.
        classes: names, of the numbers from 1.
        ids: of the photos that may have one.

    Raises:
        InputError: no corrections, one of no known photo, two of one photo, or one that cannot be
            read or has a label that is no class.
    """
    folder, names = Path(folder), {normal(id): id for id in ids}
    colours = (folder / "labelmap.txt").exists()
    root = folder / "SegmentationClass" if colours else folder
    found = {}
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inner.parts)
        if hidden or inner.suffix not in (".json", ".png") or not path.is_file():
            continue
        name = normal(inner.as_posix()).removesuffix(inner.suffix)
        if name not in names:
            raise InputError(
                f"{path}: there is no photo '{name}' with tags; rename the file or take it away"
            )
        if names[name] in found:
            raise InputError(
                f"{path}: there is {found[names[name]].name} too, for the same photo; keep one"
            )
        found[names[name]] = path
    if not found:
        raise InputError(f"{root}: expected <id>.json or <id>.png but found none; check the path")
    lines = read_text(folder / "labelmap.txt", "labels' colours") if colours else None
    return {id: _correction(found[id], classes, lines) for id in ids if id in found}


def _correction(path, classes, lines):
    if path.suffix == ".json":
        return read_labelme(path, classes)
    if lines is None:
        return read_mask(path, num_classes=len(classes))
    picture = read_png(path, "mask", colours=True)
    try:
        return cvat.label_map(picture, lines, classes)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None


def _label_map(folder, id, classes, photo):
    """``(labels, size)``: a label map and (height, width) of its photo, of which it must be, or of
    the photo made smaller.
    """
    path = Path(folder, f"{id}.png")
    labels, size = read_mask(path, num_classes=len(classes)), photo_size(photo(id))
    if labels.shape not in (size, photo_size(photo(id), long_side=max(labels.shape))):
        raise InputError(
            f"{path}: the label map is {labels.shape[1]}x{labels.shape[0]} but its photo is "
            f"{size[1]}x{size[0]}; make it of this photo"
        )
    return labels, size


def _enlarged(folder, id, classes, photo):
    """A label map of its photo's size."""
    labels, size = _label_map(folder, id, classes, photo)
    if labels.shape == size:
        return labels
    return np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


def _file_name(path, id):
    """A photo's path inside the folder that ids are told from."""
    return "/".join(Path(path).parts[-len(PurePosixPath(id).parts) :])


def _write_json(path, content):
    _write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


def _write_text(path, text):
    with atomic.write(path) as partial:
        partial.write_text(text, encoding="utf-8")
