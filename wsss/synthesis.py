"""Label synthesis: from photo and image labels to a label map, whole (``synthesize``) or stage by
stage.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from wsss.affinity import cell_means, neighbour_offsets, pair_distance, pair_slices
from wsss.cam import STRIDE as CAM_STRIDE
from wsss.cam import background_score, multi_scale_cam
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets import IGNORE
from wsss.errors import InputError
from wsss.geometry import upsample
from wsss.models.heads import AffinityNetwork
from wsss.random_walk import random_walk
from wsss.runtime.devices import as_batch, autocast

AFFINITY_STRIDE = AffinityNetwork.stride


def label_map(scores, classes):
    """Argmax of (1 + C, H, W) scores, background first, as class numbers: uint8 (H, W)."""
    return np.array([0, *classes], np.uint8)[np.asarray(scores).argmax(0)]


def labels_at(scores, classes, size):
    """Argmax of scores at another size, a class at a time.

    Args:
        scores: float (1 + C, h, w) in [0, 1], background first.
        classes: numbers of the C classes.
        size: (H, W) of the result; memory grows by seven bytes a pixel, whatever C is.

    Returns:
        uint8 (H, W), as ``label_map`` of the scores where the size is theirs.
    """
    if scores.shape[1:] == tuple(size):
        return label_map(scores, classes)
    labels = np.zeros(size, np.uint8)
    best = np.full(size, -1, np.int16)
    for number, score in zip([0, *classes], scores, strict=True):
        steps = Image.fromarray(np.rint(255 * score).astype(np.uint8))
        there = np.array(steps.resize((size[1], size[0]), Image.Resampling.BILINEAR))
        np.copyto(labels, np.uint8(number), where=there > best)
        np.maximum(best, there, out=best)
    return labels


def alpha_marginals(image, cams, alphas, *, crf=CrfParams(), crf_steps=10):
    """What the CRF makes of maps beside the background at each alpha: marginals, float32
    (len(alphas), 1 + C, H, W).

    Arguments as for ``confident_regions``.
    """
    maps = upsample(cams, image.shape[:2]).numpy()
    scores = [np.concatenate([background_score(maps, alpha)[None], maps]) for alpha in alphas]
    return DenseCRF(image, crf).infer(np.stack(scores), crf_steps)


def confident_regions(
    image,
    cams,
    classes,
    *,
    alpha_low=4.0,
    alpha_high=24.0,
    crf=CrfParams(),
    crf_steps=10,
):
    """Where the maps and the photo agree on object or background (section 3.2.2).

    Pixels that the CRF calls an object even beside the background amplified by ``alpha_low`` are
    that object; those that it calls background even beside the background weakened by
    ``alpha_high`` are background; where both or neither say so, the pixel is neutral.

    Args:
        image: uint8 RGB (H, W, 3).
        cams: float (C, h, w) in [0, 1], of the present classes.
        classes: their numbers, from 1.

    Returns:
        uint8 (H, W): 0 background, class numbers, 255 neutral.
    """
    low, high = alpha_marginals(image, cams, (alpha_low, alpha_high), crf=crf, crf_steps=crf_steps)
    return decide(low, high, classes)


def decide(low, high, classes):
    """Confident regions, uint8 (H, W), of the CRF's marginals (1 + C, H, W) at the low and at the
    high alpha.
    """
    low, high = label_map(low, classes), label_map(high, classes)
    is_object, is_background = low > 0, high == 0
    return np.where(
        is_object & ~is_background, low, np.where(is_background & ~is_object, 0, IGNORE)
    ).astype(np.uint8)


def cell_regions(low, high, classes, stride):
    """Confident regions of a grid's cells: the marginals are averaged over the ``stride`` x
    ``stride`` pixels from each cell's own on, then decided upon (as the released code does).

    Args:
        low, high: (1 + C, H, W) of any scale, as for ``decide``; zero in all of them where there is
            no photo.

    Returns:
        uint8 (ceil(H / stride), ceil(W / stride)), 255 neutral or without photo.
    """
    low, high = (cell_means(torch.as_tensor(each).float(), stride).numpy() for each in (low, high))
    return np.where(low.sum(0) > 0, decide(low, high, classes), IGNORE).astype(np.uint8)


@dataclass(frozen=True)
class Walk:
    """How maps are spread and turned into labels (section 3.4); the defaults are the paper's."""

    background_alpha: float = 16.0
    beta: float = 8.0
    steps: int = 256
    reduction: str = "mean"  # of the L1 distance over channels
    radius: int = 5
    border_pairs: bool = True  # see ``affinity.pair_distance``
    flip: bool = False  # see ``affinities``
    restore: float = 0.0  # see ``restored``
    crf: CrfParams = field(default_factory=CrfParams)
    crf_steps: int = 10  # 0 leaves the CRF out
    crf_sharpness: float = 1.0  # scores are raised to this power before the CRF

    def __post_init__(self):
        for name, least, most in (
            ("background_alpha", 0, math.inf),
            ("beta", 0, math.inf),
            ("steps", 0, 10**6),
            ("restore", 0, 1),
            ("radius", 2, 30),  # cells; with 1 there are no neighbours, with 30 some 1,400
            ("crf_steps", 0, 10**4),
            ("crf_sharpness", 0, math.inf),
        ):
            value = getattr(self, name)
            several = value if isinstance(value, tuple) else (value,)  # of steps
            if not all(least <= each <= most and math.isfinite(each) for each in several):
                limits = (
                    f"from {least} to {most:,}" if math.isfinite(most) else f"of {least} or more"
                )
                raise InputError(f"{name}: expected a number {limits} but got {value}; change it")
        if self.reduction not in ("mean", "sum"):
            raise InputError(
                f"reduction: expected mean or sum but got '{self.reduction}'; change it"
            )

    def affinities(self, affinity_network, image):
        """``affinities`` as this walk wants them."""
        return affinities(
            affinity_network,
            image,
            radius=self.radius,
            reduction=self.reduction,
            border_pairs=self.border_pairs,
            flip=self.flip,
        )


