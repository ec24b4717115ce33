"""Dense CRF (Krähenbühl & Koltun, 2011): one lattice per photo, any number of score sets."""

from dataclasses import dataclass

import numpy as np
from pydensecrf import densecrf

FLOOR = 1e-5  # scores below count as this, so that an absent class costs a finite energy


@dataclass(frozen=True)
class CrfParams:
    """Widths in pixels or grey values, weights without a unit; the defaults are the paper's
    ("default" of the original code, as the released code has them)."""

    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 80
    bilateral_srgb: float = 13
    bilateral_compat: float = 10


class DenseCRF:
    """A fully connected CRF over one photo.

    Args:
        image: uint8 RGB (H, W, 3).
        params: ``CrfParams``.
    """

    def __init__(self, image, params=CrfParams()):
        # pydensecrf wants a writable, contiguous image
        self._image = np.array(image, dtype=np.uint8, order="C")
        self._params = params
        self._models = {}

    def infer(self, scores, steps=10):
        """Mean-field marginals of scores that need not be normalised.

        Only the present classes need a map: cost grows with their number, and the result is the
        same.

        Args:
            scores: float (C, H, W), not negative; the unary energy is ``-log(max(score, 1e-5))``.
            steps: mean-field iterations.

        Returns:
            float32 (C, H, W), summing to 1 over C at each pixel.
        """
        scores = np.asarray(scores, np.float32)
        count, height, width = scores.shape
        if (height, width) != self._image.shape[:2]:
            raise ValueError(
                f"scores are {height}x{width} but the image is "
                f"{self._image.shape[0]}x{self._image.shape[1]}"
            )
        model = self._models.get(count)
        if model is None:
            model = self._models[count] = self._model(count)
        unary = -np.log(np.maximum(scores, FLOOR)).reshape(count, -1)
        model.setUnaryEnergy(np.ascontiguousarray(unary))
        return np.array(model.inference(steps), np.float32).reshape(count, height, width)

    def _model(self, count):
        height, width = self._image.shape[:2]
        params = self._params
        model = densecrf.DenseCRF2D(width, height, count)
        model.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
        model.addPairwiseBilateral(
            sxy=params.bilateral_sxy,
            srgb=params.bilateral_srgb,
            rgbim=self._image,
            compat=params.bilateral_compat,
        )
        return model
