"""A dataset in the layout of the PASCAL VOC devkit: photos, image labels, masks and id lists."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import numpy as np

from wsss.datasets.photos import digest_files, read_photo, read_png
from wsss.datasets.tags import normal, read_classes, read_tags
from wsss.errors import InputError, reason
from wsss.io.artifacts import IGNORE
from wsss.io.text import read_bytes, read_text

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]

ANNOTATION_BYTES = 2**20  # at most; VOC's largest have about 10,000
LEAST_MASKS = 4  # of a class, before its tags are judged: one forgotten tag must not decide


class MaskTags:
    """Masks compared with the tags of their photos: how many show a class that is not a tag."""

    def __init__(self) -> None:
        self.masks = self.untagged = 0  # all, and those that show a class which is not a tag
        self._shown, self._strange = Counter(), Counter()  # by class number

    def add(self, mask: np.ndarray, labels: Iterable[int]) -> None:
        """Count a mask, uint8 (H, W), of a photo with these labels."""
        shown = set(np.flatnonzero(np.bincount(mask.ravel())).tolist()) - {0, IGNORE}
        strange = shown - set(labels)
        self.masks, self.untagged = self.masks + 1, self.untagged + bool(strange)
        self._shown.update(shown)
        self._strange.update(strange)

    def __str__(self) -> str:
        text = "masks show a class that their photo is not tagged with"
        return f"{self.untagged} of {self.masks} {text}"

    def faults(self, dataset) -> list[str]:
        """A line if most masks, or most of those that show some class, show one that is no tag."""
        # people forget tags, and a wrong number lacks nearly all of its own: one half lies between
        shown, strange = self._shown, self._strange
        wrong = [k for k in sorted(shown) if 2 * strange[k] > shown[k] >= LEAST_MASKS]
        if not wrong and not 2 * self.untagged > self.masks >= LEAST_MASKS:
            return []
        names = (f"{strange[k]} of {shown[k]} with {dataset.classes[k - 1]} ({k})" for k in wrong)
        where = ", ".join([f"{dataset.root}: {dataset.mask_folder}: {self}", *names])
        return [f"{where}; number the masks in the order of the classes, or add the tags"]


class Dataset(Protocol):
    """Photos by id, with image labels and masks; classes are numbered from 1."""

    root: Path
    classes: tuple[str, ...]
    mask_folder: str  # its name alone
    long_side, upright = 0, True  # how photos are read, for ``read_photo``
    _labels: dict[str, list[int]]  # by id; none of photos without labels, or an empty list

    def ids(self, split: str) -> list[str]: ...
    def image_path(self, photo_id: str) -> Path: ...
    def mask_path(self, photo_id: str) -> Path: ...
    def masked(self, ids: Iterable[str]) -> list[str]: ...  # those that have a mask
    def labels(self, photo_id: str) -> list[int]: ...  # sorted
    def digest(self) -> str: ...  # of photos, lists and labels; a hyphen; of masks. By contents

    def image(self, photo_id: str) -> np.ndarray:
        """The photo as uint8 RGB (H, W, 3), values 0 to 255."""
        return read_photo(self.image_path(photo_id), long_side=self.long_side, upright=self.upright)

    def mask(self, photo_id: str) -> np.ndarray:
        """The mask as uint8 (H, W), of the size of ``image``."""
        return read_mask(self.mask_path(photo_id), num_classes=len(self.classes))

    def labelled(self) -> set[str]:
        """The ids of the photos that have image labels."""
        return {photo_id for photo_id, labels in self._labels.items() if labels}

    def label_vector(self, photo_id: str) -> np.ndarray:
        """The image labels as float32 (classes,), 1 where the class is present."""
        vector = np.zeros(len(self.classes), np.float32)
        vector[np.array(self.labels(photo_id)) - 1] = 1
        return vector

    def check(
        self,
        splits: Collection[str],
        *,
        masks: Iterable[str] = (),
        progress: Callable = iter,
        compared: MaskTags | None = None,
    ) -> list[str]:
        """The faults of the photos and labels on the id lists ``splits`` and the masks of those on
        ``masks``, one line each. ``progress`` wraps the ids; ``compared`` counts the masks.
        """
        faults, compared = [], compared or MaskTags()
        masked = set(self.masked(photo_id for split in masks for photo_id in self.ids(split)))

        def attempt(read, photo_id):
            try:
                return read(photo_id)
            except InputError as fault:
                faults.append(str(fault))

        for photo_id in progress(sorted({each for split in splits for each in self.ids(split)})):
            photo = attempt(self.image, photo_id)
            if photo is None:
                continue
            labels = attempt(self.labels, photo_id)
            mask = attempt(self.mask, photo_id) if photo_id in masked else None
            if mask is not None and labels:
                compared.add(mask, labels)
            if mask is not None and mask.shape != photo.shape[:2]:
                faults.append(
                    f"{self.mask_path(photo_id)}: the mask is {mask.shape[1]}x{mask.shape[0]} but "
                    f"its photo is {photo.shape[1]}x{photo.shape[0]}; replace the mask"
                )
        return faults + compared.faults(self)


class Devkit(Dataset):
    """Photos with image labels, and masks that only evaluation may read.

    The root contains ``JPEGImages``, or a ``VOCdevkit/VOC2012`` that does. Classes are those of
    ``classes.txt`` or else VOC's twenty. Image labels come from ``image_labels.csv`` (columns
    ``id,labels``, labels separated by ``;``) or else from the boxes in ``Annotations/``, never from
    masks. Raises InputError for a missing folder, one without ``JPEGImages``, or wrong class names.
    """

    mask_folder = "SegmentationClassAug"
    upright = False  # as masks are of the files' pixels

    def __init__(self, root: Path | str):
        root = Path(root)
        nested = root / "VOCdevkit" / "VOC2012"
        self.root = nested if nested.is_dir() else root
        if not (self.root / "JPEGImages").is_dir():
            found = "no JPEGImages/ in it" if root.exists() else "no such folder"
            raise InputError(
                f"{root}: expected a VOC devkit folder (JPEGImages/, ImageSets/Segmentation/) but "
                f"found {found}; set data_root to the folder that contains VOCdevkit/VOC2012"
            )
        listed = self.root / "classes.txt"
        self.classes = read_classes(listed) if listed.exists() else tuple(VOC_CLASSES)

    @property
    def _csv(self):
        return self.root / "image_labels.csv"

    def _boxes(self, photo_id):
        return self.root / "Annotations" / f"{photo_id}.xml"

    def __getstate__(self):
        # with the labels, or each process would read all annotations again
        return vars(self) | {"_labels": self._labels}

    def ids(self, split: str) -> list[str]:
        """The photo ids of ``ImageSets/Segmentation/<split>.txt``, in the list's order."""
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.exists():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise InputError(f"{path}: no such id list; the lists here are: {have}")
        return read_ids(path)

    def image_path(self, photo_id: str) -> Path:
        return self.root / "JPEGImages" / f"{photo_id}.jpg"

    def mask_path(self, photo_id: str) -> Path:
        return self.root / self.mask_folder / f"{photo_id}.png"

    def masked(self, ids: Iterable[str]) -> list[str]:
        return list(ids)  # each photo must have its mask

    def labels(self, photo_id: str) -> list[int]:
        if labels := self._labels.get(photo_id):
            return labels
        path = self._csv if self._csv.exists() else self._boxes(photo_id)
        fix = "add them or take it off the id list"
        raise InputError(f"{path}: no labels for photo {photo_id}; {fix}")

    @cached_property
    def _labels(self):
        if not self._csv.exists():
            names = sorted(path.stem for path in self.root.glob("Annotations/*.xml"))
            return {name: self.boxed_labels(name) for name in names}
        found = {}
        for photo_id, labels in read_tags(self._csv).rows:
            if photo_id in found:
                raise InputError(f"{self._csv}: photo {photo_id} is listed twice; keep one line")
            found[photo_id] = self._numbers(labels, f"{self._csv}: photo {photo_id}")
        return found

    def boxed_labels(self, photo_id: str) -> list[int]:
        """The classes of an annotation's boxes, difficult ones too, as sorted numbers from 1."""
        path = self._boxes(photo_id)
        content = read_bytes(path, "an annotation", most=ANNOTATION_BYTES)
        try:
            # its entities can expand to anything, and UTF-16 would hide it
            if b"<!DOCTYPE" in content or b"\0" in content:
                raise ValueError("expected an annotation without DOCTYPE, in UTF-8")
            names = [node.text for node in ElementTree.fromstring(content).findall("object/name")]
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            fault = f"not a readable annotation ({reason(error)})"
            raise InputError(f"{path}: {fault}; replace the file") from None
        return self._numbers(names, path)

    def _numbers(self, names, where):
        names = [normal(str(name)).strip() for name in names]
        for name in names:
            if name not in self.classes:
                fault = f"label '{name}' is not a class; the classes are: {', '.join(self.classes)}"
                raise InputError(f"{where}: {fault}")
        return sorted({self.classes.index(name) + 1 for name in names})

    def digest(self) -> str:
        """Of class names, id lists, image labels and listed photos; and of their masks."""
        texts = sorted(self.root.glob("ImageSets/Segmentation/*.txt"))
        lists = {path.stem: _listed(read_text(path, "an id list")) for path in texts}
        ids = sorted({photo_id for listed in lists.values() for photo_id in listed})
        tags = [self._csv] if self._csv.exists() else map(self._boxes, ids)
        photos = digest_files(self.root, [*map(self.image_path, ids), *tags])
        known = short_digest([type(self).__name__, self.classes, sorted(lists.items()), photos])
        masks = digest_files(self.root, map(self.mask_path, ids))
        return f"{known}-{short_digest([self.mask_folder, masks])}"


