"""Mean intersection over union as PASCAL VOC counts it: over all pixels of a list, not per
photo.
"""

import numpy as np
from scipy import sparse

from wsss.errors import InputError

# background thresholds that activation maps are scored at
THRESHOLDS = tuple(n / 50 for n in range(1, 41))


class ConfusionMatrix:
    """Counts of (target, prediction) pairs of classes; ``matrix[target, prediction]`` is int64.

    Args:
        num_classes: with the background, at most 255.
        ignore: pixels with this target are not counted.
    """

    def __init__(self, num_classes, ignore=255):
        self.num_classes, self.ignore = num_classes, ignore
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction, target):
        """Count one label map (H, W) of class numbers against its mask.

        Raises:
            InputError: other shapes, or a value that is no class.
        """
        prediction, target = np.asarray(prediction), np.asarray(target)
        if prediction.shape != target.shape:
            raise InputError(
                f"prediction is {prediction.shape} but target is {target.shape}; they must be equal"
            )
        prediction = self._bytes("prediction", prediction)
        target = self._bytes("target", target)
        # a histogram of all pairs of bytes takes a sixth of the time of picking out what counts
        pairs = np.bincount((target.astype(np.uint16) << 8 | prediction).ravel(), minlength=1 << 16)
        pairs = pairs.reshape(256, 256)
        pairs[self.ignore] = 0
        for name, found in (("prediction", pairs.sum(0)), ("target", pairs.sum(1))):
            if found[self.num_classes :].any():
                self._refuse(name, found.nonzero()[0].max())
        self.matrix += pairs[: self.num_classes, : self.num_classes]

    def _bytes(self, name, values):
        if values.dtype != np.uint8 and values.size and not 0 <= values.min() <= values.max() < 256:
            self._refuse(name, values.min() if values.min() < 0 else values.max())
        return values.astype(np.uint8, copy=False)

    def _refuse(self, name, value):
        raise InputError(
            f"{name} holds {value}, expected 0 to {self.num_classes - 1}; mend the label map"
        )

    def merge(self, other):
        """Add another's counts; returns self."""
        self.matrix += other.matrix
        return self

    def iou(self):
        """Intersection over union of each class, float64 in [0, 1]; nan for one neither present
        nor predicted.
        """
        hit = np.diag(self.matrix).astype(np.float64)
        union = self.matrix.sum(0) + self.matrix.sum(1) - hit
        return np.divide(hit, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    def miou(self):
        """The mean of ``iou()`` over the classes that occur, in [0, 1]."""
        return float(np.nanmean(self.iou())) if self.matrix.any() else float("nan")


class Confusions:
    """The ``ConfusionMatrix`` of each of many photos, by id. Only counts that are not zero are
    kept, some tens of a photo, however many classes there are.

    Args:
        num_classes, ignore: as of ``ConfusionMatrix``.
        ids, counts: of photos that are there from the start, as the attributes of these names.
    """

    def __init__(self, num_classes, ignore=255, *, ids=(), counts=None):
        self.num_classes, self.ignore = num_classes, ignore
        self._places = {id: place for place, id in enumerate(ids)}
        self._counts, self._new = counts, []

    def add(self, id, prediction, target):
        """Count one more photo's label map against its mask; arguments and errors as of
        ``ConfusionMatrix.update``.
        """
        matrix = ConfusionMatrix(self.num_classes, self.ignore)
        matrix.update(prediction, target)
        self._places[id] = len(self._places)
        cells = np.flatnonzero(matrix.matrix).astype(np.int32)
        self._new.append((cells, matrix.matrix.ravel()[cells]))

    @property
    def ids(self):
        """The photos' ids, in the order in which they were added."""
        return list(self._places)

    @property
    def counts(self):
        """A ``scipy.sparse.csr_array`` (photos, classes * classes) of int64, target first."""
        if self._counts is None:
            self._counts = sparse.csr_array((0, self.num_classes**2), dtype=np.int64)
        if self._new:
            cells, counts = zip(*self._new, strict=True)
            starts = np.cumsum([0, *map(len, cells)])
            parts = (np.concatenate(counts), np.concatenate(cells), starts)
            more = sparse.csr_array(parts, (len(self._new), self.num_classes**2))
            self._counts, self._new = sparse.vstack([self._counts, more], "csr"), []
        return self._counts

    def total(self, ids):
        """The merged ``ConfusionMatrix`` of some photos."""
        matrix = ConfusionMatrix(self.num_classes, self.ignore)
        rows = np.array([self._places[id] for id in ids], int)
        matrix.matrix += self.counts[rows].sum(0).reshape(matrix.matrix.shape)
        return matrix

    def __contains__(self, id):
        return id in self._places

    def __getitem__(self, id):
        return self.total([id])


class ThresholdSweep:
    """Confusion matrices of activation maps at every background threshold, in one pass over the
    photos.

    A pixel is background where its largest map is below the threshold. ``(1 - m)^alpha`` beats m
    exactly where m is below the root of ``(1 - m)^alpha = m``, so a threshold stands for an alpha
    and back (``threshold_of``).

    Args:
        num_classes: with the background.
        thresholds: ascending, in [0, 1].
    """

    def __init__(
        self,
        num_classes,
        thresholds=THRESHOLDS,
        ignore=255,
    ):
        self.num_classes, self.ignore = num_classes, ignore
        self.thresholds = np.asarray(thresholds)
        self.counts = np.zeros((num_classes, num_classes, len(self.thresholds) + 1), np.int64)

    def update(self, maps, classes, target):
        """Count maps (C, H, W) in [0, 1] of the present classes (numbers from 1) against a mask
        (H, W).
        """
        counted = target != self.ignore
        best = np.array(classes)[maps.argmax(0)][counted].astype(np.int64)
        passed = np.searchsorted(
            self.thresholds, maps.max(0)[counted], side="right"
        )  # thresholds that it reaches
        cells = (target[counted].astype(np.int64) * self.num_classes + best) * self.counts.shape[
            2
        ] + passed
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other):
        self.counts += other.counts
        return self

    def confusion(self, index):
        """The ``ConfusionMatrix`` at ``thresholds[index]``."""
        matrix = ConfusionMatrix(self.num_classes, self.ignore)
        above = self.counts[:, :, index + 1 :].sum(2)
        matrix.matrix = above.copy()
        matrix.matrix[:, 0] += self.counts[:, :, : index + 1].sum((1, 2))
        return matrix

    def miou(self):
        """Mean IoU at each threshold, float64 (len(thresholds),)."""
        return np.array([self.confusion(index).miou() for index in range(len(self.thresholds))])


def threshold_of(alpha):
    """The m in (0, 1) at which ``(1 - m)^alpha = m``."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** alpha > middle else (low, middle)
    return low