@torch.inference_mode()
def affinities(
    affinity_network, image, *, radius=5, reduction="mean", border_pairs=True, flip=False
):
    """Affinities (K, ceil(H/8), ceil(W/8)) in [0, 1] of a uint8 RGB photo (H, W, 3), on the
    network's device.

    With ``flip`` the features are the mean of the photo's and of its mirror image's, mirrored back:
    their distances are smaller, so that the walk wants a larger beta.
    """
    device = next(affinity_network.parameters()).device
    pixels = as_batch(image, device)
    with autocast(device):
        features = affinity_network(pixels.contiguous(memory_format=torch.channels_last)).float()
        if flip:
            # as many columns as reach from the first cell to the last, so that cells meet cells
            columns = AFFINITY_STRIDE * (features.shape[-1] - 1) + 1
            mirrored = pixels[..., :columns].flip(-1).contiguous(memory_format=torch.channels_last)
            features = (features + affinity_network(mirrored).float().flip(-1)) / 2
    distance = pair_distance(
        features, radius=radius, reduction=reduction, border_pairs=border_pairs
    )
    return torch.exp(-distance)[0]


def boundaries(affinity):
    """One minus the mean affinity of each cell to its neighbours: (H, W) in [0, 1] from (K, H,
    W).
    """
    height, width = affinity.shape[-2:]
    radius = next(r for r in range(1, 99) if len(neighbour_offsets(r)) == len(affinity))
    total, count = (
        affinity.new_zeros((height, width)),
        affinity.new_zeros((height, width)),
    )
    for weight, (dy, dx) in zip(affinity, neighbour_offsets(radius), strict=True):
        for cells in pair_slices(dy, dx, height, width):
            total[cells] += weight[pair_slices(dy, dx, height, width)[0]]
            count[cells] += 1
    return (1 - total / count.clamp(min=1)).cpu().numpy()


def walk_scores(cams, affinity, walk):
    """Background and class maps after the walk (equations 2, 11, 12): (1 + C, h, w) on the
    affinities' grid.
    """
    step = AFFINITY_STRIDE // CAM_STRIDE
    maps = torch.as_tensor(cams)[:, ::step, ::step].to(affinity.device)
    scores = torch.cat([background_score(maps, walk.background_alpha)[None], maps])
    walked = random_walk(scores, affinity, beta=walk.beta, steps=walk.steps, radius=walk.radius)
    return restored(walked, walk.restore)


def restored(scores, share, *, backgrounds=1):
    """Scores after a walk, with each class's map divided by its maximum to the power of ``share``:
    0 leaves it as it is, 1 brings it back to the maximum of 1 that it had before.

    Not in the paper. A walk spreads what a map holds, so the map of a small object, or of one in a
    poorly told place, sinks below a background that is large everywhere.

    Args:
        scores: float (..., backgrounds + C, h, w), the backgrounds first.
    """
    if not share:
        return scores
    before, maps = scores[..., :backgrounds, :, :], scores[..., backgrounds:, :, :]
    peaks = maps.amax((-2, -1), keepdim=True)
    return torch.cat([before, maps / peaks.where(peaks > 0, 1) ** share], -3)


def spread(network, image, probabilities):
    """What a segmentation network says of a photo, after a walk along affinities.

    Not in the paper, which ends with the segmentation network: equations 11 and 12 with class
    probabilities in place of maps. No image label goes in.

    Args:
        network: a ``WalkedNetwork``.
        image: uint8 RGB (H, W, 3).
        probabilities: float (classes, H, W), background first, of ``network.segmentation``.

    Returns:
        probabilities of the same shape.
    """
    walk = Walk(**network.walk)
    affinity = walk.affinities(network.affinity, image)
    cells = probabilities[:, ::AFFINITY_STRIDE, ::AFFINITY_STRIDE]
    walked = random_walk(cells, affinity, beta=walk.beta, steps=walk.steps, radius=walk.radius)
    return upsample(walked, image.shape[:2])


def crf_scores(image, scores, walk):
    """Scores (1 + C, H, W) after the walk's dense CRF; as they are where it is left out."""
    if not walk.crf_steps:
        return scores
    return DenseCRF(image, walk.crf).infer(scores**walk.crf_sharpness, walk.crf_steps)


def synthesize(
    image,
    classes,
    cam_network,
    affinity_network,
    *,
    scales=(1.0, 0.5, 1.5, 2.0),
    flip=True,
    power=1.0,
    walk=None,
):
    """The synthesized label map of one photo: maps, walk, dense CRF, argmax.

    Args:
        image: uint8 RGB (H, W, 3).
        classes: numbers of the classes that the photo is tagged with, from 1.
        cam_network, affinity_network: trained networks in evaluation mode; for many photos what
            ``infer.ready`` makes of them.
        scales, flip, power: of the activation maps, see ``multi_scale_cam``.
        walk: a ``Walk``; None takes the paper's.

    Returns:
        uint8 (H, W): 0 background, else class numbers.
    """
    walk = walk or Walk()
    cams = multi_scale_cam(cam_network, image, classes, scales=scales, flip=flip, power=power)
    affinity = walk.affinities(affinity_network, image)
    scores = upsample(walk_scores(cams, affinity, walk), image.shape[:2]).cpu().numpy()
    return label_map(crf_scores(image, scores, walk), classes)
