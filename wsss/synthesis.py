"""Label synthesis (paper, section 3): from a photo and its image labels to a label map, in one call
(``synthesize``) or stage by stage.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from wsss.affinity import NEUTRAL, pair_distance
from wsss.affinity import STRIDE as AFFINITY_STRIDE
from wsss.cam import STRIDE as CAM_STRIDE
from wsss.cam import background_score, multi_scale_cam
from wsss.crf import CrfParams, DenseCRF
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.random_walk import random_walk
from wsss.runtime.devices import as_batch, autocast

Array = np.ndarray | torch.Tensor


def label_map(scores: Array, classes: Iterable[int]) -> np.ndarray:
    """Argmax of (1 + C, H, W) scores, background first, as class numbers: uint8 (H, W)."""
    return np.array([0, *classes], np.uint8)[np.asarray(scores).argmax(0)]


def labels_at(scores: np.ndarray, classes: Iterable[int], *, size: Sequence[int]) -> np.ndarray:
    """``label_map`` of scores, float (1 + C, h, w) in [0, 1], at the size (H, W): uint8. They are
    resized one class at a time, in 7 bytes of memory per pixel.
    """
    height, width = size
    if scores.shape[1:] == (height, width):
        return label_map(scores, classes)
    labels = np.zeros((height, width), np.uint8)
    best = np.full((height, width), -1, np.int16)
    for number, score in zip([0, *classes], scores, strict=True):
        steps = Image.fromarray(np.rint(255 * score).astype(np.uint8))
        resized = np.array(steps.resize((width, height), Image.Resampling.BILINEAR))
        np.copyto(labels, np.uint8(number), where=resized > best)
        np.maximum(best, resized, out=best)
    return labels


def alpha_marginals(
    image: np.ndarray,
    cams: Array,
    *,
    alphas: Sequence[float],
    crf: CrfParams = CrfParams(),
    crf_steps: int = 10,
) -> np.ndarray:
    """The CRF's marginals of maps and of the background score at each alpha (section 3.2.2,
    equation 2): float32 (len(alphas), 1 + C, H, W), background first.

    Args:
        image: uint8 RGB (H, W, 3).
        cams: float (C, h, w) in [0, 1], of the present classes.
        alphas: exponents of the background score; for confident regions, a low one that amplifies
            the background and a high one that weakens it.
    """
    maps = upsample(cams, image.shape[:2]).numpy()
    scores = [np.concatenate([background_score(maps, alpha)[None], maps]) for alpha in alphas]
    return DenseCRF(image, crf).infer(np.stack(scores), crf_steps)


def combine_alphas(low: np.ndarray, high: np.ndarray, *, classes: Sequence[int]) -> np.ndarray:
    """Confident regions from the CRF's marginals (1 + C, H, W) at the low and at the high alpha
    (section 3.2.2): uint8 (H, W) with 0 background, numbers of the C ``classes``, 255 neutral.

    A pixel is an object where the amplified background loses (``low``), background where the
    weakened background wins (``high``), and neutral where both or neither hold.
    """
    low, high = label_map(low, classes), label_map(high, classes)
    return np.where((low > 0) == (high > 0), low, NEUTRAL).astype(np.uint8)


def cell_regions(low: Array, high: Array, *, classes: Sequence[int], stride: int) -> np.ndarray:
    """Confident regions of a grid's cells, uint8 (ceil(H / stride), ceil(W / stride)):
    ``combine_alphas`` of the marginals' means over each cell's ``stride`` x ``stride`` pixels, as
    in the released code. Outside the photo marginals are all zero, and cells neutral.
    """
    low, high = (
        F.avg_pool2d(torch.as_tensor(each).float()[None], stride, ceil_mode=True)[0].numpy()
        for each in (low, high)
    )
    regions = combine_alphas(low, high, classes=classes)
    return np.where(low.sum(0) > 0, regions, NEUTRAL).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Constants of the random walk and of the labels made from it (section 3.4); the defaults are
    the paper's. Raises InputError for a constant out of its range.
    """

    background_alpha: float = 16.0  # equation 2
    beta: float = 8.0  # equation 11
    steps: int | tuple[int, ...] = 256  # t of equation 12, or several
    reduction: str = "mean"  # of the L1 distance over channels
    radius: int = 5  # cells; of the affinities
    border_pairs: bool = True  # see ``affinity.pair_distance``
    # average AffinityNet's features of the photo and of its mirror image, mirrored back; distances
    # get smaller, so the walk needs a larger beta
    flip: bool = False
    restore: float = 0.0  # see ``restore_maxima``
    crf: CrfParams = CrfParams()
    crf_steps: int = 10  # 0 skips the CRF
    crf_sharpness: float = 1.0  # exponent of the scores before the CRF

    def __post_init__(self) -> None:
        limits = {"steps": (0, 10**6), "restore": (0, 1), "crf_steps": (0, 10**4)}
        limits["radius"] = 2, 30  # cells; 1 has no neighbours, 30 has about 1,400
        for name in ("background_alpha", "beta", "crf_sharpness", *limits):
            least, most = limits.get(name, (0, math.inf))
            value = getattr(self, name)
            several = value if isinstance(value, tuple) else (value,)  # of steps
            if not all(least <= each <= most and math.isfinite(each) for each in several):
                span = f"from {least} to {most:,}" if name in limits else f"of {least} or more"
                raise InputError(f"{name}: expected a number {span} but got {value}; change it")
        if self.reduction not in ("mean", "sum"):
            raise InputError(
                f"reduction: expected mean or sum but got '{self.reduction}'; change it"
            )

    @torch.inference_mode()
    def affinities(self, affinity_network: nn.Module, image: np.ndarray) -> torch.Tensor:
        """Affinities of the cells of a photo, uint8 RGB (H, W, 3), by an AffinityNet in evaluation
        mode (equation 3): float32 (K, ceil(H / 8), ceil(W / 8)) in [0, 1], on its device.
        """
        device = next(affinity_network.parameters()).device
        pixels = as_batch(image, device).contiguous(memory_format=torch.channels_last)
        with autocast(device):
            features = affinity_network(pixels).float()
            if self.flip:
                # only the columns from the first cell to the last, so that mirrored cells meet
                columns = AFFINITY_STRIDE * (features.shape[-1] - 1) + 1
                mirrored = pixels[..., :columns].flip(-1)
                mirrored = affinity_network(mirrored.contiguous(memory_format=torch.channels_last))
                features = (features + mirrored.float().flip(-1)) / 2
        distance = pair_distance(
            features, radius=self.radius, reduction=self.reduction, border_pairs=self.border_pairs
        )
        return torch.exp(-distance)[0]


