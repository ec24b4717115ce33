"""A dataset in the layout of the PASCAL VOC devkit: photos, image labels, masks and id lists."""

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wsss.datasets.photos import read_photo, read_png
from wsss.datasets.tags import label_vector, read_tags
from wsss.errors import InputError, reason
from wsss.io.artifacts import IGNORE
from wsss.io.text import read_bytes, read_text

VOC_CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]

ANNOTATION_BYTES = 2**20  # at most; VOC's largest have some 10,000


class Devkit:
    """Photos with image labels, and masks that only scores may look at.

    Object classes are numbered 1 to ``len(classes)``; 0 is background and 255 is "ignore", as in
    VOC's masks. Image labels come from ``image_labels.csv`` (columns ``id,labels``, labels
    separated by ``;``) or else from the box annotations in ``Annotations/``, never from masks.

    Args:
        root: the folder that holds ``JPEGImages``, or one with ``VOCdevkit/VOC2012`` inside.
        classes: object class names in the order of the masks' values; None reads ``classes.txt``
            in the folder, or takes VOC's twenty where there is none.
        mask_folder: the folder with the palette PNGs that scores are made against.

    Raises:
        InputError: the folder is missing or has no photos' folder.
    """

    def __init__(self, root, classes=None, *, mask_folder="SegmentationClassAug"):
        root = Path(root)
        nested = root / "VOCdevkit" / "VOC2012"
        self.root = nested if nested.is_dir() else root
        if not (self.root / "JPEGImages").is_dir():
            raise InputError(
                f"{root}: expected a VOC devkit folder (JPEGImages/, ImageSets/Segmentation/) but "
                "found "
                f"{'no such folder' if not root.exists() else 'no JPEGImages/ in it'}; "
                "set data_root to the folder that holds VOCdevkit/VOC2012"
            )
        listed = self.root / "classes.txt"
        if classes is None:
            given = listed.exists()
            classes = read_text(listed, "class names").split() if given else VOC_CLASSES
        self.classes = tuple(classes)
        if not 0 < len(self.classes) < IGNORE or len(set(self.classes)) < len(self.classes):
            raise InputError(
                f"{listed}: expected 1 to 254 class names, each once, but found "
                f"{len(self.classes)}; mend the list"
            )
        self.mask_folder = mask_folder

    def __getstate__(self):
        # tags go along, or each process would read all annotations again
        return vars(self) | {"_labels": self._labels}

    def ids(self, split):
        """The photo ids of ``ImageSets/Segmentation/<split>.txt``, in the list's order."""
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.exists():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise InputError(f"{path}: no such id list; the lists here are: {have}")
        return read_ids(path)

    def image_path(self, id):
        return self.root / "JPEGImages" / f"{id}.jpg"

    def mask_path(self, id):
        return self.root / self.mask_folder / f"{id}.png"

    def image(self, id):
        """The photo as uint8 RGB of shape (H, W, 3), values 0 to 255."""
        return read_photo(self.image_path(id), upright=False)  # masks are of the file as it lies

    def mask(self, id):
        """The mask as uint8 of shape (H, W): 0 background, 1.. classes, 255 ignored."""
        return read_mask(self.mask_path(id), num_classes=len(self.classes))

    def masked(self, ids):
        """Those of some ids that scores are told on: all of them, as each must have its mask."""
        return list(ids)

    def labels(self, id):
        """The classes that the photo is tagged with, as sorted numbers from 1."""
        try:
            return self._labels[id]
        except KeyError:
            pass
        source = self.root / ("image_labels.csv" if self._csv else f"Annotations/{id}.xml")
        raise InputError(f"{source}: no labels for photo {id}; add them or take it off the id list")

    @property
    def _csv(self):
        return (self.root / "image_labels.csv").exists()

    @cached_property
    def _labels(self):
        if not self._csv:
            return {
                path.stem: self.boxed_labels(path.stem)
                for path in sorted((self.root / "Annotations").glob("*.xml"))
            }
        path = self.root / "image_labels.csv"
        found = {}
        for id, labels in read_tags(path).rows:
            if id in found:
                raise InputError(f"{path}: photo {id} is listed twice; keep one line")
            found[id] = self._numbers(labels, f"{path}: photo {id}")
        return {id: numbers for id, numbers in found.items() if numbers}

    def labelled(self):
        """The ids of the photos that have image labels, as a set."""
        return set(self._labels)

    def boxed_labels(self, id):
        """The classes that have a box in ``Annotations/<id>.xml``, as sorted numbers from 1; boxes
        marked difficult count too.
        """
        path = self.root / "Annotations" / f"{id}.xml"
        content = read_bytes(path, "an annotation", most=ANNOTATION_BYTES)
        if b"<!DOCTYPE" in content or b"\0" in content:  # of UTF-16, which would hide the former
            raise InputError(
                f"{path}: expected an annotation without DOCTYPE, in UTF-8, as entities can stand "
                "for anything; replace the file"
            )
        try:
            names = [node.text for node in ElementTree.fromstring(content).findall("object/name")]
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise InputError(
                f"{path}: not a readable annotation ({reason(error)}); replace the file"
            ) from None
        return self._numbers(names, path)

    def _numbers(self, names, where):
        numbers = set()
        for name in names:
            if name not in self.classes:
                raise InputError(
                    f"{where}: label '{name}' is not a class; the classes are: "
                    f"{', '.join(self.classes)}"
                )
            numbers.add(self.classes.index(name) + 1)
        return sorted(numbers)

    def label_vector(self, id):
        """The image labels as float32 of shape (classes,), 1 where the class is present."""
        return label_vector(self.labels(id), len(self.classes))

    def digest(self):
        """A short digest of id lists, image labels, class names and each file's name and size.

        Contents of photos and masks are not read: a changed file of the same size goes unseen.
        """
        state = hashlib.blake2b(digest_size=8)
        state.update("\n".join(self.classes).encode())
        texts = [
            *self.root.glob("ImageSets/Segmentation/*.txt"),
            self.root / "image_labels.csv",
        ]
        for path in sorted(path for path in texts if path.exists()):
            state.update(path.name.encode() + path.read_bytes())
        for folder in ("JPEGImages", "Annotations", self.mask_folder):
            if (self.root / folder).is_dir():
                for path in sorted((self.root / folder).iterdir()):
                    state.update(f"{folder}/{path.name} {path.stat().st_size}\n".encode())
        return state.hexdigest()

    def check(self, splits, *, masks=(), progress=iter):
        """Every fault of the photos in some id lists, as lines of text; an empty list is a sound
        dataset.

        Args:
            splits: names of id lists whose photos and labels must be there and readable.
            masks: those of the lists whose masks must be there, readable and of the photo's size.
            progress: wraps the iteration over ids, to show it.
        """
        faults = []
        with_mask = {id for split in masks for id in self.ids(split)}
        for id in progress(sorted({id for split in splits for id in self.ids(split)})):
            try:
                height, width = self.image(id).shape[:2]
            except InputError as fault:
                faults.append(str(fault))
                continue
            try:
                self.labels(id)
            except InputError as fault:
                faults.append(str(fault))
            if id in with_mask:
                try:
                    mask = self.mask(id)
                except InputError as fault:
                    faults.append(str(fault))
                    continue
                if mask.shape != (height, width):
                    faults.append(
                        f"{self.mask_path(id)}: the mask is {mask.shape[1]}x{mask.shape[0]} but "
                        "its photo is "
                        f"{width}x{height}; replace the mask"
                    )
        return faults


def read_ids(path):
    """The photo ids of a list file, the first word of each line, in the list's order.

    Raises:
        InputError: the list cannot be read, is empty, names a photo twice, or one that would lie
            outside the dataset's folders.
    """
    lines = read_text(path, "an id list").splitlines()
    ids = [line.split()[0] for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path}: the id list is empty; expected one photo id a line")
    for id in ids:
        if id.startswith("/") or ".." in id.replace("\\", "/").split("/"):
            raise InputError(f"{path}: the id '{id}' leaves the dataset's folders; take it out")
    if len(set(ids)) < len(ids):
        (twice, _), *_ = Counter(ids).most_common(1)
        raise InputError(f"{path}: the id '{twice}' is listed twice; keep one line")
    return ids


def read_mask(path, *, num_classes):
    """An index mask (palette or grey PNG) as uint8 (H, W); values up to ``num_classes``, or 255.

    Raises:
        InputError: missing, unreadable, a colour image, or a value that is no class.
    """
    mask = read_png(path, "mask")
    wrong = np.unique(mask[(mask > num_classes) & (mask != IGNORE)])
    if wrong.size:
        raise InputError(
            f"{path}: value {wrong[0]} is no class (0 to {num_classes}, or 255); mend the mask"
        )
    return mask
