"""Intersection over union as PASCAL VOC counts it: over all pixels of a list, not per photo."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from wsss.errors import InputError

THRESHOLDS = tuple(n / 50 for n in range(1, 41))  # of the background of activation maps


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each class: float64 (..., classes) in [0, 1], nan for a class
    neither present nor predicted; of pixels ``counts[..., target, prediction]``, integers
    (..., classes, classes).
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """The mean of ``iou(counts)`` over the classes that occur: float64 (...) in [0, 1]; nan where
    nothing was counted.
    """
    return np.ma.filled(np.ma.masked_invalid(iou(counts)).mean(-1), np.nan)


class ConfusionMatrix:
    """Counts ``matrix[target, prediction]``, int64, of pixels by pairs of ``num_classes`` classes,
    with the background at most 255. Pixels whose target is ``ignore`` are left out.
    """

    def __init__(self, num_classes: int, ignore: int = 255) -> None:
        self.num_classes, self.ignore = num_classes, ignore
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count one label map against its mask, both integers (H, W). Raises InputError if the
        shapes differ or a value is not a class.
        """
        prediction, target = np.asarray(prediction), np.asarray(target)
        if prediction.shape != target.shape:
            raise InputError(
                f"prediction is {prediction.shape} but target is {target.shape}; they must be equal"
            )
        for name, values in (("prediction", prediction), ("target", target)):
            if values.dtype != np.uint8 and values.size:  # bytes are checked below
                self._expect(name, values.min(), most=255)
                self._expect(name, values.max(), most=255)
        # a histogram of all pairs of bytes takes a sixth of the time of selecting pixels first
        pairs = target.astype(np.uint16) << 8 | prediction.astype(np.uint8, copy=False)
        pairs = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
        pairs[self.ignore] = 0
        for name, found in (("prediction", pairs.sum(0)), ("target", pairs.sum(1))):
            self._expect(name, found.nonzero()[0].max(initial=0), most=self.num_classes - 1)
        self.matrix += pairs[: self.num_classes, : self.num_classes]

    def _expect(self, name, value, *, most):
        if not 0 <= value <= most:
            raise InputError(
                f"{name} holds {value}, expected 0 to {self.num_classes - 1}; fix the label map"
            )

    def merge(self, other: "ConfusionMatrix") -> Self:
        """Add another's counts; returns self."""
        self.matrix += other.matrix
        return self

    def iou(self) -> np.ndarray:
        """``iou`` of the counts: float64 (num_classes,)."""
        return iou(self.matrix)

    def miou(self) -> float:
        """``mean_iou`` of the counts."""
        return float(mean_iou(self.matrix))


class ThresholdSweep:
    """Confusion matrices of activation maps at every background threshold, in one pass over the
    photos: a pixel is background where its largest map is below the threshold. Each threshold
    corresponds to an alpha of equation 2, see ``threshold_of``. ``num_classes`` counts the
    background; ``thresholds`` are ascending, in [0, 1].
    """

    def __init__(
        self, num_classes: int, thresholds: Sequence[float] = THRESHOLDS, *, ignore: int = 255
    ) -> None:
        self.num_classes, self.ignore = num_classes, ignore
        self.thresholds = np.asarray(thresholds)
        self.counts = np.zeros((num_classes, num_classes, len(self.thresholds) + 1), np.int64)

    def update(self, maps: np.ndarray, classes: Sequence[int], *, target: np.ndarray) -> None:
        """Count the maps of one photo, float (C, H, W) in [0, 1], of C classes by number, against
        its mask ``target``, integers (H, W).
        """
        counted = target != self.ignore
        best = np.array(classes)[maps.argmax(0)][counted]
        # how many of the thresholds the largest map reaches
        passed = np.searchsorted(self.thresholds, maps.max(0)[counted], side="right")
        cells = np.ravel_multi_index((target[counted], best, passed), self.counts.shape)
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def confusion(self, index: int) -> ConfusionMatrix:
        """The ``ConfusionMatrix`` at ``thresholds[index]``."""
        matrix = ConfusionMatrix(self.num_classes, self.ignore)
        matrix.matrix += self.counts[:, :, index + 1 :].sum(2)
        matrix.matrix[:, 0] += self.counts[:, :, : index + 1].sum((1, 2))
        return matrix

    def miou(self) -> np.ndarray:
        """Mean IoU at each threshold, float64 (len(thresholds),)."""
        return np.array([self.confusion(index).miou() for index in range(len(self.thresholds))])


def threshold_of(alpha: float) -> float:
    """The m in (0, 1) at which ``(1 - m)^alpha = m``: below it the background score (equation 2)
    exceeds a map.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** alpha > middle else (low, middle)
    return low