def short_digest(state: object) -> str:
    """Twelve hexadecimal digits of plain values."""
    return hashlib.blake2b(json.dumps(state).encode(), digest_size=6).hexdigest()


def shared_photos(dataset, train: str, val: str) -> list[str]:
    """A line if photos of the id list ``val``, which networks are scored on, are trained on."""
    shared = sorted({*dataset.ids(train)} & {*dataset.ids(val)})
    if not shared:
        return []
    what = f"{len(shared)} photos are on both '{train}' and '{val}', such as {shared[0]}"
    return [f"{dataset.root}: {what}: scores would be of photos trained on; take them off one list"]


def read_ids(path: Path) -> list[str]:
    """The photo ids of a list file, one per line, in its order; without the 1, 0 or -1 behind each
    id of VOC's lists of one class. Raises InputError for a list that cannot be read, is empty,
    names a photo twice, or one outside the folders.
    """
    ids = _listed(read_text(path, "an id list"))
    if not ids:
        raise InputError(f"{path}: the id list is empty; expected one photo id per line")
    for photo_id, count in Counter(ids).items():
        if photo_id.startswith("/") or ".." in photo_id.replace("\\", "/").split("/"):
            raise InputError(f"{path}: '{photo_id}' leaves the dataset's folders; take it out")
        if count > 1:
            raise InputError(f"{path}: the id '{photo_id}' is listed twice; keep one line")
    return ids


def _listed(text):
    ids = [line for each in text.splitlines() if (line := each.strip())]
    flagged = [re.fullmatch(r"(\S+)\s+(-1|0|1)", line) for line in ids]
    return [match[1] for match in flagged if match] if all(flagged) else ids


def read_mask(path: Path, *, num_classes: int) -> np.ndarray:
    """An index mask (palette or grey PNG) as uint8 (H, W); values up to ``num_classes``, or 255.
    Raises InputError for a missing, unreadable or colour image, and for another value.
    """
    mask = read_png(path)
    wrong = np.unique(mask[(mask > num_classes) & (mask != IGNORE)])
    if wrong.size:
        classes = f"0 to {num_classes}, or 255"
        raise InputError(f"{path}: value {wrong[0]} is not a class ({classes}); fix the mask")
    return mask
