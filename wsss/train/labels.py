"""Label maps of earlier stages, as training labels."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from wsss.affinity import STRIDE, cell_labels
from wsss.datasets import Dataset
from wsss.datasets.photos import fit_mask
from wsss.datasets.tags import expect_classes
from wsss.datasets.voc import read_mask
from wsss.errors import InputError
from wsss.io.artifacts import IGNORE, load_marginals
from wsss.synthesis import cell_regions


class MaskFolder:
    """Function from a photo's id to its label map ``folder/<id>.png``, uint8 (H, W), of these
    classes from 1 on; picklable. Raises InputError for a ``classes.txt`` of others there or above.

    ``corrected`` maps an id to a label map that replaces the folder's, of the same size, or of the
    size of the photo's file if the photo is read smaller.
    """

    def __init__(
        self, folder: str | Path, classes: Sequence[str], *, corrected: Mapping | None = None
    ) -> None:
        self.folder, self.num_classes = Path(folder), len(classes)
        expect_classes(self.folder, classes)
        self.corrected = corrected or {}

    def __call__(self, photo_id: str) -> np.ndarray:
        labels = read_mask(self.folder / f"{photo_id}.png", num_classes=self.num_classes)
        if (mask := self.corrected.get(photo_id)) is None:
            return labels
        return fit_mask(mask, labels.shape, name=f"photo {photo_id}, corrected by hand")

    def shares(self, ids: Iterable[str]) -> np.ndarray:
        """Each class's share of the labelled pixels, background first: float64 (1 + classes,)."""
        found = (np.bincount(self(each).ravel(), minlength=IGNORE + 1) for each in ids)
        counts = sum(found, np.zeros(IGNORE + 1, int))[: self.num_classes + 1]
        return counts / counts.sum()


class RegionFolder:
    """Affinity labels for training (section 3.2.2), from the folder of a completed affinity_labels
    stage: of whole photos, which the transform crops, and of a crop's cells; picklable.

    By ``how``, a cell takes the label of its own ``pixel``, that of the ``majority`` of its pixels,
    or that of the CRF's ``probabilities`` averaged over them (released); else InputError.
    """

    def __init__(self, dataset: Dataset, folder: str | Path, *, how: str) -> None:
        if how not in (known := ("pixel", "majority", "probabilities")):
            raise InputError(f"cell_labels '{how}': expected one of {', '.join(known)}")
        self.dataset, self.folder, self.how = dataset, Path(folder), how
        self.masks = MaskFolder(self.folder / "affinity_labels", dataset.classes)
        self.fill = 0 if how == "probabilities" else IGNORE  # outside the photo

    def __call__(self, photo_id: str) -> np.ndarray:
        """A label map (H, W) or marginals (2 + 2C, H, W), low alpha first; uint8."""
        if self.how != "probabilities":
            return self.masks(photo_id)
        _, marginals = load_marginals(self.folder / "marginals" / f"{photo_id}.npz")
        return marginals.reshape(-1, *marginals.shape[-2:])

    def reduce(self, photo_id: str, crop: torch.Tensor) -> torch.Tensor:
        """The cells' labels (h, w) of a cropped label map or cropped marginals."""
        if self.how != "probabilities":
            return cell_labels(crop, STRIDE, majority=self.how == "majority")
        low, high = crop.chunk(2)
        classes = self.dataset.labels(photo_id)
        return torch.from_numpy(cell_regions(low, high, classes=classes, stride=STRIDE))
