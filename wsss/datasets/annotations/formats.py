"""Label maps in the formats of annotation tools, in the photo's own size, and corrections read."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from wsss.datasets.annotations import labelme
from wsss.datasets.photos import photo_size, read_png, resize_mask
from wsss.datasets.tags import expect_classes, normal
from wsss.datasets.voc import read_mask
from wsss.errors import InputError, reason
from wsss.io import atomic
from wsss.io.artifacts import IGNORE, voc_palette
from wsss.io.text import read_text
from wsss.runtime.progress import progress

JSON_BYTES = 2**28  # at most; labelme may embed the photo
CVAT_BACKGROUND = "background"  # CVAT's own name for pixels without a label


def coco(maps: Iterable[tuple[str, np.ndarray]], classes: Sequence[str]) -> dict[str, Any]:
    """Label maps, uint8 (H, W), with their photos' file names, as COCO's instances for JSON: one
    run-length mask per photo and class, whose number, from 1, is its category id.
    """
    images, annotations = [], []
    for name, labels in maps:
        height, width = labels.shape
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        for number in sorted(set(np.unique(labels).tolist()) - {0, IGNORE}):
            runs: Any = coco_mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))
            entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": number}
            entry["segmentation"] = {"size": [height, width], "counts": runs["counts"].decode()}
            entry["area"] = int(coco_mask.area(runs))
            entry["bbox"] = coco_mask.toBbox(runs).tolist()  # x, y, width, height
            annotations.append(entry | {"iscrowd": 0})  # COCO's evaluation leaves crowds out
    named = enumerate(classes, 1)
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in named]
    return {"images": images, "annotations": annotations, "categories": categories}


class LabelMaps(NamedTuple):
    """Label maps of photos: 0 background, 1.. classes, 255 ignored."""

    folder: Path  # with <id>.png
    ids: Sequence[str]
    classes: Sequence[str]  # names of the numbers from 1
    photo: Callable[[str], Path]  # id to the photo's path, which ends in the id and an extension

    def read(self, photo_id: str) -> tuple[np.ndarray, tuple[int, int]]:
        """``(label map, (height, width) of its photo)``; the photo may be larger in proportion.
        InputError if one cannot be read, or the label map is of another photo.
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
    atomic.write_text(path, json.dumps(coco(named, maps.classes), ensure_ascii=False) + "\n")


def write_labelme(maps: LabelMaps, out: Path) -> None:
    """Write ``out/<id>.json`` for labelme, unless it exists: it may have been corrected."""
    for photo_id in progress(maps.ids, "labelme"):
        target, photo = out / f"{photo_id}.json", maps.photo(photo_id)
        if target.exists():
            continue
        labels, size = maps.read(photo_id)
        image = os.path.relpath(photo.parent.resolve() / photo.name, target.parent.resolve())
        where = Path(image).as_posix()
        content = labelme.annotation(labels, maps.classes, image_path=where, size=size)
        atomic.write_text(target, json.dumps(content, ensure_ascii=False) + "\n")


def cvat_lines(classes: Sequence[str]) -> str:
    """The text of CVAT's ``labelmap.txt``: names with VOC's colours, in the order of their numbers,
    and ``__ignore__`` for 255; InputError for a name that the format cannot represent.
    """
    names = sorted(labelme.label_names(classes, CVAT_BACKGROUND).items())
    for _, name in names:
        if ":" in name or name.startswith("#") or len(name.splitlines()) != 1:
            raise InputError(f"class {name!r}: CVAT wants names without ':' and '#'; rename it")
    palette = voc_palette()
    lines = [f"{name}:{','.join(map(str, palette[number]))}::\n" for number, name in names]
    return "# label:color_rgb:parts:actions\n" + "".join(lines)


def write_cvat(maps: LabelMaps, out: Path) -> None:
    """Write a folder in the format "Segmentation mask 1.1" of CVAT, a server for annotating photos.
    A zip archive of its contents can be imported into a task of these photos whose labels are the
    classes and ``__ignore__``.
    """
    lines = cvat_lines(maps.classes)
    for photo_id in progress(maps.ids, "cvat"):
        # CVAT would take values of a single channel for line numbers, and 255 would need 256 lines
        picture = Image.fromarray(voc_palette()[maps.enlarged(photo_id)])
        # without objects, CVAT would take background for one
        for kind in ("SegmentationClass", "SegmentationObject"):
            with atomic.write(out / kind / f"{photo_id}.png") as partial:
                picture.save(partial, format="PNG")
    listed = "".join(f"{photo_id}\n" for photo_id in maps.ids)
    atomic.write_text(out / "ImageSets" / "Segmentation" / "default.txt", listed)
    atomic.write_text(out / "labelmap.txt", lines)


