"""Scores of label maps and activation maps: the photos that count, and IoU against their masks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from wsss.datasets import Dataset, tuning_split
from wsss.datasets.voc import read_mask
from wsss.errors import InputError, reason
from wsss.geometry import upsample
from wsss.io import atomic
from wsss.io.artifacts import IGNORE, load_cams
from wsss.io.npz import read_arrays
from wsss.metrics import ConfusionMatrix, ThresholdSweep
from wsss.synthesis import label_map


def eval_splits(dataset: Dataset, split: str, *, tuning_photos: int = 0) -> dict[str, list[str]]:
    """The id lists that get a score, without the photos that have no mask.

    Args:
        tuning_photos: the number of the split's photos that constants are chosen on.

    Returns:
        ``split`` and its ids; with ``tuning_photos`` also ``<split>_tuning``, and the others as
        ``<split>_held_out``. Empty if no photo has a mask.
    """
    ids = dataset.masked(dataset.ids(split))
    lists = {split: ids} if ids else {}
    if tuning_photos and ids:
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


class Confusions:
    """The ``ConfusionMatrix`` of each of many photos, by id. Only nonzero counts are stored, some
    tens per photo for any number of classes.

    Args:
        num_classes: with the background.
        ids, counts: of photos counted before; see the attributes.
    """

    def __init__(
        self, num_classes: int, *, ids: Iterable[str] = (), counts: sparse.csr_array | None = None
    ) -> None:
        self.num_classes = num_classes
        self._places = {photo_id: place for place, photo_id in enumerate(ids)}
        empty = sparse.csr_array((0, num_classes**2), dtype=np.int64)
        self._counts, self._new = empty if counts is None else counts, []

    def add(self, photo_id: str, prediction: np.ndarray, *, target: np.ndarray) -> None:
        """Count another photo's label map against its mask; see ``ConfusionMatrix.update``."""
        matrix = ConfusionMatrix(self.num_classes)
        matrix.update(prediction, target)
        self._places[photo_id] = len(self._places)
        cells = np.flatnonzero(matrix.matrix).astype(np.int32)
        self._new.append((cells, matrix.matrix.ravel()[cells]))

    @property
    def ids(self) -> list[str]:
        """The photos' ids, in the order in which they were added."""
        return list(self._places)

    @property
    def counts(self) -> sparse.csr_array:
        """int64 (photos, classes * classes), target first."""
        if self._new:
            cells, counts = zip(*self._new, strict=True)
            starts = np.cumsum([0, *map(len, cells)])
            parts = (np.concatenate(counts), np.concatenate(cells), starts)
            more = sparse.csr_array(parts, (len(self._new), self.num_classes**2))
            self._counts, self._new = sparse.csr_array(sparse.vstack([self._counts, more])), []
        return self._counts

    def total(self, ids: Iterable[str]) -> ConfusionMatrix:
        """The merged ``ConfusionMatrix`` of some photos."""
        matrix = ConfusionMatrix(self.num_classes)
        rows = np.array([self._places[photo_id] for photo_id in ids], int)
        matrix.matrix += self.counts[rows].sum(0).reshape(matrix.matrix.shape)
        return matrix

    def __contains__(self, photo_id: str) -> bool:
        return photo_id in self._places

    def __getitem__(self, photo_id: str) -> ConfusionMatrix:
        return self.total([photo_id])


def save_confusions(path: Path, confusions: Confusions) -> None:
    """Write the counts of each photo, by id, to an .npz file."""
    counts = confusions.counts
    with atomic.write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            ids=np.array(confusions.ids, np.str_),
            classes=np.array([confusions.num_classes]),
            starts=counts.indptr,
            cells=counts.indices,
            counts=counts.data,
        )


def load_confusions(path: Path) -> Confusions:
    """Read a file of ``save_confusions``.

    Raises:
        InputError: missing, damaged or another kind of file.
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
        if counts.nnz and counts.data.min() < 0:
            raise ValueError("counts below 0")
        return Confusions(classes, ids=ids, counts=counts)
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
    confusions = Confusions(len(dataset.classes) + 1)
    for photo_id, labels, target in _labels(dataset, ids, folder):
        confusions.add(photo_id, labels, target=target)
    return confusions


def _labels(dataset, ids, folder) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each photo's id, label map and mask."""
    for photo_id in ids:
        labels = read_mask(folder / f"{photo_id}.png", num_classes=len(dataset.classes))
        yield photo_id, labels, dataset.mask(photo_id)


def score_cams(
    dataset: Dataset, ids: Iterable[str], *, folder: Path, threshold: float
) -> Confusions:
    """Count activation maps ``folder/<id>.npz`` at one background threshold, against the masks."""
    confusions = Confusions(len(dataset.classes) + 1)
    for photo_id, classes, maps, target in _cams(dataset, ids, folder):
        scores = np.concatenate([np.full((1, *target.shape), threshold, np.float32), maps])
        confusions.add(photo_id, label_map(scores, classes), target=target)
    return confusions


def sweep_cams(dataset: Dataset, ids: Iterable[str], *, folder: Path) -> ThresholdSweep:
    """Count activation maps ``folder/<id>.npz`` at all background thresholds, against the masks."""
    sweep = ThresholdSweep(len(dataset.classes) + 1)
    for _, classes, maps, target in _cams(dataset, ids, folder):
        sweep.update(maps, classes, target=target)
    return sweep


def _cams(dataset, ids, folder) -> Iterator[tuple[str, list[int], np.ndarray, np.ndarray]]:
    """Each photo's id, classes, activation maps of the mask's size, and mask."""
    for photo_id in ids:
        classes, cams = load_cams(folder / f"{photo_id}.npz")
        target = dataset.mask(photo_id)
        yield photo_id, classes, upsample(cams, target.shape).numpy(), target


def score_regions(dataset: Dataset, ids: Iterable[str], *, folder: Path) -> dict[str, float]:
    """Coverage and precision, in [0, 1], of affinity labels ``folder/<id>.png`` against the masks.

    Coverage is the share of pixels whose label is not neutral. Precision is the share of pixels
    labelled as an object (or as background) that the mask labels the same. Pixels that the mask
    ignores do not count.
    """
    confident = pixels = 0
    hits, labelled = np.zeros(2), np.zeros(2)
    for _, labels, target in _labels(dataset, ids, folder):
        counted = target != IGNORE
        confident += ((labels != IGNORE) & counted).sum()
        pixels += counted.sum()
        for kind, chosen in enumerate(((labels > 0) & (labels != IGNORE), labels == 0)):
            labelled[kind] += (chosen & counted).sum()
            hits[kind] += (chosen & counted & (labels == target)).sum()
    precision = hits / np.maximum(labelled, 1)
    return {
        "regions_coverage": confident / pixels,
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
