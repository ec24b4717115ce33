"""Scores of label maps and activation maps: the photos that count, and IoU against their masks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from wsss.datasets import Dataset, tuning_split
from wsss.datasets.voc import read_mask
from wsss.errors import InputError, reason
from wsss.geometry import upsample
from wsss.io import atomic
from wsss.io.artifacts import IGNORE, load_cams, read_arrays
from wsss.metrics import ConfusionMatrix, ThresholdSweep
from wsss.synthesis import label_map


def eval_splits(dataset: Dataset, split: str, *, tuning_photos: int = 0) -> dict[str, list[str]]:
    """The id lists that get a score, without the photos that have no mask: ``split``; with
    ``tuning_photos`` also ``<split>_tuning``, of that many photos, which constants are chosen on,
    and the others as ``<split>_held_out``. Empty if no photo has a mask. Raises InputError if none
    would be held out.
    """
    ids = dataset.masked(dataset.ids(split))
    lists = {split: ids} if ids else {}
    if tuning_photos and ids:
        if tuning_photos >= len(ids):
            masked = f"score_split {split} has {len(ids)} photos with a mask"
            raise InputError(f"tuning_photos {tuning_photos}: {masked}; leave some to be scored")
        tuning, held_out = tuning_split(ids, tuning_photos)
        lists |= {f"{split}_tuning": tuning, f"{split}_held_out": held_out}
    return lists


def describe(dataset: Dataset, split: str, *, lists: Mapping[str, Sequence[str]]) -> str:
    """One line on the photos and masks behind the scores of ``lists``, from ``eval_splits``."""
    count, masked = len(dataset.ids(split)), len(lists.get(split, ()))
    if not masked:
        return f"no photo of {split} has a mask in {dataset.mask_folder}: no scores"
    photos = f"{masked} of the {count} photos" if masked < count else f"{count} photos"
    return f"{split}, {photos}; masks: {dataset.mask_folder}"


def protocol(parameters: Mapping) -> str:
    """The inference settings behind a network's scores, from the parameters of 70_evaluate."""
    steps = parameters["crf_steps"]
    parts = [f"scales {parameters['scales']}", "flip" if parameters["flip"] else "no flip"]
    if walk := parameters.get("walk_steps"):  # absent in old runs
        parts.append(f"walk of t {walk}, beta {parameters['walk_beta']:g}")
    return ", ".join([*parts, f"dCRF {steps} steps" if steps else "no dCRF"])


def gallery_ids(dataset: Dataset, split: str, *, count: int = 16) -> list[str]:
    """Ids of the photos that every stage shows: evenly spaced in the split's id list."""
    ids = dataset.ids(split)
    places = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    return [ids[place] for place in places]


def mask_if_any(dataset: Dataset, photo_id: str) -> np.ndarray | None:
    """A photo's mask, uint8 (H, W), or None."""
    return dataset.mask(photo_id) if dataset.masked([photo_id]) else None


def class_names(dataset: Dataset, maps: Iterable[np.ndarray | None]) -> dict[int, str]:
    """Number to name of the classes that occur in label maps, for their legend."""
    found = {value for each in maps if each is not None for value in np.unique(each).tolist()}
    return {k: dataset.classes[k - 1] for k in sorted(found - {0, IGNORE})}


@dataclass(frozen=True)
class Confusions:
    """The ``ConfusionMatrix`` of each of many photos: ``counts`` is int64 (photos, classes *
    classes), target first, with the background.
    """

    num_classes: int
    ids: list[str]
    counts: sparse.csr_array

    @cached_property
    def _rows(self):
        return {photo_id: row for row, photo_id in enumerate(self.ids)}

    def total(self, ids: Iterable[str]) -> ConfusionMatrix:
        """The merged ``ConfusionMatrix`` of some photos."""
        matrix = ConfusionMatrix(self.num_classes)
        rows = np.array([self._rows[photo_id] for photo_id in ids], int)
        matrix.matrix += self.counts[rows].sum(0).reshape(matrix.matrix.shape)
        return matrix

    def __contains__(self, photo_id: str) -> bool:
        return photo_id in self._rows

    def __getitem__(self, photo_id: str) -> ConfusionMatrix:
        return self.total([photo_id])


def count_labels(
    photos: Iterable[tuple[str, np.ndarray, np.ndarray]], *, num_classes: int
) -> Confusions:
    """Count label maps against masks, given each photo's id, label map and mask, and the number of
    classes with the background; see ``ConfusionMatrix.update``.
    """
    ids, cells, counts = [], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for photo_id, labels, target in photos:
        matrix = ConfusionMatrix(num_classes)
        matrix.update(labels, target)
        ids.append(photo_id)
        cells.append(np.flatnonzero(matrix.matrix).astype(np.int32))
        counts.append(matrix.matrix.ravel()[cells[-1]])
    parts = (np.concatenate(counts), np.concatenate(cells), np.cumsum([*map(len, cells)]))
    return Confusions(num_classes, ids, sparse.csr_array(parts, (len(ids), num_classes**2)))