def cvat_labels(picture: np.ndarray, lines: str, *, classes: Sequence[str]) -> np.ndarray:
    """The label map, uint8 (H, W), of a picture, uint8 (H, W, 3), in the colours of ``lines``, the
    text of a ``labelmap.txt``. These may list more names than the ``classes``, numbered from 1.
    InputError if the text has another format, or a pixel's colour is not that of a class.
    """
    values = labelme.label_names(classes, CVAT_BACKGROUND)
    numbers = {normal(name): number for number, name in values.items()}
    names = {0: CVAT_BACKGROUND}  # black, unless the text says otherwise
    for line in lines.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, colour, _, _ = line.strip().split(":")
            red, green, blue = bytes(int(value) for value in colour.split(","))
        except ValueError:
            wanted = "'name:red,green,blue::'"
            raise InputError(f"labelmap.txt: expected {wanted} but got {line!r}; fix it") from None
        names[red << 16 | green << 8 | blue] = normal(name)
    codes = picture @ np.array([1 << 16, 1 << 8, 1], np.int32)
    found, place = np.unique(codes, return_inverse=True)
    for code in found.tolist():
        if names.get(code) not in numbers:
            colour = ",".join(map(str, code.to_bytes(3)))
            where = f"{names[code]!r} in labelmap.txt" if code in names else "not in labelmap.txt"
            wanted = f"expected one of: {', '.join(numbers)}"
            raise InputError(f"the colour {colour} is {where}; {wanted}")
    values = np.array([numbers[names[code]] for code in found.tolist()], np.uint8)
    return values[place].reshape(codes.shape)


def read_correction(
    path: Path, classes: Sequence[str], *, colours: str | None = None
) -> np.ndarray:
    """The label map, uint8 (H, W), of labelme's JSON (``labelme.label_map``), of an index mask, or
    of a picture in ``colours``, the text of a ``labelmap.txt``.
    """
    drawn = path.suffix == ".json"
    if not drawn and colours is None:
        return read_mask(path, num_classes=len(classes))
    what = "labelme's JSON"
    content: Any = read_text(path, what, most=JSON_BYTES) if drawn else read_png(path, colours=True)
    try:
        if drawn:
            return labelme.label_map(json.loads(content), classes)
        return cvat_labels(content, colours or "", classes=classes)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({reason(error)}); save it again") from None


def read_corrections(
    folder: Path | str, classes: Sequence[str], *, ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """Corrected label maps: id to uint8 (H, W), 0 background, 1.. classes, 255 ignored, in the
    order of ``ids``, those of the photos that may have one.

    Reads every ``<id>.json`` of labelme and every index mask ``<id>.png`` in the folder and those
    in it; or, if it has a ``labelmap.txt``, the colours in ``SegmentationClass``, as CVAT exports
    them. Hidden and other files are ignored. Raises InputError for no corrections, one of an
    unknown photo, two of one photo, one that cannot be read or has an unknown label, and index
    masks with other classes in a ``classes.txt``.
    """
    folder, names = Path(folder), {normal(each): each for each in ids}
    listed, root, colours = folder / "labelmap.txt", folder, None
    if listed.exists():
        root, colours = folder / "SegmentationClass", read_text(listed, "labels' colours")
    found = {}
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inner.parts)
        if hidden or inner.suffix not in (".json", ".png") or not path.is_file():
            continue
        photo_id = names.get(name := normal(inner.as_posix()).removesuffix(inner.suffix))
        if photo_id is None:
            raise InputError(f"{path}: there is no photo '{name}' with tags; rename or remove it")
        if photo_id in found:
            raise InputError(f"{path}: there is {found[photo_id].name} too; keep one of them")
        found[photo_id] = path
    if not found:
        raise InputError(f"{root}: expected <id>.json or <id>.png but found none; check the path")
    if not listed.exists() and any(path.suffix == ".png" for path in found.values()):
        expect_classes(folder, classes)  # the others name their classes
    wanted = [each for each in ids if each in found]
    return {each: read_correction(found[each], classes, colours=colours) for each in wanted}