def walk_scores(cams: Array, affinity: torch.Tensor, *, walk: Walk) -> torch.Tensor:
    """Background and class maps after the walk (equations 2, 11 and 12): float32 (1 + C, h, w),
    background first; (len(walk.steps), 1 + C, h, w) for several steps. ``cams``, of the present
    classes, float (C, H, W) at stride 4, and ``affinity``, float (K, h, w) at stride 8, are in
    [0, 1].
    """
    step = AFFINITY_STRIDE // CAM_STRIDE
    maps = torch.as_tensor(cams)[:, ::step, ::step].to(affinity.device)
    scores = torch.cat([background_score(maps, walk.background_alpha)[None], maps])
    walked = random_walk(scores, affinity, beta=walk.beta, steps=walk.steps, radius=walk.radius)
    return restore_maxima(walked, walk.restore)


def restore_maxima(scores: torch.Tensor, share: float, *, backgrounds: int = 1) -> torch.Tensor:
    """Divide each class's map by its maximum to the power of ``share``, after a walk: 0 changes
    nothing, 1 restores the maximum of 1 that the map had before. Of scores, float
    (..., backgrounds + C, h, w), the ``backgrounds`` maps do not change.

    Not in the paper. The walk dilutes each map, so that of a small object, or of one in an
    ambiguous region, can fall below the background score.
    """
    if not share:
        return scores
    before, maps = scores[..., :backgrounds, :, :], scores[..., backgrounds:, :, :]
    peaks = maps.amax((-2, -1), keepdim=True)
    return torch.cat([before, maps / peaks.where(peaks > 0, 1) ** share], -3)


def walk_probabilities(
    probabilities: torch.Tensor, affinity: torch.Tensor, *, walk: Walk
) -> torch.Tensor:
    """Class probabilities of a segmentation network, float (classes, H, W), after a walk along the
    affinities of the same photo, float (K, ceil(H / 8), ceil(W / 8)) in [0, 1].

    Not in the paper, which ends with the segmentation network: equations 11 and 12 with
    probabilities in place of maps. It needs no image labels. Of ``walk``, ``beta``, ``steps`` and
    ``radius`` are used.
    """
    cells = probabilities[:, ::AFFINITY_STRIDE, ::AFFINITY_STRIDE]
    walked = random_walk(cells, affinity, beta=walk.beta, steps=walk.steps, radius=walk.radius)
    return upsample(walked, probabilities.shape[-2:])


def crf_scores(image: np.ndarray, scores: np.ndarray, *, walk: Walk) -> np.ndarray:
    """Refine scores, float (1 + C, H, W), of a photo, uint8 RGB (H, W, 3), by the dense CRF with
    the ``crf`` settings of ``walk``: the same shape; unchanged where ``crf_steps`` is 0.
    """
    if not walk.crf_steps:
        return scores
    return DenseCRF(image, walk.crf).infer(scores**walk.crf_sharpness, walk.crf_steps)


def synthesize(
    image: np.ndarray,
    classes: Sequence[int],
    cam_network: nn.Module,
    affinity_network: nn.Module,
    *,
    walk: Walk = Walk(),
    **maps: Any,
) -> np.ndarray:
    """Synthesize the label map of one photo, uint8 (H, W), 0 background, else class numbers: maps,
    walk, dense CRF, argmax (section 3.4).

    Args:
        image: uint8 RGB (H, W, 3).
        classes: numbers of the photo's classes, from 1.
        cam_network, affinity_network: trained networks in evaluation mode; prepare them by
            ``models.ready.ready`` for many photos.
        maps: ``scales``, ``flip`` and ``cam_power`` of ``multi_scale_cam``.
    """
    cams = multi_scale_cam(cam_network, image, classes, **maps)
    affinity = walk.affinities(affinity_network, image)
    scores = upsample(walk_scores(cams, affinity, walk=walk), image.shape[:2]).cpu().numpy()
    return label_map(crf_scores(image, scores, walk=walk), classes)