def save_confusions(path: Path, confusions: Confusions) -> None:
    """Write the counts of each photo, by id, to an .npz file."""
    counts, classes = confusions.counts, np.array([confusions.num_classes])
    arrays = {"starts": counts.indptr, "cells": counts.indices, "counts": counts.data}
    with atomic.write(path) as partial, partial.open("wb") as file:
        ids = np.array(confusions.ids, np.str_)
        np.savez_compressed(file, ids=ids, classes=classes, **arrays)


def load_confusions(path: Path) -> Confusions:
    """Read a file of ``save_confusions``; raise InputError if it is missing, damaged or another
    kind of file.
    """
    integers = dict.fromkeys(("classes", "starts", "cells", "counts"), ("i", 1))
    try:
        found = read_arrays(path, ids=("U", 1), **integers)
        (classes,), ids = found["classes"].tolist(), found["ids"].tolist()
        if not 0 < classes < 256 or len(set(ids)) < len(ids):
            raise ValueError(f"{classes} classes and {len(ids)} ids")
        parts = (found["counts"].astype(np.int64), found["cells"], found["starts"])
        counts = sparse.csr_array(parts, (len(ids), classes**2))
        counts.check_format()
        if (counts.data < 0).any():
            raise ValueError("counts below 0")
        return Confusions(classes, ids, counts)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a file of confusion counts ({reason(error)}); run its stage again with "
            "--force"
        ) from None


def log_confusions(run, confusions: Confusions, *, name: str) -> None:
    """Write counts to ``confusions/<name>.npz`` of a ``StageRun``'s folder, and log the file."""
    path = run.folder / "confusions" / f"{name}.npz"
    save_confusions(path, confusions)
    run.log_file(path, "confusions")


def score_labels(dataset: Dataset, ids: Iterable[str], *, folder: Path) -> Confusions:
    """Count label maps ``folder/<id>.png`` against the dataset's masks."""
    return count_labels(_labels(dataset, ids, folder), num_classes=len(dataset.classes) + 1)


def _labels(dataset, ids, folder):
    """Each photo's id, label map and mask."""
    for photo_id in ids:
        labels = read_mask(folder / f"{photo_id}.png", num_classes=len(dataset.classes))
        yield photo_id, labels, dataset.mask(photo_id)


def score_cams(
    dataset: Dataset, ids: Iterable[str], *, folder: Path, threshold: float
) -> Confusions:
    """Count activation maps ``folder/<id>.npz`` at one background threshold, against the masks."""
    before = ((1, 0), (0, 0), (0, 0))  # a map of the background before those of the classes
    photos = (
        (photo_id, label_map(np.pad(maps, before, constant_values=threshold), classes), target)
        for photo_id, classes, maps, target in _cams(dataset, ids, folder)
    )
    return count_labels(photos, num_classes=len(dataset.classes) + 1)


def sweep_cams(dataset: Dataset, ids: Iterable[str], *, folder: Path) -> ThresholdSweep:
    """Count activation maps ``folder/<id>.npz`` at all background thresholds, against the masks."""
    sweep = ThresholdSweep(len(dataset.classes) + 1)
    for _, classes, maps, target in _cams(dataset, ids, folder):
        sweep.update(maps, classes, target=target)
    return sweep


def _cams(dataset, ids, folder):
    """Each photo's id, classes, activation maps of the mask's size, and mask."""
    for photo_id in ids:
        classes, cams = load_cams(folder / f"{photo_id}.npz")
        target = dataset.mask(photo_id)
        yield photo_id, classes, upsample(cams, target.shape).numpy(), target


def score_regions(dataset: Dataset, ids: Iterable[str], *, folder: Path) -> dict[str, float]:
    """Coverage and precision, in [0, 1], of affinity labels ``folder/<id>.png`` against the masks:
    the share of pixels whose label is not neutral, and that of pixels labelled as an object (or as
    background) that the mask labels the same. Pixels that the mask ignores do not count.
    """
    pixels, labelled, right = 0, np.zeros(2), np.zeros(2)
    for _, labels, target in _labels(dataset, ids, folder):
        counted = target != IGNORE
        kinds = np.stack([(labels > 0) & (labels != IGNORE), labels == 0]) & counted  # (2, H, W)
        pixels += counted.sum()
        labelled += kinds.sum((1, 2))
        right += (kinds & (labels == target)).sum((1, 2))
    precision = right / np.maximum(labelled, 1)
    return {
        "regions_coverage": labelled.sum() / pixels,
        "regions_object_share": labelled[0] / pixels,
        "regions_object_precision": precision[0],
        "regions_background_precision": precision[1],
    }


def iou_table(dataset: Dataset, columns: Mapping[str, ConfusionMatrix]) -> pd.DataFrame:
    """IoU in percent: one row per class and the mean, one column per named ``ConfusionMatrix``."""
    frame = pd.DataFrame({name: 100 * matrix.iou() for name, matrix in columns.items()})
    frame.insert(0, "class", ["background", *dataset.classes])
    frame.loc[len(frame)] = ["mean", *(100 * matrix.miou() for matrix in columns.values())]
    return frame
