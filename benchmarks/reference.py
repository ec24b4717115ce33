"""The method's steps as their definitions have them, written out plainly and without a thought for
speed: what the benchmarks compare the package with. Nothing else uses it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from pydensecrf import densecrf

from wsss.geometry import upsample


def pairs(height, width, radius):
    """All pairs of cells of a grid nearer than ``radius``, one of each symmetric pair: int64 (P,)
    numbers of their offset, of the one cell and of the other.
    """
    rows, columns = np.divmod(np.arange(height * width), width)
    offsets, ones, others = [], [], []
    number = 0
    for dy in range(radius):
        for dx in range(-radius + 1, radius):
            if dy * dy + dx * dx >= radius * radius or (dy == 0 and dx <= 0):
                continue
            inside = (rows + dy < height) & (columns + dx >= 0) & (columns + dx < width)
            one = np.flatnonzero(inside)
            offsets.append(np.full(len(one), number))
            ones.append(one)
            others.append(one + dy * width + dx)
            number += 1
    return tuple(torch.from_numpy(np.concatenate(each)) for each in (offsets, ones, others))


def pair_distance(features, ones, others):
    """Mean L1 distance of gathered pairs (equation 3): (B, P) of features (B, C, H, W)."""
    cells = features.flatten(2)  # (B, C, H * W)
    return (cells[:, :, ones] - cells[:, :, others]).abs().mean(1)


def pair_masks(labels, ones, others):
    """What a loader says of one sample's pairs (equations 5 and 6): float32 (P,) masks of object
    pairs, background pairs and different pairs, from its labels (H, W).
    """
    one, other = labels.flatten()[ones], labels.flatten()[others]
    known = (one != 255) & (other != 255)
    equal = one == other
    kinds = (known & equal & (one != 0), known & equal & (one == 0), known & ~equal)
    return tuple(kind.astype(np.float32) for kind in kinds)


def affinity_loss(distance, object_pairs, background_pairs, different):
    """Equations 7 to 10 for distances and masks (B, P)."""
    affinity = torch.exp(-distance)

    def mean(costs, mask):
        return (costs * mask).sum() / mask.sum()

    foreground = mean(-torch.log(affinity), object_pairs)
    background = mean(-torch.log(affinity), background_pairs)
    negative = mean(-torch.log(1 - affinity), different)
    return foreground + background + 2 * negative


def transition(affinity, radius, beta):
    """``T`` of equation 11, dense (N, N), from affinities (K, H, W)."""
    _, height, width = affinity.shape
    offsets, ones, others = pairs(height, width, radius)
    matrix = torch.eye(height * width)
    matrix[ones, others] = matrix[others, ones] = affinity.flatten(1)[offsets, ones] ** beta
    return matrix / matrix.sum(1, keepdim=True)


def random_walk(scores, affinity, *, radius=5, beta=8, doublings=8):
    """``T^t`` with t = 2^doublings applied to maps (C, H, W): the dense matrix squared so often."""
    matrix = transition(affinity, radius, beta)
    for _ in range(doublings):
        matrix = matrix @ matrix
    return (matrix @ scores.flatten(1).T).T.reshape(scores.shape)


def step_by_step(scores, affinity, *, radius=5, beta=8, steps=256):
    """``T^t`` applied to maps (C, H, W) as t products with a sparse float64 matrix, for grids whose
    dense matrix fits no memory.
    """
    from scipy import sparse

    _, height, width = affinity.shape
    offsets, ones, others = (each.numpy() for each in pairs(height, width, radius))
    weights = affinity.flatten(1).double().numpy()[offsets, ones] ** beta
    size = height * width
    half = sparse.coo_array((weights, (ones, others)), (size, size)).tocsr()
    matrix = half + half.T + sparse.eye_array(size, format="csr")
    matrix = sparse.diags_array(1 / matrix.sum(1)) @ matrix
    columns = scores.flatten(1).double().numpy().T
    for _ in range(steps):
        columns = matrix @ columns
    return torch.from_numpy(columns.T.copy()).reshape(scores.shape)


def crf(image, scores, *, steps=10):
    """Marginals (C, H, W) of a dense CRF of its own, with the defaults of the original code."""
    classes, height, width = scores.shape
    model = densecrf.DenseCRF2D(width, height, classes)
    model.setUnaryEnergy(-np.log(np.maximum(scores, 1e-5)).reshape(classes, -1))
    model.addPairwiseGaussian(sxy=3, compat=3)
    model.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image.copy(), compat=10)
    return np.array(model.inference(steps)).reshape(scores.shape)


def confusion(prediction, target, classes):
    """Counts of (target, prediction), class by class, of pixels whose target is not 255."""
    counts = np.zeros((classes, classes), np.int64)
    for true in range(classes):
        for predicted in range(classes):
            counts[true, predicted] = ((target == true) & (prediction == predicted)).sum()
    return counts


@torch.inference_mode()
def cam(network, image, classes, *, scales, flip):
    """Activation maps of one photo, one size and one orientation at a time, in float32, over all
    classes and at the photo's full size: (C, H, W), each map's maximum 1.
    """
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    size = pixels.shape[-2:]
    total = torch.zeros(1)
    for scale in scales:
        target = [max(1, round(length * scale)) for length in size]
        scaled = F.interpolate(pixels, target, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True) if flip else (False,):
            maps = network.maps(scaled.flip(-1) if mirrored else scaled).clamp(min=0)
            maps = upsample(maps, target)  # where cells lie is the package's
            maps = maps.flip(-1) if mirrored else maps
            total = total + F.interpolate(maps, size, mode="bilinear", antialias=scale > 1)[0]
    maps = total[[number - 1 for number in classes]]
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
