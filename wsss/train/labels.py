"""Label maps that stages leave for others to train on, photo by photo."""

from pathlib import Path

import numpy as np
import torch

from wsss.affinity import cell_labels
from wsss.datasets.photos import fit_mask
from wsss.datasets.voc import read_mask
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE, load_marginals
from wsss.models import AffinityNetwork
from wsss.synthesis import cell_regions


class MaskFolder:
    """``id -> label map (H, W) uint8`` from a folder of PNGs; callable, and picklable for worker
    processes.

    Args:
        folder: with ``<id>.png``.
        num_classes: object classes.
        corrected: id to a label map that stands in for the folder's, of its size or of the size of
            a photo that was read smaller.
    """

    def __init__(self, folder, num_classes, corrected=None):
        self.folder, self.num_classes = Path(folder), num_classes
        self.corrected = corrected or {}

    def __call__(self, id):
        labels = read_mask(self.folder / f"{id}.png", num_classes=self.num_classes)
        if id not in self.corrected:
            return labels
        return fit_mask(self.corrected[id], labels.shape, f"photo {id}, put right by hand")

    def shares(self, ids):
        """Each class's share of the labelled pixels, background first: float64 (1 + classes,)."""
        counts = sum(np.bincount(self(id).ravel(), minlength=IGNORE + 1) for id in ids)
        counts = counts[: self.num_classes + 1]
        return counts / counts.sum()


CELL_LABELS = ("pixel", "majority", "probabilities")


class RegionFolder:
    """Affinity labels to train on, of whole photos for the transform to crop and of a crop's cells
    for the loss; picklable for worker processes.

    Args:
        dataset: an open dataset.
        folder: of a completed affinity_labels.
        how: a cell takes the label of the ``pixel`` that it stands on, of the ``majority`` of its
            pixels, or what the CRF's ``probabilities``, averaged over them, decide (released).

    Raises:
        InputError: ``how`` is none of these.
    """

    def __init__(self, dataset, folder, how):
        if how not in CELL_LABELS:
            raise InputError(f"cell_labels '{how}': expected one of {', '.join(CELL_LABELS)}")
        self.dataset, self.folder, self.how = dataset, Path(folder), how
        self.masks = MaskFolder(self.folder / "affinity_labels", len(dataset.classes))
        self.fill = 0 if how == "probabilities" else IGNORE  # outside the photo

    def __call__(self, id):
        """A label map (H, W) or marginals (2 + 2C, H, W), low alpha first; uint8."""
        if self.how != "probabilities":
            return self.masks(id)
        _, marginals = load_marginals(self.folder / "marginals" / f"{id}.npz")
        return marginals.reshape(-1, *marginals.shape[-2:])

    def reduce(self, id, crop):
        """The cells' labels (h, w) of a cropped label map or cropped marginals."""
        stride = AffinityNetwork.stride
        if self.how != "probabilities":
            return cell_labels(crop, stride, majority=self.how == "majority")
        return torch.from_numpy(cell_regions(*crop.chunk(2), self.dataset.labels(id), stride))
