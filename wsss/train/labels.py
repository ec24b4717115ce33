"""Label maps of earlier stages, as training labels."""

from pathlib import Path

import numpy as np
import torch

from wsss.affinity import STRIDE, cell_labels
from wsss.datasets.photos import fit_mask
from wsss.datasets.voc import read_mask
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE, load_marginals
from wsss.synthesis import cell_regions


class MaskFolder:
    """``id -> label map (H, W) uint8`` from a folder of PNGs; callable, and picklable for worker
    processes.

    Args:
        folder: with ``<id>.png``.
        num_classes: object classes.
        corrected: id to a label map that replaces the folder's, of its size or of the size of the
            photo's file where the photo was read smaller.
    """

    def __init__(self, folder, num_classes, *, corrected=None):
        self.folder, self.num_classes = Path(folder), num_classes
        self.corrected = corrected or {}

    def __call__(self, photo_id):
        labels = read_mask(self.folder / f"{photo_id}.png", num_classes=self.num_classes)
        if photo_id not in self.corrected:
            return labels
        name = f"photo {photo_id}, corrected by hand"
        return fit_mask(self.corrected[photo_id], labels.shape, name=name)

    def shares(self, ids):
        """Each class's share of the labelled pixels, background first: float64 (1 + classes,)."""
        found = (np.bincount(self(each).ravel(), minlength=IGNORE + 1) for each in ids)
        counts = sum(found, np.zeros(IGNORE + 1, int))[: self.num_classes + 1]
        return counts / counts.sum()


CELL_LABELS = ("pixel", "majority", "probabilities")


class RegionFolder:
    """Affinity labels to train on (section 3.2.2): of whole photos for the transform to crop, and
    of a crop's cells for the loss; picklable for worker processes.

    Args:
        dataset: an open dataset.
        folder: of a completed affinity_labels.
        how: a cell takes the label of its own ``pixel``, that of the ``majority`` of its pixels, or
            that of the CRF's ``probabilities`` averaged over them (released).

    Raises:
        InputError: ``how`` is none of these.
    """

    def __init__(self, dataset, folder, *, how):
        if how not in CELL_LABELS:
            raise InputError(f"cell_labels '{how}': expected one of {', '.join(CELL_LABELS)}")
        self.dataset, self.folder, self.how = dataset, Path(folder), how
        self.masks = MaskFolder(self.folder / "affinity_labels", len(dataset.classes))
        self.fill = 0 if how == "probabilities" else IGNORE  # outside the photo

    def __call__(self, photo_id):
        """A label map (H, W) or marginals (2 + 2C, H, W), low alpha first; uint8."""
        if self.how != "probabilities":
            return self.masks(photo_id)
        _, marginals = load_marginals(self.folder / "marginals" / f"{photo_id}.npz")
        return marginals.reshape(-1, *marginals.shape[-2:])

    def reduce(self, photo_id, crop):
        """The cells' labels (h, w) of a cropped label map or cropped marginals."""
        if self.how != "probabilities":
            return cell_labels(crop, STRIDE, majority=self.how == "majority")
        low, high = crop.chunk(2)
        classes = self.dataset.labels(photo_id)
        return torch.from_numpy(cell_regions(low, high, classes=classes, stride=STRIDE))
