"""Dense CRF (Krähenbühl & Koltun, 2011): one lattice per photo, any number of score sets."""

import math
from dataclasses import dataclass

import numpy as np
from pydensecrf import densecrf  # type: ignore[attr-defined] - compiled, without stubs

from wsss.errors import InputError

TOGETHER = 60.0  # largest sum of both weights at which several sets are inferred as one model
FLOOR = 1e-5  # smallest score, so that an absent class has a finite energy


@dataclass(frozen=True, kw_only=True)
class CrfParams:
    """Kernel widths in pixels (``sxy``) or grey values (``srgb``), and weights (``compat``). The
    defaults are those of the original CRF code, which the released code keeps. Raises InputError
    for a number that is negative, infinite or, for a width, zero.
    """

    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 80
    bilateral_srgb: float = 13
    bilateral_compat: float = 10

    def __post_init__(self):
        for name, value in vars(self).items():
            # a width divides
            if not (0 <= value < math.inf and (value or name.endswith("compat"))):
                raise InputError(f"{name}: expected a number above 0 but got {value}; change it")


class DenseCRF:
    """A fully connected CRF over one photo, uint8 RGB (H, W, 3)."""

    def __init__(self, image: np.ndarray, params: CrfParams = CrfParams()) -> None:
        # pydensecrf wants a writable, contiguous image
        self._image = np.array(image, dtype=np.uint8, order="C")
        self._params = params
        self._models = {}

    def infer(self, scores: np.ndarray, steps: int = 10) -> np.ndarray:
        """Mean-field marginals, after ``steps`` iterations, of scores, float (C, H, W), or of
        several sets (S, C, H, W): float32 of the same shape, summing to 1 over C at each pixel.
        Scores are not negative and need not be normalised; their unary energy is
        ``-log(max(score, 1e-5))``. Raises ValueError if they are not of the image's size.

        Leave out maps of absent classes: they cost time and do not change the result. Several sets
        in one call take two thirds of the time of one call each.
        """
        scores = np.asarray(scores, np.float32)
        size, expected = scores.shape[-2:], self._image.shape[:2]
        if size != expected:
            raise ValueError(
                f"scores are {size[0]}x{size[1]} but the image is {expected[0]}x{expected[1]}"
            )
        unary = -np.log(np.maximum(scores, FLOOR)).reshape(-1, scores.shape[-3], math.prod(size))
        unary = np.ascontiguousarray(unary)
        weights = self._params.gaussian_compat + self._params.bilateral_compat
        if scores.ndim == 4 and weights <= TOGETHER:
            marginals = self._infer_together(unary, steps)
        else:
            marginals = np.stack([self._infer_one(each, steps) for each in unary])
        return marginals.reshape(scores.shape)

    def _infer_one(self, unary, steps):
        model = self._model(len(unary))
        model.setUnaryEnergy(unary)
        return np.array(model.inference(steps), np.float32)

    def _infer_together(self, unary, steps):
        """Marginals of energies (S, C, N), as one model with S * C labels.

        Labels pass messages only to themselves, so the sets interact only where probabilities are
        normalised over all labels: each set is normalised again after each step. A pass through the
        lattice costs hardly more for four labels than for two.
        """
        sets, classes, pixels = unary.shape
        # all sets start with the same best energy, or one set's probabilities could underflow
        unary = unary - unary.min(1, keepdims=True)
        model = self._model(sets * classes)
        model.setUnaryEnergy(unary.reshape(sets * classes, pixels))
        state = model.startInference()
        marginals = np.asarray(state[0]).reshape(unary.shape)  # a view of the model's own memory
        for step in range(steps + 1):
            if step > 0:
                model.stepInference(*state)
            factor = marginals[:, 0].copy()
            for k in range(1, classes):
                factor += marginals[:, k]
            marginals *= np.reciprocal(factor, out=factor)[:, None]
        return np.array(marginals, np.float32)

    def _model(self, count):
        """The model with ``count`` labels, built once."""
        if count not in self._models:
            (height, width), params = self._image.shape[:2], self._params
            model = densecrf.DenseCRF2D(width, height, count)
            model.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
            model.addPairwiseBilateral(
                sxy=params.bilateral_sxy,
                srgb=params.bilateral_srgb,
                rgbim=self._image,
                compat=params.bilateral_compat,
            )
            self._models[count] = model
        return self._models[count]
